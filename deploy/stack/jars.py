"""Kafka's jars: resolved once per machine, kept in the cache folder, checked before every use."""

import fcntl
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.stack.process import StackError

KAFKA_VERSION = "4.4.0"
COORDINATES = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",  # without it Kafka logs nothing at all
)
FETCH_TIMEOUT_S = 600.0
_PROGRAM = Path(__file__).resolve().with_name("fetch_jars.py")
_PREFIX = "fetching-"


def cache_dir() -> Path:
    """Where downloads are kept: SLUICEWAY_CACHE_DIR, else ~/.cache/sluiceway."""
    return Path(os.environ.get("SLUICEWAY_CACHE_DIR") or Path.home() / ".cache" / "sluiceway").absolute()


def jars_dir() -> Path:
    """The folder of this Kafka version in the cache; it may not exist yet."""
    return cache_dir() / f"kafka-{KAFKA_VERSION}"


def stored_classpath() -> list[Path] | None:
    """The jars of the stored list in their order; None if one is missing or has another size than recorded."""
    folder = jars_dir()
    try:
        stored = json.loads((folder / "classpath.json").read_text())
        if stored["coordinates"] != list(COORDINATES):
            return None
        sizes = {folder / "libs" / str(name): int(size) for name, size in stored["jars"].items()}
        whole = all(path.stat().st_size == size for path, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return list(sizes) if whole and sizes else None


@contextmanager
def locked(wait: Callable[[float], None]) -> Iterator[None]:
    """Hold the cache folder alone, so that two stacks do not fetch the same. `wait(seconds)` may raise to give up."""
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise StackError(
            f"The cache folder {folder} cannot be used ({error}): set SLUICEWAY_CACHE_DIR"
        ) from error
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                wait(0.1)
        yield


def fetch(run: Callable[[list[str], Path], None], say: Callable[[str], None]) -> list[Path]:
    """Resolve the jars into the cache and return them. To be called with the cache locked.

    `run(argv, log_path)` runs a program to its end and raises if it fails. Nothing half done stays in the cache.
    """
    if importlib.util.find_spec("jgo") is None:
        raise StackError("Kafka's jars cannot be fetched: install sluiceway[local], or set a Kafka URL")
    say(f"Fetching Kafka {KAFKA_VERSION} (about 45 MB, once) into {cache_dir()}")
    for old in cache_dir().glob(_PREFIX + "*"):
        shutil.rmtree(old, ignore_errors=True)  # of a fetch that was killed: the lock is ours
    fresh = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=cache_dir()))
    try:
        log_path = cache_dir() / "fetch.log"
        run([sys.executable, "-P", str(_PROGRAM), str(fresh), *COORDINATES], log_path)
        found = sorted((fresh / "libs").glob("*.jar"))
        listing = {"coordinates": list(COORDINATES), "jars": {jar.name: jar.stat().st_size for jar in found}}
        (fresh / "classpath.json").write_text(json.dumps(listing, indent=1) + "\n")
        fresh.chmod(0o755)
        if jars_dir().exists():
            jars_dir().rename(cache_dir() / f"{_PREFIX}replaced-{fresh.name}")
        fresh.rename(jars_dir())
    finally:
        for rest in cache_dir().glob(_PREFIX + "*"):
            shutil.rmtree(rest, ignore_errors=True)
    stored = stored_classpath()
    if stored is None:
        raise StackError(f"Kafka's jars in {jars_dir()} do not stay as written: is the disk full?")
    return stored
