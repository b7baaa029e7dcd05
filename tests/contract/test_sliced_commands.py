"""What every ledger of commands must do for products with slices, in memory and in Postgres."""

import pytest

from contracts.commands import (
    Cancel,
    Command,
    Move,
    OpenSlices,
    PatchProduct,
    PutProduct,
    TakeOver,
    decode_command,
)
from contracts.errors import StaleView
from contracts.settings import Settings
from contracts.slices import stock_id
from contracts.topics import Stream, partition_of
from stock_ledger.batch import Received, Stock
from stock_ledger.commands.book import Counts, Need
from stock_ledger.commands.reads import PostgresCommandReads
from stock_ledger.decide import decide
from stock_ledger.ledger import Advance
from stock_ledger.ledger import Need as LineNeed
from tests.contract.command_world import NEW, A, World, world, world_settings
from tests.contract.test_ledger import postgres_world
from tests.desk import PARTITIONS, asked
from tests.harness import NOON, insert_product, line_of, product_of

__all__ = ["world", "world_settings"]
SLICES = [stock_id(NEW, number) for number in range(3)]


async def step(world: World, command: Command) -> list[Command]:
    """Decide it in its partition. Gives what it asks of others."""
    place = command.partition(PARTITIONS)
    claim = (await world.ledger.state([place]))[place]
    advances, obeyed = await world.decide(claim, command, partition=place)
    await world.commands.persist(advances, obeyed)
    return [
        decode_command(value, key, to, PARTITIONS) for to, key, value in obeyed.decisions[0].told.commands
    ]


async def done(world: World, command: Command) -> None:
    """Decide it in its partition, and then all that it asks of others."""
    for asked_then in await step(world, command):
        await done(world, asked_then)


async def opened(world: World) -> None:
    await world.open()
    await world.ledger.claim(range(1, PARTITIONS), "a", NOON)
    put = asked(PutProduct, product_id=NEW, name="New", price="2.50", currency="EUR", stock=10, slices=3)
    await done(world, put)


async def test_slices_are_stored_in_partitions_of_their_own(world: World) -> None:
    await opened(world)
    book = await world.commands.load(Need([], [], [], [], [*SLICES, stock_id(NEW, 3)]))
    assert [book.stock[i] for i in SLICES] == [Stock(4, 2), Stock(3, 2), Stock(3, 2)]
    assert {(p.name, str(p.price), p.version, p.slices) for p in book.products.values()} == {
        ("New", "2.50", 2, 3)
    }
    assert set(book.products) == set(SLICES)
    for i in SLICES:
        entries = await world.ledger.partition_products(partition_of(i, PARTITIONS))
        assert entries[i] == (book.products[i], book.stock[i])


async def test_a_change_reaches_the_rows_of_all_slices(world: World) -> None:
    await opened(world)
    await done(world, asked(PatchProduct, product_id=NEW, sale_price="1.25"))
    entries = await world.ledger.products(SLICES)
    assert {(str(p.sale_price), p.version, p.slices) for p, _ in entries.values()} == {("1.25", 3, 3)}
    assert [stock.available for _, stock in entries.values()] == [4, 3, 3]


async def test_until_the_last_slice_is_there_they_are_not_open(world: World) -> None:
    await world.open()
    await world.ledger.claim(range(1, PARTITIONS), "a", NOON)
    command: Command = asked(
        PutProduct, product_id=NEW, name="New", price="2.50", currency="EUR", stock=10, slices=3
    )
    found = []
    while not isinstance(command, OpenSlices):
        (command,) = await step(world, command)
        entries = await world.ledger.products(SLICES)
        product, stock = entries[NEW]
        found.append((len(entries), product.slices_open, stock.available))
        assert (await world.ledger.partition_products(partition_of(NEW, PARTITIONS)))[NEW] == entries[NEW]
    assert found == [(1, False, 10), (2, False, 10), (3, False, 10)]
    told = await step(world, command)
    product, stock = (await world.ledger.products(SLICES))[NEW]
    assert (product.slices_open, product.version, stock) == (True, 2, Stock(4, 2))
    assert [(one.subject(), one.units) for one in told if isinstance(one, TakeOver)] == [
        (SLICES[1], 3), (SLICES[2], 3)
    ]  # fmt: skip


async def test_units_moved_are_entries_of_both_slices(world: World) -> None:
    await opened(world)
    await done(world, asked(Move, product_id=NEW, slice=2, to=1, units=2))
    entries = [(e.product_id, e.kind, e.delta, e.available) for e in await world.entries() if e.seq > 2]
    assert entries == [(SLICES[1], "move", 2, 5), (SLICES[2], "move", -2, 1)]


async def test_units_that_were_sold_meanwhile_are_not_moved(world: World) -> None:
    await opened(world)
    place = partition_of(SLICES[1], PARTITIONS)
    claim = (await world.ledger.state([place]))[place]
    advances, stale = await world.decide(
        claim, asked(Move, product_id=NEW, slice=1, to=0, units=3), partition=place
    )
    await world.base.set_stock(SLICES[1], Stock(1, 3))
    with pytest.raises(StaleView):
        await world.commands.persist(advances, stale)


async def test_a_slice_takes_over_once(world: World) -> None:
    await opened(world)
    entry = {"name": "X", "price": "1", "currency": "EUR", "on_shelf": True, "payment_ttl_s": 9, "version": 1}
    take = asked(TakeOver, product_id=stock_id(NEW, 3), slices=4, units=5, **entry)
    place = take.partition(PARTITIONS)
    claim = (await world.ledger.state([place]))[place]
    later = claim.advanced(Stream.COMMANDS, claim.next_command + 1)
    advances, stale = await world.decide(later, take, partition=place)
    await done(world, asked(TakeOver, product_id=stock_id(NEW, 3), slices=4, units=1, **entry))
    with pytest.raises(StaleView):
        await world.commands.persist(advances, stale)
    assert (await world.ledger.products([stock_id(NEW, 3)]))[stock_id(NEW, 3)][1] == Stock(1, 2)


async def test_what_buyers_have_of_a_slice_they_have_of_the_product(world: World) -> None:
    await world.open()
    name = stock_id(A, 1)
    place = partition_of(name, PARTITIONS)
    await world.base.put(product_of(name, slices=2, buyer_limit=9), Stock(5, 1), place)
    claim = (await world.ledger.claim([place], "a", NOON))[place]
    batch = [Received(place, 0, line_of(1, A, 2, buyer_id="b", slice=1, forwarded=True))]
    need = LineNeed([], [(A, "b")], [])
    decided = decide(
        batch, loaded := await world.ledger.load(need, await world.ledger.products([name])), NOON
    )
    await world.ledger.persist([Advance(place, claim, 1)], decided, loaded)
    (order,) = (d.order for d in decided.decisions)
    assert order is not None
    assert (await world.ledger.load(need, {})).bought == {(A, "b"): 2}
    await done(world, asked(Cancel, order_id=order.order_id, buyer_id="b"))
    assert (await world.ledger.load(need, {})).bought == {(A, "b"): 0}
    assert (await world.ledger.products([name]))[name][1] == Stock(5, 3)
    assert (await world.commands.load(Need([], [], [], [], [name]))).counts == {name: Counts()}


async def test_products_are_read_with_all_their_slices(database_settings: Settings) -> None:
    async with postgres_world(database_settings) as base:
        for number, name in enumerate([NEW, f"{NEW}~1", f"{NEW}~2", A]):
            product = product_of(name, slices=1 if name == A else 4)
            await insert_product(base.pool, product, 10 + number, 1, partition_of(name, PARTITIONS))
        reads = PostgresCommandReads(base.pool)
        (shelf,) = await reads.products([NEW])
        assert [s.product.product_id for s in shelf.slices()] == [NEW, f"{NEW}~1", f"{NEW}~2"]
        assert shelf.available() == 33
        page = await reads.product_page("", 10, off_shelf_too=False)
        assert sorted((s.product.product_id, s.available()) for s in page) == sorted([(NEW, 33), (A, 13)])
        last = await reads.product_page(min(A, NEW), 10, off_shelf_too=False)
        assert [s.product.product_id for s in last] == [max(A, NEW)]
