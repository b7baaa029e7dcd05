"""What is open with the second stock source, for those who make it good: read, and written down when it is done."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import asyncpg

from stock_ledger.batch import OpenRow
from stock_ledger.pool import acquired, fetch
from stock_ledger.upstream.settle import MadeGood, Short
from stock_ledger.upstream.source import GiveBack, Outstanding, Reserve, Unsettled, rows_of
from stock_ledger.upstream.sql import put_open

# Requests of batches that were decided without them, after a crash: nothing of them was sold.
_ORPHANS = """
WITH orphans AS (
    DELETE FROM stock_source_requests AS r USING partition_state AS s
    WHERE r.partition = s.partition AND r.next_offset < s.next_offset RETURNING r.*)
INSERT INTO stock_source_open (kind, product_id, cause, units, sold)
SELECT 'request', product_id, batch, units, 0 FROM orphans
ON CONFLICT (kind, product_id, cause) DO NOTHING
"""
# $1 how many
_OPEN = """
SELECT kind, product_id, cause, units, sold FROM stock_source_open WHERE kind <> 'short' ORDER BY id LIMIT $1
"""
# $1 kinds, $2 products, $3 causes
_DONE = """
DELETE FROM stock_source_open AS o USING unnest($1::text[], $2::text[], $3::text[]) AS u (kind, product_id, cause)
WHERE o.kind = u.kind AND o.product_id = u.product_id AND o.cause = u.cause
"""
_LOCAL = """
SELECT product_id, available FROM products JOIN stock USING (product_id) WHERE stock_source IS NOT NULL
"""


class Open(Protocol):
    """Every method raises Unavailable if the server does not answer."""

    async def open(self, rows_max: int) -> Outstanding:
        """What is to be made good, the oldest first."""
        ...

    async def made_good(self, before: Outstanding, made: MadeGood) -> None:
        """Write down what became of it; doing so twice is doing it once."""
        ...

    async def local(self) -> Mapping[str, int]:
        """Units available here of every product that has a second source."""
        ...


class PostgresOpen:
    """See `Open`."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    async def open(self, rows_max: int) -> Outstanding:
        async with acquired(self._pool) as connection:
            await connection.execute(_ORPHANS)
            return outstanding_of(tuple(row) for row in await connection.fetch(_OPEN, rows_max))

    async def made_good(self, before: Outstanding, made: MadeGood) -> None:
        gone, new = changes(before, made)
        async with acquired(self._pool) as connection, connection.transaction():
            if gone:
                kinds, products, causes, *_ = zip(*gone, strict=True)
                await connection.execute(_DONE, kinds, products, causes)
            await put_open(connection, new)

    async def local(self) -> Mapping[str, int]:
        return {row["product_id"]: row["available"] for row in await fetch(self._pool, _LOCAL)}


def outstanding_of(rows: Iterable[OpenRow]) -> Outstanding:
    outstanding = Outstanding([], [])
    for kind, product_id, cause, units, sold in rows:
        if kind == "return":
            outstanding.give_back.append(GiveBack(product_id, cause, units))
        elif kind == "request":
            outstanding.unsettled.append(Unsettled(Reserve(product_id, cause, units), sold))
    return outstanding


def changes(before: Outstanding, made: MadeGood) -> tuple[list[OpenRow], list[OpenRow]]:
    """The rows that are done, and those that came of it."""
    was, still = rows_of(before), rows_of(made.outstanding)
    short: list[OpenRow] = [_short(one) for one in made.short]
    return [row for row in was if row not in still], [row for row in still if row not in was] + short


def _short(short: Short) -> OpenRow:
    return ("short", short.product_id, short.batch, short.units, short.units)
