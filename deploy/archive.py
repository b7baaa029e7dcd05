"""Rows of a period as files: gzipped CSV with a manifest, complete and verified, or not there."""

import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any

import msgspec
import orjson

from contracts.errors import Invalid

MANIFEST = "manifest.json"


class Entry(msgspec.Struct, frozen=True):
    """A file of rows. `content_sha256` is of the CSV, `sha256` of the file."""

    file: str
    rows: int
    bytes: int
    sha256: str
    content_sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What an archive holds, by table. `since` is empty for what begins with the first row there was."""

    database: str
    since: str
    until: str
    revision: str
    tables: dict[str, Entry]


async def write_table(
    connection: Any, folder: Path, table: str, query: str, *arguments: Any, instead_of: str = ""
) -> Entry:
    """Write the rows of a query to a file of the folder; verified by reading it back before it has its name.

    With `instead_of`, the file that is to be replaced, it gets another name: both are there until the manifest says
    which. Raises Invalid if what is read is not what was written.
    """
    name = f"{table}.csv.gz"
    if instead_of:
        name = (
            f"{table}.1.csv.gz"
            if instead_of == name
            else f"{table}.{int(instead_of.split('.')[1]) + 1}.csv.gz"
        )
    file = folder / name
    part = file.with_name(f"{file.name}.part")
    content = hashlib.sha256()
    pack = zlib.compressobj(6, zlib.DEFLATED, 31)
    with part.open("wb") as out:

        async def take(chunk: bytes) -> None:
            content.update(chunk)
            out.write(pack.compress(chunk))

        status = await connection.copy_from_query(query, *arguments, output=take, format="csv", header=True)
        out.write(pack.flush())
        out.flush()
        os.fsync(out.fileno())
    entry = Entry(file.name, int(status.split()[1]), part.stat().st_size, _sha256(part), content.hexdigest())
    if _content_sha256(part) != entry.content_sha256:
        raise Invalid(f"{part} does not read as it was written; look at the disk")
    part.replace(file)
    return entry


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Last of all: with it the archive is complete."""
    part = folder / f"{MANIFEST}.part"
    with part.open("wb") as out:
        out.write(orjson.dumps(msgspec.to_builtins(manifest), option=orjson.OPT_INDENT_2))
        out.flush()
        os.fsync(out.fileno())
    part.replace(folder / MANIFEST)
    _sync_folder(folder)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest, None if there is none. Raises Invalid if it is not readable."""
    file = folder / MANIFEST
    try:
        return msgspec.json.decode(file.read_bytes(), type=Manifest)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise Invalid(f"{file}: {error}") from error


def check(folder: Path, manifest: Manifest) -> None:
    """Raises Invalid unless every file is there as the manifest says."""
    for table, entry in manifest.tables.items():
        file = folder / entry.file
        try:
            same = _sha256(file) == entry.sha256 and _content_sha256(file) == entry.content_sha256
        except (OSError, EOFError, zlib.error) as error:
            raise Invalid(f"{file}: {error}") from error
        if not same:
            raise Invalid(f"{file} of table {table} is not as {MANIFEST} says")


async def content_of(connection: Any, query: str, *arguments: Any) -> str:
    """What `content_sha256` would be of the query's rows as they are now."""
    content = hashlib.sha256()

    async def take(chunk: bytes) -> None:
        content.update(chunk)

    await connection.copy_from_query(query, *arguments, output=take, format="csv", header=True)
    return content.hexdigest()


async def read_table(connection: Any, file: Path, into: str) -> int:
    """Put a file's rows into a table, which may have columns that the file has not; returns how many rows.

    Raises Invalid if the file cannot be read.
    """
    try:
        with gzip.open(file) as opened:
            columns = opened.readline().decode().strip().split(",")
            status: str = await connection.copy_to_table(into, source=opened, columns=columns, format="csv")
    except (OSError, EOFError, zlib.error) as error:
        raise Invalid(f"{file}: {error}") from error
    return int(status.split()[1])


def folders(root: str) -> list[Path]:
    """The complete archives in a folder, the oldest first; none if there is no such folder."""
    return sorted(found.parent for found in Path(root).glob(f"until-*/{MANIFEST}")) if root else []


def sweep(folder: Path) -> None:
    """Remove files of rows that the manifest does not name: they were replaced."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    named = {entry.file for entry in manifest.tables.values()}
    for file in (*folder.glob("*.csv.gz"), *folder.glob("*.csv.gz.part")):
        if file.name not in named:
            file.unlink()
    _sync_folder(folder)


def make_folder(root: Path, name: str) -> Path:
    """The folder of an archive. Raises Invalid if it cannot be made."""
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sync_folder(root)
    except OSError as error:
        raise Invalid(f"SLUICEWAY_ARCHIVE_DIR: {error}") from error
    return folder


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _content_sha256(file: Path) -> str:
    with gzip.open(file) as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
