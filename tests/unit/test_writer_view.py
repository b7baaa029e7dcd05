"""The writer in memory: a view that is flushed, set back, dropped, away, and never the truth."""

import msgspec
import pytest

from contracts.outcomes import Kind, Reason
from contracts.slices import slice_of_buyer, stock_id
from contracts.topics import partition_of
from stock_ledger.batch import Decided, Loaded, Stock
from stock_ledger.ledger import Advance
from stock_ledger.view import Gate, Progress
from tests.harness import (
    eventually,
    line_of,
    product_in,
    product_of,
    running,
    uuid_of,
)
from tests.unit.writer_world import PARTITIONS, A, World


async def test_a_flushed_view_is_rebuilt(world: World) -> None:
    world.put(other := product_in(0, PARTITIONS, 1), 0, available=0)
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        world.view.flush()
        world.send(line_of(2, A))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 2
    entries = (await world.view.load({0: [A, other]}))[0].entries
    assert {i: stock for i, (_, stock) in entries.items()} == {A: Stock(8, 3), other: Stock(0, 1)}
    assert (await world.view.gates([0]))[0].sold_out == {other}


async def test_a_view_lost_in_the_middle_of_a_batch_is_rebuilt_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between load and show: what is shown then must not make the rest look whole."""
    world.put(other := product_in(0, PARTITIONS, 1), 0, available=0)
    writer, log = world.writer()
    persist = world.ledger.persist
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        old = world.view.snapshot()
        world.send(line_of(2, A))
        await world.all_done()

        async def lose(advances: list[Advance], decided: Decided, loaded: Loaded) -> None:
            await persist(advances, decided, loaded)
            world.view.restore(old)

        with monkeypatch.context() as patched:
            patched.setattr(world.ledger, "persist", lose)
            world.send(line_of(3, A))
            await world.all_done()
        world.ledger.stock[other] = Stock(5, 2)
        world.send(line_of(4, other))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 4
    assert await world.shown() == (1, 4)
    assert (await world.view.gates([0]))[0].sold_out == set()


async def test_a_drop_in_the_middle_of_a_batch_is_not_overlooked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock was added and the view dropped after the batch had loaded: the next one must see it."""
    world.put(A, 0, available=0)
    writer, log = world.writer()
    persist = world.ledger.persist
    async with running(writer):
        await world.share_out(log)
        await eventually(lambda: len(world.ledger.claims) == PARTITIONS)

        async def restock(advances: list[Advance], decided: Decided, loaded: Loaded) -> None:
            await persist(advances, decided, loaded)
            world.ledger.stock[A] = Stock(5, 2)
            await world.view.drop()

        with monkeypatch.context() as patched:
            patched.setattr(world.ledger, "persist", restock)
            world.send(line_of(1, A))
            await world.all_done()
        world.send(line_of(2, A))
        await world.all_done()
    assert world.kinds() == [Kind.REFUSED, Kind.CREATED]
    assert (await world.view.gates([0]))[0].sold_out == set()


async def test_a_view_set_back_is_not_trusted(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A, 2))
        await world.all_done()
        old = world.view.snapshot()
        world.send(line_of(2, A, 8))
        await world.all_done()
        world.view.restore(old)
        world.send(line_of(3, A, 1))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED, Kind.CREATED, Kind.REFUSED]
    assert world.ledger.decided[0, 2].reason is Reason.SOLD_OUT
    assert (await world.view.gates([0]))[0].sold_out == {A}


async def test_an_idle_writer_mends_the_view_and_keeps_its_beat(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A, 10))
        await world.all_done()
        world.view.flush()
        world.clock.tick(world.settings.idle_beat_s)
        await eventually(lambda: len(world.view.data.values) > 0)
        await eventually(lambda: all(world.view.keys.progress(p) in world.view.data.values for p in range(4)))
        first = (await world.view.progress([0]))[0]
        world.clock.tick(world.settings.idle_beat_s)

        async def moved() -> bool:
            return (await world.view.progress([0]))[0].beat > first.beat

        await eventually(moved)
    assert (await world.view.gates([0]))[0].sold_out == {A}


async def test_an_idle_partition_beats_while_another_is_busy(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, log = world.writer()
    beats: set[int] = set()
    async with running(writer):
        await world.share_out(log)
        await eventually(lambda: len(world.ledger.claims) == PARTITIONS)
        read, numbers = log.read, iter(range(1000, 2000))

        async def always_something(rows_max: int, wait_ms: int) -> object:
            world.send(line_of(next(numbers), A))
            return await read(rows_max, wait_ms)

        monkeypatch.setattr(log, "read", always_something)
        for _ in range(3):
            world.clock.tick(world.settings.idle_beat_s)

            async def beat() -> bool:
                progress: Progress = (await world.view.progress([3]))[3]
                return progress.beat not in beats

            await eventually(beat)
            beats.add((await world.view.progress([3]))[3].beat)
    assert len(beats) == 3


async def test_deciding_goes_on_without_the_view(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        world.view.available = False
        world.send(line_of(2, A, 5), line_of(3, A, 5))
        await world.all_done()
        assert world.kinds() == [Kind.CREATED, Kind.CREATED, Kind.REFUSED]
        await eventually(lambda: writer._health.report()[0])
        world.view.available = True
        world.clock.tick(world.settings.cache_retry_s)
        world.send(line_of(4, A, 4))
        await world.all_done()
    assert world.ledger.stock[A] == Stock(0, 4)
    assert (await world.view.load({0: [A]}))[0].entries[A][1] == Stock(0, 4)
    assert (await world.view.gates([0]))[0].sold_out == {A}


async def test_a_view_that_comes_back_in_the_middle_of_a_batch_is_not_trusted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away at load, there again at show: the rest of it is as old as the outage."""
    other = product_in(0, PARTITIONS, 1)
    world.put(other, 0, available=0)
    writer, log = world.writer()
    persist = world.ledger.persist
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        world.view.available = False

        async def come_back(advances: list[Advance], decided: Decided, loaded: Loaded) -> None:
            await persist(advances, decided, loaded)
            world.ledger.stock[other] = Stock(5, 2)
            world.view.available = True
            world.clock.tick(world.settings.cache_retry_s)

        with monkeypatch.context() as patched:
            patched.setattr(world.ledger, "persist", come_back)
            world.send(line_of(2, A))
            await world.all_done()
        world.send(line_of(3, other))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 3


async def test_a_lost_reply_of_the_view_changes_nothing(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        world.view.lose_replies = 1
        world.send(line_of(2, A))
        await world.all_done()
        world.clock.tick(world.settings.cache_retry_s)
        world.send(line_of(3, A))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 3
    assert await world.shown() == (1, 3)
    assert (await world.view.load({0: [A]}))[0].entries[A][1] == Stock(7, 4)


async def test_the_edge_is_shown_slices_also_by_a_view_that_is_rebuilt(world: World) -> None:
    """Of them, the writer of the first one tells."""
    last = stock_id(A, 2)
    place = partition_of(last, PARTITIONS)
    world.ledger.put(product_of(A, slices=3), Stock(2, 1), 0)
    world.ledger.put(product_of(last, slices=3), Stock(2, 1), place)
    writer, log = world.writer()
    buyer = next(name for name in (f"b{n}" for n in range(99)) if slice_of_buyer(name, 3) == 0)
    line = line_of(1, A, buyer_id=buyer)
    async with running(writer):
        await world.share_out(log)
        world.send(line)
        world.send(line_of(2, A, slice=2, forwarded=True), partition=place)
        await world.all_done()
        gates = await world.view.gates([0, place])
        assert [gates[p].slices for p in (0, place)] == [{A: 3}, {}]
        world.view.flush()
        world.clock.tick(world.settings.idle_beat_s)
        await eventually(lambda: world.view.keys.progress(0) in world.view.data.values)
        gate = (await world.view.gates([0]))[0]
    assert gate == Gate(gate.progress, frozenset(), {A: 3})
    world.view.flush()
    successor, log = world.writer("successor")
    async with running(successor):
        await world.share_out(log)
        world.send(msgspec.structs.replace(line, checkout_id=uuid_of(3)))
        await world.all_done()
    gate = (await world.view.gates([0]))[0]
    assert gate == Gate((await world.view.progress([0]))[0], frozenset({A}), {A: 3})


async def test_the_edge_is_shown_no_slices_that_are_not_open_by_a_view_that_is_rebuilt(world: World) -> None:
    world.ledger.put(product_of(A, slices=3, slices_open=False), Stock(2, 1), 0)
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        world.view.flush()
        world.clock.tick(world.settings.idle_beat_s)
        await eventually(lambda: world.view.keys.progress(0) in world.view.data.values)
        gate = (await world.view.gates([0]))[0]
    assert world.kinds() == [Kind.CREATED]
    assert gate == Gate(gate.progress, frozenset())
