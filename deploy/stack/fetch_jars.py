"""Resolves Kafka's jars into a folder. A program of its own, so that it can be interrupted at any moment.

`python -P fetch_jars.py FOLDER COORDINATE...` leaves the jars in FOLDER/libs. Where there is a `mvn` it does the
resolving, with the settings and the local repository it has; else, or if that fails, jgo's own resolver does.
"""

import logging
import shutil
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jgo.maven import MavenContext, MvnResolver, PythonResolver
from jgo.parse import Coordinate

_SCOPES = ("compile", "runtime")
_THREADS = 8


class _Mismatches(logging.Handler):
    """Collects the checksum mismatches that jgo only warns of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "mismatch" in record.getMessage().lower():
            self.found.append(record.getMessage())


def _resolve(context: Any, coordinates: Sequence[str]) -> list[Path]:
    """The paths of all jars needed at run time.

    Each coordinate is resolved for itself, else the versions one manages would be forced on the others.
    Of an artifact that several need the first one's version is taken.
    """
    needed: dict[tuple[str, str], Any] = {}
    for coordinate in coordinates:
        group, name, version = coordinate.split(":")
        wanted = context.create_dependency(Coordinate(group, name, version, scope="compile"))
        inputs, others = context.resolver.resolve([wanted])
        for dependency in (*inputs, *others):
            if dependency.scope in _SCOPES:
                artifact = dependency.artifact
                needed.setdefault((artifact.groupId, artifact.artifactId), artifact)
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda artifact: artifact.resolve(), needed.values()))


def fetch(folder: Path, coordinates: Sequence[str]) -> int:
    """Put the jars into `folder`/libs; returns how many. Raises what the resolver raises, ValueError for a bad jar."""
    mismatches = _Mismatches()
    logging.getLogger("jgo").addHandler(mismatches)
    mvn = shutil.which("mvn")
    jars: list[Path] = []
    if mvn is not None:
        try:
            jars = _resolve(MavenContext(resolver=MvnResolver(Path(mvn))), coordinates)
        except (RuntimeError, OSError, AssertionError) as error:
            print(f"mvn did not do, going on without it: {error}", flush=True)  # noqa: T201
    if not jars:
        jars = _resolve(
            MavenContext(resolver=PythonResolver(), repo_cache=folder / "repository"), coordinates
        )
    if mismatches.found:
        raise ValueError("; ".join(mismatches.found))
    libs = folder / "libs"
    libs.mkdir(parents=True)
    for jar in jars:
        if not zipfile.is_zipfile(jar):
            raise ValueError(f"{jar} is not a whole jar")
        shutil.copyfile(jar, libs / jar.name)
    shutil.rmtree(folder / "repository", ignore_errors=True)
    return len(jars)


if __name__ == "__main__":
    print(fetch(Path(sys.argv[1]), sys.argv[2:]), "jars")  # noqa: T201
