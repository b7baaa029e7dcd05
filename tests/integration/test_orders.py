"""A buyer's orders in Postgres: which are given, and how many rows are read for it."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import orjson
import pytest

from contracts.decisions import order_id_of
from contracts.settings import Settings
from contracts.times import from_ms, to_ms
from stock_ledger import sql
from stock_ledger.pool import connect_pool
from stock_ledger.reads import OrderFilter, PostgresReads
from tests.harness import NOON, uuid_of

OWN = 300
PER_DAY = 10
STATUSES = ("paid", "shipped", "completed")


@pytest.fixture
async def pool(database_settings: Settings) -> AsyncIterator["asyncpg.Pool[Any]"]:
    opened = await connect_pool(database_settings)
    try:
        yield opened
    finally:
        await opened.close()


async def fill(pool: "asyncpg.Pool[Any]", every: int) -> None:
    """Ten orders a day of one buyer, every so many of all; those of others are without their parts."""
    orders, items, payments = [], [], []
    for n in range(every * OWN):
        own, at_ms = n % every == 0, to_ms(NOON) + n * 86_400_000 // PER_DAY // every
        order_id, at = order_id_of(at_ms, n % 4, n), from_ms(at_ms)
        buyer, status = ("buyer-1" if own else f"other-{n % 997}"), STATUSES[n // every % len(STATUSES)]
        orders.append(
            (order_id, uuid_of(1), buyer, status, 2, "CNY", "Li Lei", "123", "1 Long Street", "", at)
        )
        if own:
            items += [(order_id, line, f"sku-{line}", "Kettle", "", 1, 1, False) for line in (0, 1)]
            payments.append((order_id, 2, "CNY", "wechat", "pending", at, at))
    async with pool.acquire() as connection:
        for table, columns, rows in (
            ("orders", sql.ORDER_COLUMNS, orders),
            ("order_items", sql.ITEM_COLUMNS, items),
            ("payments", sql.PAYMENT_COLUMNS, payments),
        ):
            await connection.copy_records_to_table(table, columns=columns, records=rows)
        await connection.execute("ANALYZE")


async def pages_of(reads: PostgresReads, wanted: OrderFilter, limit: int) -> list[Any]:
    """All orders of all pages."""
    orders: list[Any] = []
    while page := await reads.orders("buyer-1", wanted, limit):
        orders += page
        wanted = msgspec.structs.replace(wanted, before=page[-1].order_id)
    return orders


async def test_the_orders_that_fit_come_once_and_newest_first(pool: "asyncpg.Pool[Any]") -> None:
    await fill(pool, every=3)
    reads = PostgresReads(pool)
    whole = await pages_of(reads, OrderFilter(), 200)
    assert len({order.order_id for order in whole}) == len(whole) == OWN
    assert whole == sorted(whole, key=lambda order: order.created_at, reverse=True)
    since, until = whole[50].created_at, whole[10].created_at
    fitting = [o for o in whole[11:51] if o.status != "shipped"]
    assert await pages_of(reads, OrderFilter(("paid", "completed"), since, until), 3) == fitting
    assert [[item.line for item in order.items] for order in fitting] == [[0, 1]] * len(fitting)


async def test_only_the_buyers_own_orders_are_read(pool: "asyncpg.Pool[Any]") -> None:
    await fill(pool, every=66)
    since, until = NOON + timedelta(days=3), NOON + timedelta(days=4)
    for wanted, rows_max in (
        (OrderFilter(), 21),
        (OrderFilter(("paid",)), 3 * 21),
        (OrderFilter(("closed_by_user",)), OWN),  # none of them is
        (OrderFilter((), since, until), PER_DAY),
        (OrderFilter(("paid",), since, until), PER_DAY),
    ):
        lowest, below = wanted.id_range()
        async with pool.acquire() as connection:
            told = await connection.fetchval(
                "EXPLAIN (ANALYZE, FORMAT JSON) " + sql.ORDERS_OF_BUYER,
                "buyer-1", below, lowest, list(wanted.statuses) or None, 21,
            )  # fmt: skip
        scans = [node for node in _nodes(orjson.loads(told)[0]["Plan"]) if _reads_orders(node)]
        indexes = {scan["Index Name"] for scan in scans if "Index Name" in scan}
        assert indexes
        assert all(re.fullmatch("orders_buyer|orders_[0-9]+_buyer_id_order_id_idx", name) for name in indexes)
        assert {scan["Node Type"] for scan in scans} <= {
            "Index Scan",
            "Bitmap Heap Scan",
            "Bitmap Index Scan",
        }
        for scan in scans:
            read = scan["Actual Rows"] * scan["Actual Loops"] + scan.get("Rows Removed by Filter", 0)
            assert read <= rows_max, wanted


def _reads_orders(node: dict[str, Any]) -> bool:
    """Of the partition that has rows; an empty one is read as fast in any way."""
    return bool(
        node.get("Relation Name") == "orders_begin" or node.get("Index Name", "").startswith("orders_")
    )


def _nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(deeper for child in node.get("Plans", ()) for deeper in _nodes(child))]
