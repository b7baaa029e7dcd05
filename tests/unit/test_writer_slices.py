"""Writers of a product's slices: lines go from one to the other through the log, whichever of them crashes."""

import asyncio
from typing import Any

import msgspec
import pytest

from contracts.errors import SoldMeanwhile
from contracts.messages import CheckoutLine
from contracts.outcomes import Kind, Reason
from contracts.slices import slice_of_buyer, stock_id
from contracts.topics import partition_of
from stock_ledger.batch import Stock
from tests.harness import eventually, line_of, product_of, results_of, running, uuid_of
from tests.unit.test_writer_ahead import at_work
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


class Meanwhile:
    """The other slice sells a unit of A to `who` while a batch is persisted, which waits for that until `go`.

    Counts what the writer loads, and how often it asks for more than that from then on: where its claims are, what is to be
    told again, what is to be shown anew.
    """

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        self.stale: list[SoldMeanwhile] = []
        self.loads = 0
        self.asked: list[str] = []
        persisting, loading = world.ledger.persist, world.ledger.load

        async def persist(*arguments: Any) -> None:
            if not self.reached.is_set():
                self.reached.set()
                await self.go.wait()
                self._watch(world, monkeypatch)
                world.ledger.purchases[A, who] = world.ledger.purchases.get((A, who), 0) + 1
            try:
                await persisting(*arguments)
            except SoldMeanwhile as error:
                self.stale.append(error)
                raise

        async def load(*arguments: Any) -> Any:
            self.loads += 1
            return await loading(*arguments)

        monkeypatch.setattr(world.ledger, "persist", persist)
        monkeypatch.setattr(world.ledger, "load", load)

    def _watch(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("claim", "state", "decisions", "partition_products"):
            monkeypatch.setattr(world.ledger, name, self._told(name, getattr(world.ledger, name)))

    def _told(self, name: str, original: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self.asked.append(name)
            return original(*arguments)

        return call


async def test_the_limit_of_a_buyer_counts_over_all_slices(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One order is forwarded for stock; the other is decided by a writer that has read of none, and then again."""
    split(world, 0, 5, limit=1)
    who = buyer(0, 2)
    writer, log = world.writer()
    async with running(writer):
        await at_work(world, log)
        meanwhile = Meanwhile(world, monkeypatch, who)
        meanwhile.go.set()
        send(world, line_of("second", A, buyer_id=who, slice=1, forwarded=True))
        await world.all_done()
    assert len(meanwhile.stale) == 1
    assert world.ledger.decided[SECOND, 0].reason is Reason.BUYER_LIMIT
    assert world.ledger.purchases == {(A, who): 1}
    assert meanwhile.loads == 2
    assert meanwhile.asked == [], "nothing is in doubt"


async def test_what_was_decided_on_top_of_what_is_decided_again_is_so_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the three units of a slice one buyer gets none after all: they are there for the next batch."""
    split(world, 0, 3, limit=3)
    one, two, three = (buyer(1, 2, nth) for nth in range(3))
    writer, log = world.writer()
    async with running(writer):
        await at_work(world, log)
        meanwhile = Meanwhile(world, monkeypatch, one)
        send(world, line_of(1, A, 3, buyer_id=one, slice=1))
        await meanwhile.reached.wait()
        send(world, line_of(2, A, 2, buyer_id=two, slice=1), line_of(3, A, 2, buyer_id=three, slice=1))
        await eventually(lambda: meanwhile.loads == 2)
        meanwhile.go.set()
        await world.all_done()
        assert await world.shown(SECOND) == (1, 3)
        view = (await world.view.load({SECOND: [stock_id(A, 1)]}))[SECOND]
    assert world.kinds(SECOND) == [Kind.REFUSED, Kind.CREATED, Kind.REFUSED]
    assert [world.ledger.decided[SECOND, n].reason for n in (0, 2)] == [
        Reason.BUYER_LIMIT, Reason.INSUFFICIENT_STOCK
    ]  # fmt: skip
    assert world.ledger.stock[stock_id(A, 1)] == view.entries[stock_id(A, 1)][1] == Stock(1, 2)
    assert world.ledger.purchases == {(A, one): 1, (A, two): 2}
    assert (len(meanwhile.stale), meanwhile.loads, meanwhile.asked) == (1, 4, [])
    assert [await status_of(world, n) for n in (1, 2, 3)] == ["refused", "created", "refused"]
    assert len(world.event_ids(SECOND)) == 3


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
