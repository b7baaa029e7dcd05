"""Retention: cuts partitions ahead, archives what is old, and drops it. It may be stopped and started again anywhere."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from contracts.errors import Invalid
from contracts.settings import Settings
from deploy import archive
from stock_ledger import partitions, retention
from stock_ledger.partitions import SESSION, Leaf
from stock_ledger.pool import translated
from stock_ledger.retention import Period
from stock_ledger.schema import newest_revision


class Retained(msgspec.Struct):
    """What was done, or with `dry_run` what would be: a line for each thing."""

    dry_run: bool
    cut: list[str] = msgspec.field(default_factory=list)
    dropped: list[str] = msgspec.field(default_factory=list)
    kept: list[str] = msgspec.field(default_factory=list)


async def retain(settings: Settings, now: datetime, *, dry_run: bool = False) -> Retained:
    """Bring the partitions to what the policies say. Writers go on meanwhile.

    Raises Unavailable if Postgres does not answer, Invalid if an archive is not what it should be or another retention
    is at work. Whatever was raised: nothing is dropped that is not in a verified archive, and the next run goes on.
    """
    async with connected(settings) as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", retention.RETAINING):
            raise Invalid("another retention is at work on this database; let it end")
        done = Retained(dry_run)
        work = Retention(connection, settings, done)
        await work.resume()
        await work.cut_ahead(now)
        await work.drop_old(now)
        return done


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Any]:
    """A connection whose statements may last. Raises Unavailable, and SettingsError for what is not there."""
    with translated():
        connection = await asyncpg.connect(
            settings.postgres_url, server_settings=SESSION, timeout=settings.postgres_timeout_s
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=settings.postgres_timeout_s)


class Retention:
    """The steps. Each leaves the database such that the next run can go on from it."""

    def __init__(self, connection: Any, settings: Settings, done: Retained) -> None:
        self._connection = connection
        self._settings = settings
        self._done = done

    async def cut_ahead(self, now: datetime) -> None:
        """Cut the newest partitions, all tables at the same places."""
        found = await partitions.leaves(self._connection)
        newest = {table: partitions.newest_of(found, table) for table in partitions.KEYS}
        reached = max(leaf.since for leaf in newest.values() if leaf.since is not None)
        for table, leaf in newest.items():
            # A table that an interrupted run left behind first comes to where the others are.
            behind = [reached] if leaf.since is None or leaf.since < reached else []
            for at in (*behind, *partitions.cuts(reached, now, self._settings.partition_days)):
                self._done.cut.append(f"{table} at {at:%Y-%m-%d}")
                if not self._done.dry_run:
                    current = partitions.newest_of(await partitions.leaves(self._connection), table)
                    await partitions.cut(self._connection, current, at)

    async def drop_old(self, now: datetime) -> None:
        """Archive and drop the periods that are due and have ended in every way."""
        found = retention.periods(await partitions.leaves(self._connection))
        gone = {row["until"] for row in await self._connection.fetch(retention.ALL)}
        for period in retention.due(found, now, self._settings.retention_days):
            if period.name in self._done.dropped or await retention.is_empty(self._connection, period):
                continue  # told already, or it stands for what is older than anything kept
            if period.until in gone:
                self._done.kept.append(
                    f"{period.name}: rows of a clock that was far behind came after it was dropped"
                )
                continue
            count, some = await retention.open_of(self._connection, period)
            if count:
                self._done.kept.append(f"{period.name}: {count} have not ended: {'; '.join(some)}")
            elif self._done.dry_run:
                self._done.dropped.append(period.name)
            else:
                await self.archive(period)
                await self.drop(period)

    async def archive(self, period: Period) -> None:
        """Write the period's rows to files. Raises Invalid if another database's are there."""
        folder = archive.make_folder(Path(self._settings.archive_dir), period.name)
        database = await self._connection.fetchval("SELECT current_database()")
        before = archive.read_manifest(folder)
        if before is not None and before.database != database:
            raise Invalid(
                f"{folder} is an archive of the database {before.database}; give this one another folder"
            )
        entries = {}
        for table, query in retention.row_queries(period.names()).items():
            entries[table] = await archive.write_table(self._connection, folder, table, query)
        for table, query in retention.WITH_PERIOD.items():
            span = (period.since, period.until)
            entries[table] = await archive.write_table(self._connection, folder, table, query, *span)
        since = "" if period.since is None else period.since.isoformat()
        kept = archive.Manifest(database, since, period.until.isoformat(), newest_revision() or "", entries)
        archive.write_manifest(folder, kept)

    async def drop(self, period: Period) -> None:
        """From totals to gone. Audits wait meanwhile: they read either the rows or what they came to."""
        async with self._without_audits():
            # What goes along lies in tables that others write: it is deleted as it was archived, or not at all.
            async with self._connection.transaction(isolation="repeatable_read"):
                is_archived = await self.is_archived(
                    period, retention.WITH_PERIOD, period.since, period.until
                )
                if is_archived:
                    await retention.begin(self._connection, period)
            if is_archived:
                await self.let_go(period)
            else:
                self.keep_changed(period)

    async def resume(self) -> None:
        """End what an interrupted run began: detach, verify, drop."""
        for row in await self._connection.fetch(retention.BEGUN):
            folder = self._folder(row["until"])
            manifest = archive.read_manifest(folder)
            if manifest is None:
                raise Invalid(
                    f"{folder} has no manifest, and an interrupted run has begun to drop this period; "
                    "set SLUICEWAY_ARCHIVE_DIR to where its archive is"
                )
            archive.check(folder, manifest)
            if self._done.dry_run:
                self._done.dropped.append(folder.name)
                continue
            since = datetime.fromisoformat(manifest.since) if manifest.since else None
            names = dict(zip(partitions.KEYS, row["leaves"], strict=True))
            leaves = {table: Leaf(table, name, since, row["until"]) for table, name in names.items()}
            async with self._without_audits():
                await self.let_go(Period(since, row["until"], leaves))

    async def let_go(self, period: Period) -> None:
        """Detach the partitions, see that the archive holds what they hold, cover their span, drop them."""
        await self.detach(period)
        there = await retention.tables_of(self._connection, period)
        if len(there) == len(period.leaves) and not await self.verify(period):
            await self.take_back(period)
            self.keep_changed(period)
            return
        await self.cover(period)
        for name in there:
            await self._connection.execute(f"DROP TABLE {name}")
        await self._connection.execute(retention.END_DROP, period.until)
        self._done.dropped.append(period.name)

    async def detach(self, period: Period) -> None:
        attached = {leaf.name: leaf for leaf in await partitions.leaves(self._connection)}
        for leaf in period.leaves.values():
            if leaf.name in attached:
                await partitions.detach(self._connection, attached[leaf.name])

    async def verify(self, period: Period) -> bool:
        """Whether the archive has the rows as they are now that nobody can change them any more."""
        return await self.is_archived(period, retention.row_queries(period.names()))

    async def is_archived(self, period: Period, queries: Mapping[str, str], *arguments: Any) -> bool:
        """Whether the archive has what these queries, by table, find now."""
        manifest = archive.read_manifest(self._folder(period.until))
        if manifest is None:
            return False
        for table, query in queries.items():
            content = await archive.content_of(self._connection, query, *arguments)
            if content != manifest.tables[table].content_sha256:
                return False
        return True

    def keep_changed(self, period: Period) -> None:
        self._done.kept.append(f"{period.name}: changed while it was archived; the next run takes it anew")

    async def take_back(self, period: Period) -> None:
        """Put the period back as it was before it was to be dropped."""
        for leaf in period.leaves.values():
            await partitions.attach_again(self._connection, leaf)
        folder = self._folder(period.until)
        async with self._connection.transaction():
            await self._connection.execute(retention.TAKE_BACK, period.until)
            for table in retention.WITH_PERIOD:
                await archive.read_table(self._connection, folder / f"{table}.csv.gz", table)

    async def cover(self, period: Period) -> None:
        """Give rows of clocks that are far behind a place again: all of time is covered, by one empty partition before
        what is kept.
        """
        for table in partitions.KEYS:
            found = [leaf for leaf in await partitions.leaves(self._connection) if leaf.table == table]
            if any(leaf.until == period.until for leaf in found):
                continue
            since = period.since
            before = next((leaf for leaf in found if since is not None and leaf.until == since), None)
            if (
                before is not None
                and before.since is None
                and await retention.has_none(self._connection, before.name)
            ):
                await partitions.detach(self._connection, before)
                if await retention.has_none(self._connection, before.name):
                    await self._connection.execute(f"DROP TABLE {before.name}")
                    since = None
                else:
                    await partitions.attach_again(self._connection, before)
            like = partitions.newest_of(found, table).name
            await partitions.cover(self._connection, table, like, since, period.until)

    def _folder(self, until: datetime) -> Path:
        return Path(self._settings.archive_dir) / retention.folder_of(until)

    @asynccontextmanager
    async def _without_audits(self) -> AsyncIterator[None]:
        await self._connection.execute("SELECT pg_advisory_lock($1)", retention.AUDITING)
        try:
            yield
        finally:
            if not self._connection.is_closed():
                await self._connection.execute("SELECT pg_advisory_unlock($1)", retention.AUDITING)
