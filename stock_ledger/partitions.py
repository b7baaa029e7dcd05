"""Partitions of the tables that grow with time: what there is, and how the newest one is cut."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import asyncpg

from contracts.decisions import lowest_order_id
from contracts.errors import Unavailable
from contracts.times import from_ms

# Tables by the column whose order is that of time, in the order in which they are cut and dropped.
KEYS = {
    "orders": "order_id",
    "order_items": "order_id",
    "payments": "order_id",
    "ledger": "at",
    "commands": "decided_at",
    "decisions": "decided_at",
}

LEAVES = """
SELECT p.relname AS parent, c.relname AS name, pg_get_expr(c.relpartbound, c.oid) AS bound, i.inhdetachpending AS going
FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhparent JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = ANY($1::text[]::regclass[])
"""

# The session's settings that make bounds and archives read alike everywhere.
SESSION = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "bytea_output": "hex",
    "application_name": "sluiceway-retention",
}

_BOUND = re.compile(r"FOR VALUES FROM \((.*)\) TO \((.*)\)")
_CUT = "history_cut"  # the constraint that spares a scan under a lock
_LOCK_MS_MIN, _LOCK_MS_MAX = 50, 1000
_TRIES_MAX = 120
_PAUSE_S = 0.5
_DAY = timedelta(days=1)

T = TypeVar("T")


class Leaf(NamedTuple):
    """A partition of `table`, of what lies from `since` on and before `until`; None is the beginning, or the end, of time.

    `going`: its detaching was begun and not ended.
    """

    table: str
    name: str
    since: datetime | None
    until: datetime | None
    going: bool = False


def cuts(since: datetime | None, now: datetime, days: int) -> list[datetime]:
    """Where the newest partition, which begins at `since`, is to be cut: so that one begins a whole period ahead.

    Periods are `days` long and count from 1970, so whoever cuts does it at the same places. Where nobody cut for long,
    the first period is as long as that. None ends sooner than a day from now: no clock is that wrong.
    """
    period = timedelta(days=days)
    found: list[datetime] = []
    begins = since
    while begins is None or begins < now + period:
        after = now + _DAY if begins is None else max(begins, now + _DAY)
        begins = (
            datetime(1970, 1, 1, tzinfo=UTC)
            + ((after - datetime(1970, 1, 1, tzinfo=UTC)) // period + 1) * period
        )
        found.append(begins)
    return found


def stamp(moment: datetime) -> str:
    """A moment in a name: a day, or more exactly if it is not the beginning of one."""
    return (
        f"{moment:%Y%m%d}"
        if moment == moment.replace(hour=0, minute=0, second=0, microsecond=0)
        else f"{moment:%Y%m%d_%H%M%S_%f}"
    )


def leaf_of(table: str, name: str, bound: str, going: bool) -> Leaf:
    """A partition from the catalogue's row. Raises ValueError for a bound that is no range."""
    found = _BOUND.fullmatch(bound)
    if found is None:
        raise ValueError(f"{name}: {bound}")
    return Leaf(table, name, _moment(found[1]), _moment(found[2]), going)


def _moment(text: str) -> datetime | None:
    if text in ("MINVALUE", "MAXVALUE"):
        return None
    value = text.strip("'")
    if re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-.*", value):
        return from_ms(int(value[:8] + value[9:13], 16))
    return datetime.fromisoformat(value)


def bound(table: str, moment: datetime | None, otherwise: str) -> str:
    """A moment as the table's bound, in SQL."""
    if moment is None:
        return otherwise
    return f"'{lowest_order_id(moment) if KEYS[table] == 'order_id' else moment.isoformat()}'"


def _range(table: str, since: datetime | None, until: datetime | None) -> str:
    return f"FOR VALUES FROM ({bound(table, since, 'MINVALUE')}) TO ({bound(table, until, 'MAXVALUE')})"


async def leaves(connection: Any) -> list[Leaf]:
    """All partitions, by table and time."""
    rows = await connection.fetch(LEAVES, list(KEYS))
    found = [leaf_of(r["parent"], r["name"], r["bound"], r["going"]) for r in rows]
    first = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda leaf: (list(KEYS).index(leaf.table), leaf.since or first))


async def cut(connection: Any, leaf: Leaf, at: datetime) -> None:
    """End a partition at `at`, before which all its rows lie, and begin another there. All in one transaction: no row is
    ever without one.

    Raises Unavailable if no moment was found without others at work on the table; nothing is changed then.
    """
    table, name = leaf.table, leaf.name
    new = f"{table}_{stamp(at)}"
    await connection.execute(f"CREATE TABLE IF NOT EXISTS {new} (LIKE {name} INCLUDING ALL)")
    await connection.execute(f"ALTER TABLE {new} DROP CONSTRAINT IF EXISTS {_CUT}")
    filled = await connection.fetchval(f"SELECT EXISTS (SELECT FROM ONLY {name})")  # noqa: S608 - own names
    if filled:
        fits = f"CHECK ({KEYS[table]} < {bound(table, at, '')})"

        async def promise() -> None:
            await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {_CUT}")
            await connection.execute(f"ALTER TABLE {name} ADD CONSTRAINT {_CUT} {fits} NOT VALID")

        await patiently(connection, promise)
        await connection.execute(f"ALTER TABLE {name} VALIDATE CONSTRAINT {_CUT}")

    async def swap() -> None:
        await connection.execute(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE")
        await connection.execute(f"ALTER TABLE {table} DETACH PARTITION {name}")
        await connection.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {name} {_range(table, leaf.since, at)}"
        )
        await connection.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {new} {_range(table, at, leaf.until)}"
        )
        await connection.execute(f"ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {_CUT}")

    await patiently(connection, swap)


async def cover(connection: Any, table: str, like: str, since: datetime | None, until: datetime) -> None:
    """Make an empty partition for what is older than anything kept, so that a row of a clock far behind has a place."""
    name = f"{table}_before_{stamp(until)}"
    await connection.execute(f"CREATE TABLE IF NOT EXISTS {name} (LIKE {like} INCLUDING ALL)")

    async def attach() -> None:
        await connection.execute(f"ALTER TABLE {table} ATTACH PARTITION {name} {_range(table, since, until)}")

    await patiently(connection, attach)


async def attach_again(connection: Any, leaf: Leaf) -> None:
    """Put a detached partition back in its place."""

    async def attach() -> None:
        span = _range(leaf.table, leaf.since, leaf.until)
        await connection.execute(f"ALTER TABLE {leaf.table} ATTACH PARTITION {leaf.name} {span}")

    await patiently(connection, attach)


async def detach(connection: Any, leaf: Leaf) -> None:
    """Detach the partition while others work on the table; it waits for those that have seen it. Nothing, if it is."""
    how = "FINALIZE" if leaf.going else "CONCURRENTLY"
    await connection.execute(f"ALTER TABLE {leaf.table} DETACH PARTITION {leaf.name} {how}")


async def patiently(connection: Any, work: Callable[[], Awaitable[T]]) -> T:
    """Do the work in a transaction that waits for a lock no longer than others can bear to wait behind it.

    Again and again, a little more patient each time. Raises Unavailable when all tries were in vain.
    """
    patience_ms = _LOCK_MS_MIN
    for _ in range(_TRIES_MAX):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {patience_ms}")
                return await work()
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            patience_ms = min(patience_ms * 2, _LOCK_MS_MAX)
            await asyncio.sleep(_PAUSE_S)
    raise Unavailable("Postgres: a table was in use without a pause; run it again when less goes on")


def newest_of(found: Sequence[Leaf], table: str) -> Leaf:
    """The partition that takes what is still to come."""
    return next(leaf for leaf in found if leaf.table == table and leaf.until is None)
