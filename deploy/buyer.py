"""A buyer's data: given out as one document, and erased everywhere it is kept: Postgres, archives, the cache."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import Invalid
from contracts.keys import Keys
from contracts.settings import Settings
from deploy import archive
from deploy.retention import connected
from stock_ledger import buyer_data, retention
from stock_ledger.buyer_data import BuyerRows
from stock_ledger.redis_view import connect_redis, translated

_KEYS_MAX = 500


class Erased(msgspec.Struct):
    """What was replaced or removed: rows by table, rows of archives, keys of the cache. Without a pseudonym nothing was
    stored.
    """

    pseudonym: str = ""
    rows: dict[str, int] = {}
    archived: dict[str, int] = {}
    cache_keys: int = 0


async def export(settings: Settings, buyer_id: str, now: datetime) -> dict[str, Any]:
    """Everything stored of the buyer. Raises Unavailable, or Invalid if an archive cannot be read."""
    async with _alone(settings) as connection:
        document: dict[str, Any] = {"buyer_id": buyer_id, "exported_at": now}
        ids = await _all_ids(connection, settings, buyer_id)
        async with connection.transaction(isolation="repeatable_read"):
            found = await buyer_data.find(connection, buyer_id, elsewhere=ids)
        document |= buyer_data.document_of(found.rows)
        document["archived"] = {}
        for folder in archive.folders(settings.archive_dir):
            async with _loaded(connection, folder) as names:
                archived = await buyer_data.find(connection, buyer_id, names, ids)
            if archived.counts():
                document["archived"][folder.name] = buyer_data.document_of(archived.rows)
        return document


async def erase(settings: Settings, buyer_id: str, *, force: bool = False) -> Erased:
    """Replace the buyer by a pseudonym that leads nowhere. Once more changes nothing, or takes what came since.

    First the cache, then all of Postgres in one transaction, then the archives: stopped anywhere, it can be run again.
    Raises Invalid, and nothing is changed, while orders or lines of the buyer are open, unless `force`.
    """
    async with _alone(settings) as connection:
        await _refuse_open(connection, buyer_id, force=force)
        erased = Erased()
        pseudonym = f"erased-{uuid.uuid4().hex}"
        ids = await _all_ids(connection, settings, buyer_id)
        found = await buyer_data.find(connection, buyer_id, elsewhere=ids)
        erased.cache_keys = await _forget(settings, found)
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '10s'")
            await _refuse_open(connection, buyer_id, force=force)
            found = await buyer_data.find(connection, buyer_id, elsewhere=ids)
            erased.rows = found.counts()
            if erased.rows:
                await buyer_data.replace(connection, buyer_id, pseudonym, found)
        # The newest first: what was told later is found by the ids of earlier orders.
        for folder in reversed(archive.folders(settings.archive_dir)):
            async with _loaded(connection, folder) as names:
                archived = await buyer_data.find(connection, buyer_id, names, ids)
                count = await _erase_archived(connection, folder, names, archived, (buyer_id, pseudonym))
            if count:
                erased.archived[folder.name] = count
        if erased.rows or erased.archived:
            erased.pseudonym = pseudonym
        return erased


async def _refuse_open(connection: Any, buyer_id: str, *, force: bool) -> None:
    if force:
        return
    if rows := await connection.fetch(buyer_data.OPEN, buyer_id):
        some = "; ".join(row[0] for row in rows[:5])
        raise Invalid(
            f"{len(rows)} orders, holds and lines of {buyer_id} have not ended: {some}. What is still to be decided, paid, delivered or "
            "paid back needs the buyer's data: let them end, or close the orders; --force erases all the same"
        )


@asynccontextmanager
async def _alone(settings: Settings) -> AsyncIterator[Any]:
    """A connection, while no retention moves rows between tables and archives."""
    async with connected(settings) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", retention.RETAINING):
            raise Invalid("a retention, or another erasure, is at work on this database; let it end")
        if await connection.fetch(retention.BEGUN):
            raise Invalid("a retention was interrupted; run `sluiceway retention` first, it goes on")
        yield connection


@asynccontextmanager
async def _loaded(connection: Any, folder: Path) -> AsyncIterator[dict[str, str]]:
    """The archive's tables, read back into temporary ones; their names by table."""
    manifest = archive.read_manifest(folder)
    names = {table: f"archived_{table}" for table in buyer_data.TABLES}
    if manifest is None:
        raise Invalid(f"{folder} has no manifest")
    archive.check(folder, manifest)
    try:
        for table, name in names.items():
            await connection.execute(f"CREATE TEMPORARY TABLE {name} (LIKE {table} INCLUDING DEFAULTS)")
            await archive.read_table(connection, folder / manifest.tables[table].file, name)
        yield names
    finally:
        if not connection.is_closed():
            for name in names.values():
                await connection.execute(f"DROP TABLE IF EXISTS {name}")


async def _all_ids(connection: Any, settings: Settings, buyer_id: str) -> list[str]:
    """Of the buyer's orders and checkouts, wherever they are kept."""
    ids = set((await buyer_data.find(connection, buyer_id)).ids())
    for folder in archive.folders(settings.archive_dir):
        async with _loaded(connection, folder) as names:
            ids.update((await buyer_data.find(connection, buyer_id, names)).ids())
    return sorted(ids)


async def _erase_archived(
    connection: Any, folder: Path, names: dict[str, str], found: BuyerRows, who: tuple[str, str]
) -> int:
    """Write the archive's files that hold something of the buyer anew; returns how many rows that were."""
    manifest = archive.read_manifest(folder)
    counts = found.counts()
    if manifest is None or not counts:
        archive.sweep(folder)
        return 0
    await buyer_data.replace(connection, *who, found, names)
    # Rows of items, payments and refunds are of the buyer's orders, and name nobody.
    changed = [table for table in counts if table not in ("order_items", "payments", "refunds")]
    entries = dict(manifest.tables)
    for table in changed:
        query = f"SELECT * FROM {names[table]} ORDER BY {retention.ORDER_BY[table]}"  # noqa: S608 - own names
        entries[table] = await archive.write_table(
            connection, folder, table, query, instead_of=entries[table].file
        )
    archive.write_manifest(folder, msgspec.structs.replace(manifest, tables=entries))
    archive.sweep(folder)
    return sum(counts[table] for table in changed)


async def _forget(settings: Settings, found: BuyerRows) -> int:
    """Remove what the cache shows of the buyer's checkouts. Polls read Postgres then."""
    keys = Keys(settings.cache_prefix)
    names = [name for c in found.checkouts() for name in (keys.result(c), keys.payload(c))]
    redis, removed = connect_redis(settings), 0
    try:
        for start in range(0, len(names), _KEYS_MAX):
            async with translated():
                removed += int(await redis.delete(*names[start : start + _KEYS_MAX]))
    finally:
        await redis.aclose()
    return removed
