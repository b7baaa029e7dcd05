"""What every store of carts must do, in memory and in Postgres."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, Protocol

import asyncpg
import pytest

from contracts.errors import Unavailable
from contracts.settings import Settings
from stock_ledger.batch import Product, Stock
from stock_ledger.buyer_fakes import MemoryCarts
from stock_ledger.carts import CartRefusal, Carts, PostgresCarts, StoredLine
from stock_ledger.pool import connect_pool
from tests.contract.adapters import memory_or
from tests.harness import NOON, insert_product, product_of

BUYER = "buyer-1"

world_settings = memory_or("postgres", "database_settings")


class World(Protocol):
    """Carts, and the hand that changes the catalogue."""

    @property
    def carts(self) -> Carts: ...

    async def put_product(self, product: Product, available: int) -> None: ...
    async def change(self, product: Product, available: int) -> None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.carts = MemoryCarts()

    async def put_product(self, product: Product, available: int) -> None:
        self.carts.catalogue[product.product_id] = (product, Stock(available, 1))

    async def change(self, product: Product, available: int) -> None:
        await self.put_product(product, available)


class PostgresWorld:
    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool
        self.carts = PostgresCarts(pool)

    async def put_product(self, product: Product, available: int) -> None:
        await insert_product(self._pool, product, available, 1, 0)

    async def change(self, product: Product, available: int) -> None:
        names = ("price", "on_shelf", "sale_price", "sale_from", "sale_to")
        columns = ", ".join(f"{name} = ${n}" for n, name in enumerate(names, 2))
        values = [getattr(product, name) for name in names]
        i = product.product_id
        await self._pool.execute(f"UPDATE products SET {columns} WHERE product_id = $1", i, *values)  # noqa: S608
        await self._pool.execute("UPDATE stock SET available = $2 WHERE product_id = $1", i, available)


@pytest.fixture
async def world(world_settings: Settings | None) -> AsyncIterator[World]:
    if world_settings is None:
        made: World = MemoryWorld()
        await _fill(made)
        yield made
        return
    pool = await connect_pool(world_settings)
    try:
        made = PostgresWorld(pool)
        await _fill(made)
        yield made
    finally:
        await pool.close()


async def _fill(world: World) -> None:
    for product_id in ("p", "q", "r"):
        await world.put_product(product_of(product_id), 5)


async def put(
    world: World,
    product_id: str,
    quantity: int = 1,
    second: int = 0,
    buyer_id: str = BUYER,
    lines_max: int = 10,
) -> StoredLine | CartRefusal:
    now = NOON + timedelta(seconds=second)
    return await world.carts.put(buyer_id, product_id, quantity, now, lines_max=lines_max)


async def held(world: World, buyer_id: str = BUYER) -> list[tuple[str, int]]:
    return [(line.product_id, line.quantity) for line in await world.carts.lines(buyer_id)]


async def test_a_line_is_added_then_changed(world: World) -> None:
    added = await put(world, "p", 2)
    assert isinstance(added, StoredLine)
    assert added.is_new
    assert (added.line.quantity, added.line.added_at, added.line.updated_at) == (2, NOON, NOON)
    await put(world, "q", second=1)
    changed = await put(world, "p", 7, second=2)
    assert isinstance(changed, StoredLine)
    assert not changed.is_new
    later = NOON + timedelta(seconds=2)
    assert (changed.line.quantity, changed.line.added_at, changed.line.updated_at) == (7, NOON, later)
    assert await world.carts.lines(BUYER) == [(await world.carts.lines(BUYER))[0], changed.line]


async def test_what_was_added_last_comes_first(world: World) -> None:
    for second, product_id in enumerate(("q", "p", "r")):
        await put(world, product_id, second=second)
    await put(world, "q", 9, second=3)
    assert await held(world) == [("r", 1), ("p", 1), ("q", 9)]
    assert await held(world, "buyer-2") == []


async def test_lines_show_the_catalogue_as_it_is(world: World) -> None:
    await put(world, "p", 2)
    await world.change(product_of("p", price=Decimal("99.50"), on_shelf=False), 0)
    line = (await world.carts.lines(BUYER))[0]
    assert (line.name, line.cover) == ("Name of p", "https://img.example/p.jpg")
    assert (line.price, line.currency, line.on_shelf, line.available) == (Decimal("99.50"), "CNY", False, 0)
    assert (line.sale_from, line.sale_to) == (None, None)
    sale = {"sale_price": Decimal(80), "sale_from": NOON, "sale_to": NOON + timedelta(hours=1)}
    await world.change(product_of("p", **sale), 3)
    changed = await put(world, "p", 3, second=1)
    assert isinstance(changed, StoredLine)
    assert (changed.line.price, changed.line.on_shelf, changed.line.available) == (Decimal(80), True, 3)
    assert (changed.line.sale_from, changed.line.sale_to) == (sale["sale_from"], sale["sale_to"])
    assert await world.carts.lines(BUYER) == [changed.line]


async def test_what_is_not_in_the_catalogue_is_refused(world: World) -> None:
    assert await put(world, "none") is CartRefusal.UNKNOWN_PRODUCT
    assert await put(world, "none", lines_max=0) is CartRefusal.UNKNOWN_PRODUCT
    assert await held(world) == []


async def test_what_is_not_on_the_shelf_is_not_added_but_its_line_stays(world: World) -> None:
    await put(world, "p", 2)
    for product_id in ("p", "q"):
        await world.change(product_of(product_id, on_shelf=False), 5)
    assert await put(world, "q") is CartRefusal.UNKNOWN_PRODUCT
    assert await put(world, "q", lines_max=1) is CartRefusal.UNKNOWN_PRODUCT
    changed = await put(world, "p", 3)
    assert isinstance(changed, StoredLine)
    assert (changed.is_new, changed.line.on_shelf) == (False, False)
    assert await held(world) == [("p", 3)]


async def test_a_full_cart_takes_changes_but_no_more_lines(world: World) -> None:
    for second, product_id in enumerate(("p", "q")):
        await put(world, product_id, second=second, lines_max=2)
    assert await put(world, "r", lines_max=2) is CartRefusal.FULL
    assert isinstance(await put(world, "q", 5, lines_max=2), StoredLine)
    assert isinstance(await put(world, "r", buyer_id="buyer-2", lines_max=2), StoredLine)
    assert await held(world) == [("q", 5), ("p", 1)]


async def test_calls_at_the_same_time_do_not_exceed_the_limit(world: World) -> None:
    stored = await asyncio.gather(*(put(world, i, n, lines_max=2) for n, i in enumerate("pqrpqr", 1)))
    lines = dict(await held(world))
    assert len(lines) == 2
    for refused in (answer for answer in stored if isinstance(answer, CartRefusal)):
        assert refused is CartRefusal.FULL
    new = [answer for answer in stored if isinstance(answer, StoredLine) and answer.is_new]
    assert {answer.line.product_id for answer in new} == lines.keys()
    assert len(new) == 2


async def test_lines_go_one_by_one_or_all_and_only_the_buyers(world: World) -> None:
    for buyer_id in (BUYER, "buyer-2"):
        for product_id in ("p", "q", "r"):
            await put(world, product_id, buyer_id=buyer_id)
    assert await world.carts.remove(BUYER, "q") is True
    assert await world.carts.remove(BUYER, "q") is False
    assert await held(world) == [("p", 1), ("r", 1)]
    await world.carts.clear(BUYER)
    await world.carts.clear(BUYER)
    assert await held(world) == []
    assert await held(world, "buyer-2") == [("p", 1), ("q", 1), ("r", 1)]


async def test_carts_that_are_away_say_so(offline_settings: Settings) -> None:
    pool = await connect_pool(offline_settings)
    memory = MemoryCarts()
    memory.available = False
    carts: Carts
    for carts in (PostgresCarts(pool), memory):
        calls = (
            carts.lines(BUYER),
            carts.put(BUYER, "p", 1, NOON, lines_max=1),
            carts.remove(BUYER, "p"),
            carts.clear(BUYER),
        )
        for call in calls:
            with pytest.raises(Unavailable):
                await call
    await pool.close()


async def test_what_is_left_of_a_product_is_in_all_its_slices(world: World) -> None:
    await world.put_product(product_of("hot", slices=2), 4)
    await world.put_product(product_of("hot~1", slices=2), 2)
    await world.put_product(product_of("cold"), 7)
    stored = [await world.carts.put(BUYER, i, 1, NOON, lines_max=9) for i in ("hot", "cold")]
    assert [one.line.available for one in stored if isinstance(one, StoredLine)] == [6, 7]
    assert {line.product_id: line.available for line in await world.carts.lines(BUYER)} == {
        "hot": 6,
        "cold": 7,
    }
