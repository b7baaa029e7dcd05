"""What an audit reads of Postgres: every table at one moment, and the few values it looks at again."""

from collections.abc import Callable, Iterable
from sys import intern
from typing import Any, TypeVar

import asyncpg

from stock_ledger.audit.command_facts import HoldRow, RefundRow, SourceOpenRow, SourceRequestRow
from stock_ledger.audit.decode_commands import command_row, gathering_row
from stock_ledger.audit.facts import (
    DecisionRow,
    FigureRow,
    ItemRow,
    LedgerRow,
    OrderRow,
    PaymentRow,
    PostgresFacts,
    ProductRow,
    PurchaseRow,
    StockRow,
)
from stock_ledger.audit.history import History, LogHistory, StockHistory
from stock_ledger.batch import Product
from stock_ledger.pool import acquired
from stock_ledger.postgres import product_of
from stock_ledger.retention import AUDITING

_CHUNK_ROWS = 10_000
_RETENTION_S = 3600.0  # for how long a retention may hold up an audit

# Partitions that are about to be dropped: what they came to is kept already.
GOING = "SELECT to_regclass(name)::oid FROM history, unnest(leaves) AS l (name) WHERE dropped_at IS NULL"

# Columns in the order of the facts' fields; ids as text, moments as Unix milliseconds rounded down.
DECISIONS = """
SELECT partition, "offset", kind, checkout_id::text, buyer_id, product_id, quantity, payload_hash, line, reason, detail,
       order_id::text, first_offset, floor(extract(epoch FROM decided_at) * 1000)::bigint, whole
FROM decisions WHERE tableoid <> ALL($1::oid[]) ORDER BY partition, "offset"
"""
ORDERS = """
SELECT order_id::text, checkout_id::text, buyer_id, status, total, currency, sequence
FROM orders WHERE tableoid <> ALL($1::oid[])
"""
ITEMS = """
SELECT order_id::text, line, product_id, price, quantity, counted FROM order_items WHERE tableoid <> ALL($1::oid[])
"""
PAYMENTS = """
SELECT order_id::text, amount, currency, status, reference, floor(extract(epoch FROM expires_at) * 1000)::bigint
FROM payments WHERE tableoid <> ALL($1::oid[])
"""
LEDGER = """
SELECT product_id, seq, delta, available, kind, partition, "offset", order_id::text,
       CASE WHEN kind = 'initial' THEN floor(extract(epoch FROM at) * 1000)::bigint END
FROM ledger
WHERE tableoid <> ALL($1::oid[]) ORDER BY product_id, seq
"""
STOCK = "SELECT product_id, partition, available, seq, held, pending, paid FROM stock"
PRODUCTS = """
SELECT product_id, buyer_limit, version, slices, price, sale_price, currency, on_shelf, sale_from, sale_to,
       stock_source FROM products
"""
CATALOGUE = "SELECT * FROM products"
SLICES = """
SELECT product_id, CASE WHEN slices_open AND position('~' in product_id) = 0 THEN slices ELSE 1 END AS slices FROM products
"""
PURCHASES = "SELECT product_id, buyer_id, quantity FROM purchases"
FIGURES = "SELECT partition, product_id, outcome, currency, lines, units, amount FROM figures"
STATES = "SELECT partition, epoch, next_offset FROM partition_state"
NEXT_COMMANDS = "SELECT partition, next_command FROM partition_state"
READ_AT = "SELECT floor(extract(epoch FROM now()) * 1000)::bigint"
COMMANDS = """
SELECT partition, "offset", command_id::text, action, subject, actor, outcome, reason, detail, first_offset,
       floor(extract(epoch FROM decided_at) * 1000)::bigint, document, told
FROM commands WHERE tableoid <> ALL($1::oid[]) ORDER BY partition, "offset"
"""
HOLDS = "SELECT checkout_id::text, product_id, buyer_id, quantity, state, counted, order_id::text FROM holds"
GATHERINGS = """
SELECT checkout_id::text, partition, state, floor(extract(epoch FROM deadline) * 1000)::bigint, answers, order_id::text,
       floor(extract(epoch FROM decided_at) * 1000)::bigint, decided_offset
FROM gatherings
"""
REFUNDS = "SELECT order_id::text, reference, provider, refunded FROM refunds"
SOURCE_REQUESTS = "SELECT partition, next_offset, product_id, batch, units FROM stock_source_requests"
SOURCE_OPEN = "SELECT kind, product_id, cause, units, sold FROM stock_source_open"
FLOOR = "SELECT coalesce(floor(extract(epoch FROM max(until)) * 1000)::bigint, 0) FROM history"
STOCK_HISTORY = """
SELECT product_id, sum(entries)::bigint, max(last_seq), (array_agg(available ORDER BY last_seq DESC))[1],
       sum(given)::bigint, sum(taken)::bigint, sum(returned)::bigint, sum(paid)::bigint, sum(counted)::bigint
FROM history_stock GROUP BY product_id
"""
LOG_HISTORY = """
SELECT partition, sum(decisions)::bigint, coalesce(max(last_offset) + 1, 0), sum(commands)::bigint,
       coalesce(max(last_command) + 1, 0)
FROM history_log GROUP BY partition
"""
PSEUDONYMS = "SELECT pseudonym FROM erasures"
FIGURE_STATES = "SELECT partition, next_offset FROM figure_state"

Row = TypeVar("Row")


async def snapshot(pool: "asyncpg.Pool[Any]") -> PostgresFacts:
    """All tables as one repeatable-read transaction sees them. Raises Unavailable if Postgres does not answer."""
    async with acquired(pool) as connection:
        # A lock of the session: in the transaction, it would come after the snapshot.
        await connection.execute("SELECT pg_advisory_lock_shared($1)", AUDITING, timeout=_RETENTION_S)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await _read(connection)
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock_shared($1)", AUDITING)


async def _read(connection: Any) -> PostgresFacts:
    going = [oid for (oid,) in await connection.fetch(GOING) if oid is not None]

    async def rows(make: Callable[[Iterable[Any]], Row], query: str) -> list[Row]:
        cursor = await connection.cursor(query, *([going] if "$1" in query else []))
        made: list[Row] = []
        while chunk := await cursor.fetch(_CHUNK_ROWS):
            made += [make([intern(v) if type(v) is str else v for v in record]) for record in chunk]
        return made

    return PostgresFacts(
        states=await _states(connection),
        decisions=await rows(DecisionRow._make, DECISIONS),
        orders=await rows(OrderRow._make, ORDERS),
        items=await rows(ItemRow._make, ITEMS),
        payments=await rows(PaymentRow._make, PAYMENTS),
        ledger=await rows(LedgerRow._make, LEDGER),
        stock=await rows(StockRow._make, STOCK),
        products=await rows(ProductRow._make, PRODUCTS),
        purchases=await rows(PurchaseRow._make, PURCHASES),
        figure_states=dict(await connection.fetch(FIGURE_STATES)),
        figures=await rows(FigureRow._make, FIGURES),
        next_commands=dict(await connection.fetch(NEXT_COMMANDS)),
        read_at_ms=await connection.fetchval(READ_AT),
        commands=await rows(command_row, COMMANDS),
        holds=await rows(HoldRow._make, HOLDS),
        gatherings=await rows(gathering_row, GATHERINGS),
        refunds=await rows(RefundRow._make, REFUNDS),
        source_requests=await rows(SourceRequestRow._make, SOURCE_REQUESTS),
        source_open=await rows(SourceOpenRow._make, SOURCE_OPEN),
        history=await _history(connection),
    )


async def _history(connection: Any) -> History:
    stock = [StockHistory._make(row) for row in await connection.fetch(STOCK_HISTORY)]
    return History(
        floor_ms=await connection.fetchval(FLOOR),
        stock={row.product_id: row for row in stock},
        logs={p: LogHistory(*counts) for p, *counts in await connection.fetch(LOG_HISTORY)},
        pseudonyms=frozenset(name for (name,) in await connection.fetch(PSEUDONYMS)),
    )


async def states_now(pool: "asyncpg.Pool[Any]") -> dict[int, tuple[int, int]]:
    """(epoch, next_offset) by partition, as they are now."""
    async with acquired(pool) as connection:
        return await _states(connection)


async def next_commands_now(pool: "asyncpg.Pool[Any]") -> dict[int, int]:
    """The next offset to decide of the commands topic, by partition, as it is now."""
    async with acquired(pool) as connection:
        return dict(await connection.fetch(NEXT_COMMANDS))


async def stock_now(pool: "asyncpg.Pool[Any]") -> dict[str, StockRow]:
    """The stock totals as they are now, by product."""
    async with acquired(pool) as connection:
        return {row["product_id"]: StockRow._make(row) for row in await connection.fetch(STOCK)}


async def products_now(pool: "asyncpg.Pool[Any]") -> dict[str, Product]:
    """The catalogue as it is now, by stock id."""
    async with acquired(pool) as connection:
        return {row["product_id"]: product_of(row) for row in await connection.fetch(CATALOGUE)}


async def slices_now(pool: "asyncpg.Pool[Any]") -> dict[str, int]:
    """How many slices the view is to tell of each stock id, as it is now: of those that sell, with the first one."""
    async with acquired(pool) as connection:
        return dict(await connection.fetch(SLICES))


async def _states(connection: Any) -> dict[int, tuple[int, int]]:
    return {p: (epoch, next_offset) for p, epoch, next_offset in await connection.fetch(STATES)}
