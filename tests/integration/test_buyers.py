"""What buyers keep, beside what writers do: addresses and the orders made with them, carts and what is bought of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from contracts.messages import Shipping
from contracts.settings import Settings
from stock_ledger import carts as cart_sql
from stock_ledger import sql
from stock_ledger.addresses import PostgresAddressBook
from stock_ledger.batch import Received
from stock_ledger.carts import CartRefusal, PostgresCarts
from stock_ledger.catalogue import AddressEntry, store
from stock_ledger.decide import decide
from stock_ledger.ledger import Advance, need_of
from stock_ledger.pool import connect_pool
from stock_ledger.postgres import PostgresLedger
from stock_ledger.reads import OrderFilter, PostgresReads
from tests.harness import HOME, NOON, eventually, insert_product, line_of, product_of

BUYER = "buyer-1"
MOVED = Shipping("Li Lei", "+86 138 0000 0002", "3 Other Street, Suzhou")
BLOCKED = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


@pytest.fixture
async def pool(database_settings: Settings) -> AsyncIterator["asyncpg.Pool[Any]"]:
    opened = await connect_pool(database_settings)
    try:
        yield opened
    finally:
        await opened.close()


async def order_to(pool: "asyncpg.Pool[Any]", address_id: str, checkout: int) -> str:
    """The buyer's order of one unit of p to an address of the book; its id."""
    ledger = PostgresLedger(pool)
    claim = (await ledger.claim([0], "writer", NOON))[0]
    line = line_of(checkout, buyer_id=BUYER, address_id=address_id, shipping=None)
    batch = [Received(0, claim.next_offset, line)]
    entries = await ledger.products(["p"])
    loaded = await ledger.load(need_of(batch, {i: product for i, (product, _) in entries.items()}), entries)
    decided = decide(batch, loaded, NOON)
    await ledger.persist([Advance(0, claim, claim.next_offset + 1)], decided, loaded)
    order = decided.decisions[0].order
    assert order is not None
    return order.order_id


async def test_an_order_keeps_the_address_that_it_was_made_with(pool: "asyncpg.Pool[Any]") -> None:
    await insert_product(pool, product_of(), 5, 1, 0)
    book, reads = PostgresAddressBook(pool), PostgresReads(pool)
    await book.put(BUYER, "home", HOME, NOON, as_default=True, addresses_max=5)
    before = await order_to(pool, "home", 1)
    await book.put(BUYER, "home", MOVED, NOON, as_default=True, addresses_max=5)
    after = await order_to(pool, "home", 2)
    await book.remove(BUYER, "home")
    kept = {o.order_id: o.shipping for o in await reads.orders(BUYER, OrderFilter(), 10)}
    assert kept == {before: HOME, after: MOVED}
    single = await reads.order(before, BUYER)
    assert single is not None
    assert single.shipping == HOME


async def test_addresses_from_a_file_have_a_default_too(pool: "asyncpg.Pool[Any]") -> None:
    entries = [AddressEntry(BUYER, i, HOME.contact_name, HOME.phone, HOME.address) for i in ("b", "a", "c")]
    await store(pool, (), entries, 4)
    book = PostgresAddressBook(pool)
    assert [(a.address_id, a.is_default) for a in await book.addresses(BUYER)] == [
        ("a", True), ("b", False), ("c", False)
    ]  # fmt: skip
    await book.put(BUYER, "c", MOVED, NOON, as_default=True, addresses_max=5)
    await store(pool, (), entries, 4)
    assert [(a.address_id, a.shipping) for a in await book.addresses(BUYER)] == [
        ("c", HOME), ("a", HOME), ("b", HOME)
    ]  # fmt: skip


async def fill_carts(pool: "asyncpg.Pool[Any]") -> PostgresCarts:
    carts = PostgresCarts(pool)
    for product_id in ("p", "q", "r"):
        await insert_product(pool, product_of(product_id), 5, 1, 0)
    for buyer_id in (BUYER, "buyer-2"):
        for product_id in ("p", "q"):
            await carts.put(buyer_id, product_id, 2, NOON, lines_max=5)
    return carts


async def held(carts: PostgresCarts, buyer_id: str) -> list[str]:
    return [line.product_id for line in await carts.lines(buyer_id)]


async def test_what_is_bought_leaves_the_cart_with_the_transaction_alone(pool: "asyncpg.Pool[Any]") -> None:
    carts = await fill_carts(pool)
    bought = (["buyer-2", BUYER, BUYER], ["q", "p", "not-in-it"])
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        assert await connection.execute(sql.CLEAR_BOUGHT, *bought) == "DELETE 2"
        await transaction.rollback()
        assert await held(carts, BUYER) == await held(carts, "buyer-2") == ["p", "q"]
        async with connection.transaction():
            await connection.execute(sql.CLEAR_BOUGHT, *bought)
    assert await held(carts, BUYER) == ["q"]
    assert await held(carts, "buyer-2") == ["p"]


async def test_a_buyer_waits_for_a_writer_and_no_writer_for_a_buyer(pool: "asyncpg.Pool[Any]") -> None:
    carts = await fill_carts(pool)
    async with pool.acquire() as writer, pool.acquire() as buyer:
        async with buyer.transaction():  # a line that is being added, by a process that hangs
            await buyer.execute(cart_sql.LOCK_CART, BUYER)
            assert await buyer.fetchrow(cart_sql.ADD_LINE, BUYER, "r", 1, NOON, 5) is not None
            async with writer.transaction():
                await writer.execute(sql.CLEAR_BOUGHT, [BUYER, BUYER], ["r", "q"])
                clearing = asyncio.create_task(carts.clear(BUYER))
                await eventually(lambda: _are_blocked(pool, 1))
            await clearing
        assert await held(carts, BUYER) == ["r"]


async def test_clearing_and_buying_at_once_both_end(pool: "asyncpg.Pool[Any]") -> None:
    """Both are stopped halfway, at q: did they lock in different orders, each would hold what the other wants next."""
    carts = await fill_carts(pool)
    await carts.put(BUYER, "r", 1, NOON, lines_max=5)
    async with pool.acquire() as other:
        async with other.transaction():
            await other.execute(
                "SELECT FROM carts WHERE buyer_id = $1 AND product_id = 'q' FOR UPDATE", BUYER
            )
            clearing = asyncio.create_task(carts.clear(BUYER))
            buying = asyncio.create_task(pool.execute(sql.CLEAR_BOUGHT, [BUYER] * 3, ["r", "q", "p"]))
            await eventually(lambda: _are_blocked(pool, 2))
        await asyncio.gather(clearing, buying)
    assert await held(carts, BUYER) == []


async def test_a_line_that_goes_while_it_is_changed_is_added_again(pool: "asyncpg.Pool[Any]") -> None:
    carts = await fill_carts(pool)
    async with pool.acquire() as writer:
        async with writer.transaction():
            await writer.execute(sql.CLEAR_BOUGHT, [BUYER], ["p"])
            changing = asyncio.create_task(carts.put(BUYER, "p", 3, NOON, lines_max=5))
            await eventually(lambda: _are_blocked(pool, 1))
        stored = await changing
    assert not isinstance(stored, CartRefusal)
    assert (stored.is_new, stored.line.quantity) == (True, 3)


async def _are_blocked(pool: "asyncpg.Pool[Any]", count: int) -> bool:
    """Whether so many wait for a lock. Asked outside of transactions: these see the activity of their begin."""
    return bool(await pool.fetchval(BLOCKED) == count)
