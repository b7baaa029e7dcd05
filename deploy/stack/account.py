"""Who Postgres runs as: it refuses root, so root's stack drops to an account without rights."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path

_CANDIDATES = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    """An existing account of this machine."""

    name: str
    uid: int
    gid: int


def unprivileged() -> Account | None:
    """The account a server that refuses root runs as; None when we are not root and nothing needs doing.

    Raises LookupError when root finds none of the usual accounts.
    """
    if os.geteuid() != 0:
        return None
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise LookupError(f"none of the accounts {', '.join(_CANDIDATES)} exists on this machine")


def may(account: Account, test: str, *paths: Path) -> bool:
    """Whether the account passes `test -<test>` for every path: asked of the system, acting as the account."""
    script = 'for path do test "$0" "$path" || exit 1; done'
    found = subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", script, f"-{test}", *map(str, paths)],
        user=account.uid,
        group=account.gid,
        extra_groups=[],
        cwd="/",
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return found.returncode == 0
