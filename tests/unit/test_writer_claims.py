"""The writer in memory: crashes, doubt, zombies, rebalances, and a log that is not what it was."""

import asyncio
from typing import Any

import msgspec
import pytest

from contracts.errors import LogTruncated
from contracts.outcomes import Kind
from contracts.topics import Stream
from stock_ledger.batch import Decided, Loaded, Stock
from stock_ledger.ledger import Advance, Claim
from tests.harness import (
    eventually,
    failing,
    line_of,
    results_of,
    running,
    uuid_of,
)
from tests.unit.writer_world import PARTITIONS, A, Crash, World, dies, distinct


@pytest.mark.parametrize(
    ("part", "name", "after", "is_decided"),
    [
        ("ledger", "persist", False, False),
        ("ledger", "persist", True, True),
        ("log", "publish", False, True),
        ("log", "publish", True, True),
        ("log", "commit", False, True),
    ],
)
async def test_a_crash_is_made_up_for_by_the_next_writer(
    world: World, monkeypatch: pytest.MonkeyPatch, part: str, name: str, *, after: bool, is_decided: bool
) -> None:
    first, log = world.writer("first")
    world.send(line_of(1, A), line_of(2, A, 99), line_of(1, A, payload_hash="f" * 32))
    with monkeypatch.context() as patched:
        once = (lambda: world.ledger.decided) if part == "log" else (lambda: True)
        dies(patched, log if part == "log" else world.ledger, name, after=after, once=once)
        async with failing(first) as task:
            await world.share_out(log)
            with pytest.raises(Crash):
                await task
    assert bool(world.ledger.decided) is is_decided
    assert not any(world.broker.committed.values())
    decided = dict(world.ledger.decided)
    world.clock.tick(60)
    world.send(line_of(4, A))
    second, log = world.writer("second")
    async with running(second):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == [Kind.CREATED, Kind.REFUSED, Kind.CONFLICT, Kind.CREATED]
    assert world.ledger.decided.items() >= decided.items()
    assert world.ledger.stock[A] == Stock(8, 3)
    assert world.ledger.claims[0] == Claim(2, 4)
    assert distinct(world.broker.events[0]) == world.broker.events[0][-4:]
    assert sorted(set(world.event_ids())) == [b"0-0", b"0-1", b"0-2", b"0-3"]
    assert (await results_of(world.view, uuid_of(1))).keys() == {A, "#0:2"}
    assert (await results_of(world.view, uuid_of(2))).keys() == {A}
    assert await world.shown() == (2, 4)


async def eight_told_and_forgotten(world: World) -> None:
    """Eight lines are decided and their events out; then the group's committed offsets and the events are gone."""
    world.send(*[line_of(n, A) for n in range(8)])
    first, log = world.writer()
    async with running(first):
        await world.share_out(log)
        await world.all_done()
    world.broker.committed.clear()
    world.broker.events.clear()


async def test_a_long_gap_is_published_again_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = msgspec.structs.replace(world.settings, batch_rows_max=3)
    world.settings = settings
    await eight_told_and_forgotten(world)
    world.view.flush()
    second, log = world.writer()
    log.lose_acks = 1
    async with running(second):
        await world.share_out(log)
        await world.all_done()
    ids = [b"0-%d" % n for n in range(8)]
    assert world.event_ids() == ids[:3] + ids
    assert world.broker.committed[0] == 8
    for n in range(8):
        assert (await results_of(world.view, uuid_of(n))).keys() == {A}


async def test_without_committed_offsets_only_what_is_in_the_log_is_published_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes: the watchdog sees each piece."""
    world.settings = msgspec.structs.replace(world.settings, batch_rows_max=2)
    await eight_told_and_forgotten(world)
    world.broker.delete_before(0, 3)
    second, log = world.writer()
    publish, stalled_s = log.publish, []

    async def slow(*arguments: Any) -> None:
        world.clock.tick(world.settings.stall_exit_s - 1)
        stalled_s.append(second._health.stalled_s())
        await publish(*arguments)

    monkeypatch.setattr(log, "publish", slow)
    async with running(second):
        await world.share_out(log)
        await world.all_done()
    assert world.event_ids() == [b"0-%d" % n for n in range(3, 8)]
    assert max(stalled_s) < world.settings.stall_exit_s


@pytest.mark.parametrize("fault", ["fail_before_commit", "fail_after_commit"])
async def test_an_unknown_commit_is_resolved(world: World, fault: str) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        await eventually(lambda: len(world.ledger.claims) == PARTITIONS)
        setattr(world.ledger, fault, 1)
        world.send(line_of(1, A), line_of(2, A))
        await world.all_done()
        assert getattr(world.ledger, fault) == 0
        world.send(line_of(3, A))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 3
    assert world.ledger.stock[A] == Stock(7, 4)
    assert world.event_ids() == [b"0-0", b"0-1", b"0-2"]
    assert world.ledger.claims[0] == Claim(1, 3)
    assert await world.shown() == (1, 3)


async def test_an_own_commit_that_turns_up_late_is_not_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer was lost, the transaction ended only after its state was read: the fence then meets ourselves."""
    writer, log = world.writer()
    persist = world.ledger.persist
    under_way: list[tuple[list[Advance], Decided, Loaded]] = []

    async def late(advances: list[Advance], decided: Decided, loaded: Loaded) -> None:
        if not under_way:
            under_way.append((advances, decided, loaded))
            world.ledger.fail_before_commit = 1
        elif len(under_way) == 1:
            await persist(*under_way[0])
            under_way.append(under_way[0])
        await persist(advances, decided, loaded)

    monkeypatch.setattr(world.ledger, "persist", late)
    world.send(line_of(1, A), line_of(2, A))
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert len(under_way) == 2
    assert world.kinds() == [Kind.CREATED] * 2
    assert world.event_ids() == [b"0-0", b"0-1"]
    assert world.ledger.claims[0] == Claim(1, 2)


async def test_a_zombie_writes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old, old_log = world.writer("old")
    new, new_log = world.writer("new")
    async with running(old):
        await world.share_out(old_log)
        world.send(line_of(1, A))
        await world.all_done()
        async with running(new):
            await eventually(lambda: len(world.broker.members) == 2)
            world.send(line_of(2, A), line_of(3, A))
            await world.broker.assign({new_log: range(PARTITIONS)}, silent=(old_log,))
            await world.all_done()
            state = (dict(world.ledger.decided), dict(world.ledger.stock), dict(world.ledger.claims))
            await eventually(lambda: old_log.positions[Stream.CHECKOUTS, 0] == 3)
            world.clock.tick(5)
            await eventually(lambda: not old._claims)
            assert state == (world.ledger.decided, world.ledger.stock, world.ledger.claims)
            await world.share_out(old_log, new_log)
            world.send(line_of(4, A))
            await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 4
    assert world.ledger.stock[A] == Stock(6, 5)
    assert set(world.ledger.owners.values()) == {"old", "new"}
    assert [dict(h)["ce_id"] for _, _, h in distinct(world.broker.events[0])] == [
        b"0-%d" % n for n in range(4)
    ]


async def test_what_a_late_claim_took_away_is_claimed_back(world: World) -> None:
    """A claim sent before a long pause arrives after another writer's, and its sender is gone for good."""
    writer, log = world.writer("assigned")
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        await world.ledger.claim(range(PARTITIONS), "gone", world.clock.now())
        world.send(line_of(2, A))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 2
    assert world.ledger.claims[0] == Claim(3, 2)
    assert await world.shown() == (3, 2)


async def test_a_zombies_late_view_write_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops between the commit and the show, another takes over and goes on; then it wakes up."""
    old, old_log = world.writer("old")
    new, new_log = world.writer("new")
    show = world.view.show
    paused, awake = asyncio.Event(), asyncio.Event()

    async def stop_here(*arguments: object) -> None:
        if world.ledger.decided and not paused.is_set():
            paused.set()
            await awake.wait()
        await show(*arguments)  # type: ignore[arg-type]

    world.send(line_of(1, A, 3))
    monkeypatch.setattr(world.view, "show", stop_here)
    async with running(old):
        await world.share_out(old_log)
        await paused.wait()
        world.send(line_of(2, A, 4))
        async with running(new):
            await eventually(lambda: len(world.broker.members) == 2)
            await world.broker.assign({new_log: range(PARTITIONS)}, silent=(old_log,))
            await world.all_done()
            before = world.view.snapshot()
            awake.set()
            await eventually(lambda: not old._claims)
            after = world.view.snapshot()
            await world.share_out(new_log)
    assert after.values == before.values
    assert after.gates == before.gates
    assert world.ledger.stock[A] == Stock(3, 3)
    assert (await world.view.load({0: [A]}))[0].entries[A][1] == Stock(3, 3)


async def test_a_rebalance_waits_for_the_batch_under_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, first_log = world.writer("first")
    second, second_log = world.writer("second")
    under_way, go_on = asyncio.Event(), asyncio.Event()
    persist = world.ledger.persist

    async def slow(advances: list[Advance], decided: Decided, loaded: Loaded) -> None:
        under_way.set()
        await go_on.wait()
        await persist(advances, decided, loaded)

    monkeypatch.setattr(world.ledger, "persist", slow)
    async with running(first), running(second):
        await world.share_out(first_log)
        world.send(line_of(1, A))
        await under_way.wait()
        await eventually(lambda: second_log in world.broker.members)
        assignment = {second_log: range(PARTITIONS)}
        rebalance = asyncio.create_task(world.broker.assign(assignment))
        await eventually(lambda: not first_log.assigned()[1])
        assert not rebalance.done()
        assert second_log.assigned()[1] == frozenset()
        go_on.set()
        await rebalance
        assert world.broker.committed[0] == 1
        world.send(line_of(2, A))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 2
    assert world.event_ids() == [b"0-0", b"0-1"]
    assert world.ledger.claims[0] == Claim(2, 2)


async def test_the_log_may_begin_where_deciding_goes_on(world: World) -> None:
    world.send(line_of(1, A), line_of(2, A))
    first, log = world.writer()
    async with running(first):
        await world.share_out(log)
        await world.all_done()
    world.broker.delete_before(0, 2)
    world.send(line_of(3, A))
    second, log = world.writer()
    async with running(second):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 3


async def test_a_log_that_lost_undecided_messages_stops_the_writer(world: World) -> None:
    world.send(line_of(1, A), line_of(2, A))
    world.broker.delete_before(0, 1)
    writer, log = world.writer()
    async with failing(writer) as task:
        await world.share_out(log)
        with pytest.raises(LogTruncated, match="begins at 1"):
            await task
    assert world.ledger.decided == {}


async def test_undecided_messages_lost_while_running_stop_the_writer(world: World) -> None:
    writer, log = world.writer()
    async with failing(writer) as task:
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        world.send(line_of(2, A), line_of(3, A))
        world.broker.delete_before(0, 2)
        with pytest.raises(LogTruncated, match="begins at 2"):
            await task
    assert world.kinds() == [Kind.CREATED]


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_log_set_back_stops_the_writer(world: World, *, is_running: bool) -> None:
    """Its new messages would get offsets that are decided already, and pass for done."""
    writer, log = world.writer()
    async with failing(writer) as task:
        await world.share_out(log)
        world.send(line_of(1, A), line_of(2, A), line_of(3, A))
        await world.all_done()
        if not is_running:
            writer.stop()
            await task
        world.broker.delete_from(0, 0)
        if is_running:
            world.send(line_of(4, A))
            with pytest.raises(LogTruncated, match="ends at 1"):
                await task
    if not is_running:
        second, log = world.writer()
        async with failing(second) as task:
            await world.share_out(log)
            with pytest.raises(LogTruncated, match="ends at 0"):
                await task
    assert world.kinds() == [Kind.CREATED] * 3


async def test_a_gap_in_what_was_read_is_read_again(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        await eventually(lambda: len(world.ledger.claims) == PARTITIONS)
        log.positions[Stream.CHECKOUTS, 0] = 1
        world.send(line_of(1, A), line_of(2, A))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 2
