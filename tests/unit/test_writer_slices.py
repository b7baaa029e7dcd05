"""Writers of a product's slices: lines go from one to the other through the log, whichever of them crashes."""

import asyncio

import msgspec
import pytest

from contracts.errors import StaleView
from contracts.messages import CheckoutLine
from contracts.outcomes import Kind, Reason
from contracts.slices import slice_of_buyer, stock_id
from contracts.topics import partition_of
from stock_ledger.batch import Stock
from tests.harness import eventually, line_of, product_of, results_of, running, uuid_of
from tests.unit.writer_world import PARTITIONS, A, World, crashes_sending, distinct

SECOND = partition_of(stock_id(A, 1), PARTITIONS)


def split(world: World, *units: int, limit: int | None = None, known: int | None = None) -> None:
    """A in so many slices, the first in partition 0."""
    for number, available in enumerate(units):
        name = stock_id(A, number)
        entry = product_of(name, name="A", slices=known or len(units), buyer_limit=limit)
        world.ledger.put(entry, Stock(available, 1), partition_of(name, PARTITIONS))


def buyer(number: int, slices: int, nth: int = 0) -> str:
    """The nth buyer that belongs to a slice."""
    fitting = [name for name in (f"b{n}" for n in range(200)) if slice_of_buyer(name, slices) == number]
    return fitting[nth]


def send(world: World, *lines: CheckoutLine) -> None:
    for line in lines:
        world.send(line, partition=partition_of(line.stock_id, PARTITIONS))


async def status_of(world: World, checkout: int | str) -> str:
    shown = (await results_of(world.view, uuid_of(checkout))).get(A)
    return "none" if shown is None else str(msgspec.json.decode(shown)["status"])


async def test_the_last_units_are_sold_from_the_other_slice(world: World) -> None:
    split(world, 1, 2)
    writer, log = world.writer()
    lines = [line_of(n, A, buyer_id=buyer(0, 2, n)) for n in range(4)]
    async with running(writer):
        await world.share_out(log)
        send(world, *lines)
        await world.all_done()
        await eventually(lambda: world.ledger.stock[stock_id(A, 1)].available == 0)
        await world.all_done()
    assert world.ledger.stock[A].available == 0
    assert world.kinds(0) == [Kind.CREATED, Kind.FORWARDED, Kind.FORWARDED, Kind.REFUSED]
    assert world.kinds(SECOND) == [Kind.CREATED, Kind.CREATED]
    assert [await status_of(world, n) for n in range(4)] == ["created", "created", "created", "refused"]
    assert [event[0] for event in world.broker.events[0]][1:] == [uuid_of(3).encode()]
    data = [msgspec.json.decode(value or b"") for _, value, _ in world.broker.events[SECOND]]
    assert {event["product_id"] for event in data} == {A}, "the world is told of products"


async def test_a_line_that_comes_again_is_answered_by_its_first_decision(world: World) -> None:
    split(world, 0, 2)
    writer, log = world.writer()
    line = line_of(1, A, buyer_id=buyer(0, 2))
    async with running(writer):
        await world.share_out(log)
        send(world, line)
        await eventually(lambda: world.broker.end(SECOND) == 1)
        await world.all_done()
        send(world, line)
        await world.all_done()
    assert world.kinds(0) == [Kind.FORWARDED, Kind.REPEATED]
    assert world.ledger.decided[0, 1].first_offset == 0
    assert len(world.ledger.orders) == 1


async def test_a_copy_from_before_the_split_is_repeated_where_it_was_decided(world: World) -> None:
    split(world, 5, 5, known=1)
    writer, log = world.writer()
    line = line_of(1, A, buyer_id=buyer(1, 2))
    async with running(writer):
        await world.share_out(log)
        send(world, line)
        await world.all_done()
    split(world, 4, 5)
    world.ledger.stock[A] = Stock(4, 2)
    writer, log = world.writer("next")
    async with running(writer):
        await world.share_out(log)
        send(world, msgspec.structs.replace(line, slice=1))
        await eventually(lambda: world.broker.end(0) == 2)
        await world.all_done()
    assert (world.kinds(0), world.kinds(SECOND)) == ([Kind.CREATED, Kind.REPEATED], [Kind.FORWARDED])
    assert len(world.ledger.orders) == 1


async def test_the_limit_of_a_buyer_counts_over_all_slices(world: World) -> None:
    """One order is forwarded for stock; the other is decided by a writer that has read of none."""
    split(world, 0, 5, limit=1)
    who = buyer(0, 2)
    writer, log = world.writer()
    original, held = world.ledger.load, asyncio.Event()
    stale: list[str] = []

    async def persist(*arguments: object) -> None:
        try:
            await persisting(*arguments)  # type: ignore[arg-type]
        except StaleView as error:
            stale.append(str(error))
            raise

    async def load(need: object, entries: object) -> object:
        loaded = await original(need, entries)  # type: ignore[arg-type]
        if not held.is_set() and uuid_of("second") in need.checkouts:  # type: ignore[attr-defined]
            held.set()
            world.ledger.purchases[A, who] = 1  # the other slice commits now
        return loaded

    persisting = world.ledger.persist
    world.ledger.load, world.ledger.persist = load, persist  # type: ignore[method-assign, assignment]
    async with running(writer):
        await world.share_out(log)
        send(world, line_of("second", A, buyer_id=who, slice=1, forwarded=True))
        await world.all_done()
    assert len(stale) == 1
    assert world.ledger.decided[SECOND, 0].reason is Reason.BUYER_LIMIT
    assert world.ledger.purchases == {(A, who): 1}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("policy", ["independent", "all_or_nothing"])
async def test_what_is_forwarded_gets_there_though_its_writer_crashes(
    world: World, monkeypatch: pytest.MonkeyPatch, policy: str, *, after: bool
) -> None:
    split(world, 0, 5)
    lines = [line_of(n, A, buyer_id=buyer(0, 2, n), policy=policy) for n in range(3)]
    await crashes_sending(world, monkeypatch, lambda: send(world, *lines), after=after)
    second, second_log = world.writer("second")
    async with running(second):
        await world.share_out(second_log)
        await eventually(lambda: len(world.ledger.orders) == 3)
        await world.all_done()
    assert world.ledger.stock[stock_id(A, 1)].available == 2
    assert world.kinds(0) == [Kind.FORWARDED] * 3
    wanted = Kind.CREATED if policy == "independent" else Kind.HELD
    assert world.kinds(SECOND).count(wanted) == 3
    assert set(world.kinds(SECOND)) <= {wanted, Kind.REPEATED}
    created = [
        dict(headers)["ce_type"] for of_p in world.broker.events.values() for _, _, headers in distinct(of_p)
    ]
    assert created == [b"order.created"] * 3
