"""A writer that decides a batch while the one before is persisted: on top of it, and for nothing if it fails."""

import asyncio
from typing import Any

import msgspec
import pytest

from contracts.errors import Unavailable
from contracts.outcomes import Kind, Reason
from contracts.topics import Stream
from stock_ledger.batch import Stock
from tests.harness import eventually, line_of, product_of, running
from tests.unit.writer_world import A, B, World


class Held:
    """Persisting stops where its effect is still to come, or just after it, until it is let go or made to fail."""

    def __init__(self, world: World, *, after: bool = False) -> None:
        self.world = world
        self.reached = asyncio.Event()
        self.error: Exception | None = None
        self.loads = 0
        self._after = after
        self._go = asyncio.Event()
        self._persist, self._load = world.ledger.persist, world.ledger.load
        world.ledger.persist = self.persist  # type: ignore[method-assign, assignment]
        world.ledger.load = self.load  # type: ignore[method-assign, assignment]

    def let_go(self, error: Exception | None = None) -> None:
        self.error = error
        self.world.ledger.persist = self._persist  # type: ignore[method-assign]
        self._go.set()

    async def persist(self, *arguments: Any) -> None:
        if self._after:
            await self._persist(*arguments)
        self.reached.set()
        await self._go.wait()
        if self.error is not None:
            raise self.error
        if not self._after:
            await self._persist(*arguments)

    async def load(self, *arguments: Any) -> Any:
        self.loads += 1
        return await self._load(*arguments)


async def at_work(world: World, log: Any) -> None:
    """The writer has its partitions, and has shown that it lives."""
    await world.share_out(log)
    world.send(line_of(9, B), partition=1)
    await world.all_done()


async def one_under_way(world: World, log: Any, *, after: bool = False) -> Held:
    """A batch that sells 7 of the 10 of A, on its way to Postgres; behind it three more lines in the log."""
    await at_work(world, log)
    held = Held(world, after=after)
    world.send(line_of(1, A, 7))
    await held.reached.wait()
    world.send(line_of(2, A, 3), line_of(1, A, 7), line_of(3, A, 1))
    return held


async def seven_of_eight(world: World, log: Any) -> Held:
    """A batch in which buyer one gets 7 of the 8 units of A that a buyer may have, on its way to Postgres."""
    world.ledger.put(product_of(A, buyer_limit=8), Stock(10, 1), 0)
    await at_work(world, log)
    held = Held(world)
    world.send(line_of(1, A, 7, buyer_id="one"))
    await held.reached.wait()
    return held


def outcome(world: World) -> tuple[list[Kind], Reason | None, Stock]:
    return world.kinds(), world.ledger.decided[0, 3].reason, world.ledger.stock[A]


SOLD = ([Kind.CREATED, Kind.CREATED, Kind.REPEATED, Kind.REFUSED], Reason.SOLD_OUT, Stock(0, 3))


async def test_the_next_batch_is_decided_on_top_of_it(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        held = await one_under_way(world, log)
        await eventually(lambda: held.loads == 2)
        assert world.kinds() == []
        held.let_go()
        await world.all_done()
    assert outcome(world) == SOLD
    assert held.loads == 2, "nothing was decided again"


@pytest.mark.parametrize("after", [False, True])
async def test_what_was_decided_on_top_counts_for_nothing_if_it_fails(world: World, after: bool) -> None:
    """Whether or not it was committed: that is for Postgres to say."""
    writer, log = world.writer()
    async with running(writer):
        held = await one_under_way(world, log, after=after)
        await eventually(lambda: held.loads == 2)
        held.let_go(Unavailable("the connection broke"))
        await world.all_done()
    assert outcome(world) == SOLD
    assert set(world.event_ids()) == {b"0-0", b"0-1", b"0-3"}


async def test_a_buyer_with_a_limit_waits_for_the_commit(world: World) -> None:
    """Else it could not be told whether what was read of him counts the batch before."""
    writer, log = world.writer()
    async with running(writer):
        held = await seven_of_eight(world, log)
        world.send(line_of(2, A, 2, buyer_id="one"))
        await eventually(lambda: log.positions[Stream.CHECKOUTS, 0] == 2 and writer._busy.locked())
        assert held.loads == 1
        held.let_go()
        await world.all_done()
    assert world.kinds() == [Kind.CREATED, Kind.REFUSED]
    assert world.ledger.decided[0, 1].reason is Reason.BUYER_LIMIT
    assert world.ledger.stock[A] == Stock(3, 2)


async def test_a_buyer_who_did_not_buy_in_it_does_not_wait(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        held = await seven_of_eight(world, log)
        world.send(line_of(2, A, 2, buyer_id="two"))
        await eventually(lambda: held.loads == 2)
        held.let_go()
        await world.all_done()
    assert world.ledger.stock[A] == Stock(1, 3)


async def test_a_lost_view_is_rebuilt_after_the_commit(world: World) -> None:
    """What it then shows is what Postgres has, and not what the writer counts on."""
    world.settings = msgspec.structs.replace(world.settings, idle_beat_s=3600.0)
    writer, log = world.writer()
    async with running(writer):
        held = await one_under_way(world, log)
        world.view.flush()
        await eventually(lambda: log.positions[Stream.CHECKOUTS, 0] == 4 and writer._busy.locked())
        assert await world.view.progress([0]) == {}
        held.let_go()
        await world.all_done()
    assert outcome(world) == SOLD
    assert (await world.view.load({0: [A]}))[0].entries[A][1] == Stock(0, 3)
    assert await world.shown() == (1, 4)


async def test_a_batch_that_fails_while_the_writer_reads_is_not_shown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the beat either, which shows how far the writer is."""
    writer, log = world.writer()
    read, show = log.read, world.view.show
    ahead: list[Any] = []

    async def compare(shown: Any, results: Any) -> None:
        ahead.extend(
            s for s in shown if s.progress.next_offset > world.ledger.claims[s.partition].next_offset
        )
        await show(shown, results)

    async def fail_meanwhile(rows_max: int, wait_ms: int) -> Any:
        if held.reached.is_set() and writer._under_way is not None:
            monkeypatch.setattr(log, "read", read)
            held.let_go(Unavailable("the connection broke"))
            await writer._under_way.ended()
            world.clock.tick(world.settings.idle_beat_s)
            return {}
        return await read(rows_max, wait_ms)

    monkeypatch.setattr(world.view, "show", compare)
    async with running(writer):
        await at_work(world, log)
        held = Held(world)
        monkeypatch.setattr(log, "read", fail_meanwhile)
        world.send(line_of(1, A, 7))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED]
    assert ahead == []
