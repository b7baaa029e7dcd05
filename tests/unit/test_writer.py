"""The writer on a log, a ledger and a view in memory, with time that is turned by hand."""

import asyncio

import msgspec
import pytest

from contracts.errors import LogTruncated
from contracts.kafka import Record
from contracts.messages import CheckoutLine
from contracts.outcomes import Kind, Reason
from contracts.settings import Settings
from stock_ledger.decide import Decided, Loaded, Stock
from stock_ledger.fakes import MemoryLedger, MemoryView
from stock_ledger.ledger import Advance, Claim
from stock_ledger.view import Progress
from tests.harness import (
    Clock,
    encoded,
    eventually,
    failing,
    line_of,
    make_writer,
    product_in,
    product_of,
    running,
    uuid_of,
)
from workers import writer as writer_module
from workers.fakes import MemoryBroker, MemoryLog
from workers.writer import Writer

PARTITIONS = 4
A, B = product_in(0, PARTITIONS), product_in(1, PARTITIONS)


class World:
    """A broker, a ledger with some stock, a view, and as many writers as a test makes."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.broker = MemoryBroker(PARTITIONS)
        self.ledger = MemoryLedger()
        self.view = MemoryView()
        self.put(A, 0)
        self.put(B, 1)

    def put(self, product_id: str, partition: int, available: int = 10) -> None:
        self.ledger.put(product_of(product_id), Stock(available, 1), partition)

    def writer(self, owner: str = "writer") -> tuple[Writer, MemoryLog]:
        log = MemoryLog(self.broker)
        return make_writer(log, self.ledger, self.view, self.settings, self.clock, owner), log

    def send(self, *lines: CheckoutLine, partition: int = 0) -> None:
        for line in lines:
            self.broker.append(partition, line.partition_key(), encoded(line))

    async def share_out(self, *logs: MemoryLog, silent: tuple[MemoryLog, ...] = ()) -> None:
        """All partitions to these logs, in turn."""
        await eventually(lambda: all(log in self.broker.members for log in logs))
        assignment = {log: range(n, PARTITIONS, len(logs)) for n, log in enumerate(logs)}
        await self.broker.assign(assignment, silent=silent)

    async def all_done(self) -> None:
        """Everything in the log is decided and committed."""
        await eventually(
            lambda: all(self.broker.committed.get(p, 0) == self.broker.end(p) for p in range(PARTITIONS))
        )

    def kinds(self, partition: int = 0) -> list[Kind]:
        decided = sorted((o, d.kind) for (p, o), d in self.ledger.decided.items() if p == partition)
        assert [o for o, _ in decided] == list(range(len(decided)))
        return [kind for _, kind in decided]

    def event_ids(self, partition: int = 0) -> list[bytes]:
        return [dict(headers)["ce_id"] for _, _, headers in self.broker.events[partition]]

    async def shown(self, partition: int = 0) -> tuple[int, int]:
        progress = (await self.view.progress([partition]))[partition]
        return progress.epoch, progress.next_offset


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RETRY_S", (0.0,))


@pytest.fixture
def world(offline_settings: Settings, clock: Clock) -> World:
    return World(offline_settings, clock)


def distinct(events: list[Record]) -> list[Record]:
    """Each event once, by its id; those with the same id must be the same."""
    found: dict[bytes, Record] = {}
    for event in events:
        assert found.setdefault(dict(event[2])["ce_id"], event) == event
    return list(found.values())


async def test_a_batch_goes_all_the_way(world: World) -> None:
    writer, log = world.writer()
    world.send(line_of(1, A, 4), line_of(2, A, 7), line_of(1, A, 4), line_of(3, A, 6))
    world.send(line_of(1, B, line=1, lines=2), partition=1)
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == [Kind.CREATED, Kind.REFUSED, Kind.REPEATED, Kind.CREATED]
    assert world.kinds(1) == [Kind.CREATED]
    assert world.ledger.stock == {A: Stock(0, 3), B: Stock(9, 2)}
    assert world.event_ids() == [b"0-0", b"0-1", b"0-3"]
    assert world.event_ids(1) == [b"1-0"]
    assert (await world.view.results(uuid_of(1))).keys() == {A, B}
    assert (await world.view.results(uuid_of(2)))[A] == world.ledger.decided[0, 1].document()
    gates = await world.view.gates([0, 1])
    assert (gates[0].sold_out, gates[1].sold_out) == ({A}, set())
    assert await world.shown() == (1, 4)
    assert (await world.view.load({0: [A]}))[0].entries == {A: (product_of(A), Stock(0, 3))}


async def test_events_are_the_decisions(world: World) -> None:
    writer, log = world.writer()
    world.send(line_of(1, A), line_of(1, A, payload_hash="f" * 32), line_of(2, A, 99))
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    documents = [world.ledger.decided[0, offset].document() for offset in range(3)]
    assert [value for _, value, _ in world.broker.events[0]] == documents
    assert (await world.view.results(uuid_of(1)))["#0:1"] == documents[1]


async def test_redelivery_of_decided_offsets_has_no_effect(world: World) -> None:
    writer, log = world.writer()
    world.send(line_of(1, A), line_of(2, A))
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
        before = (dict(world.ledger.decided), dict(world.ledger.stock), world.event_ids())
        log.positions[0] = 0
        await eventually(lambda: log.positions[0] == 2)
        world.send(line_of(3, A))
        log.positions[0] = 1
        await world.all_done()
    decided, stock, events = before
    assert world.ledger.decided.items() >= decided.items()
    assert len(world.ledger.decided) == len(decided) + 1
    assert world.ledger.stock[A] == Stock(stock[A].available - 1, stock[A].seq + 1)
    assert world.event_ids() == [*events, b"0-2"]


class Crash(Exception):
    """Ends a writer at once: nothing catches it."""


def dies(monkeypatch: pytest.MonkeyPatch, target: object, name: str, *, after: bool) -> None:
    """The next call of the method ends the caller, before or after its effect."""
    original = getattr(target, name)

    async def call(*arguments: object) -> None:
        if after:
            await original(*arguments)
        raise Crash

    monkeypatch.setattr(target, name, call)


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
        dies(patched, log if part == "log" else world.ledger, name, after=after)
        async with failing(first) as task:
            await world.share_out(log)
            with pytest.raises(Crash):
                await task
    assert bool(world.ledger.decided) is is_decided
    assert world.broker.committed == {}
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
    assert (await world.view.results(uuid_of(1))).keys() == {A, "#0:2"}
    assert (await world.view.results(uuid_of(2))).keys() == {A}
    assert await world.shown() == (2, 4)


async def test_a_long_gap_is_published_again_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = msgspec.structs.replace(world.settings, batch_rows_max=3)
    world.settings = settings
    world.send(*[line_of(n, A) for n in range(8)])
    first, log = world.writer()
    async with running(first):
        await world.share_out(log)
        await world.all_done()
    world.broker.committed.clear()
    world.broker.events.clear()
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
        assert (await world.view.results(uuid_of(n))).keys() == {A}


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
            await eventually(lambda: old_log.positions[0] == 3)
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
    assert after.sold_out == before.sold_out
    assert world.ledger.stock[A] == Stock(3, 3)
    assert (await world.view.load({0: [A]}))[0].entries[A][1] == Stock(3, 3)


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
        assert await _readiness(writer)
        world.view.available = True
        world.clock.tick(world.settings.cache_retry_s)
        world.send(line_of(4, A, 4))
        await world.all_done()
    assert world.ledger.stock[A] == Stock(0, 4)
    assert (await world.view.load({0: [A]}))[0].entries[A][1] == Stock(0, 4)
    assert (await world.view.gates([0]))[0].sold_out == {A}


async def _readiness(writer: Writer) -> bool:
    await eventually(lambda: writer._health.report()[0])
    return writer._health.report()[0]


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


POISON = [
    (b"not json", A.encode(), "malformed"),
    (None, A.encode(), "no value"),
    (None, None, "no value"),
    (b"", None, "truncated"),
    (encoded(line_of(1, A)), b"another key", "key"),
    (encoded(line_of(1, B)), B.encode(), "does not belong to partition 0"),
    (encoded(line_of(1, A)).replace(b'"v":1', b'"policy":"\\u0000","v":1'), A.encode(), "policy"),
    (
        encoded(line_of(1, A)).replace(b'"v":1', b'"policy":"' + b"x" * 1_000_000 + b'","v":1'),
        A.encode(),
        "enum value",
    ),
    (b'{"x":' + b"[" * 100_000, A.encode(), "recursion"),
    (b"x" * 2_000_000, b"k" * 300_000, "malformed"),
]


@pytest.mark.parametrize(
    ("value", "key", "why"), POISON, ids=[f"{n}-{why}" for n, (*_, why) in enumerate(POISON)]
)
async def test_poison_is_set_aside_and_the_stream_goes_on(
    world: World, value: bytes | None, key: bytes | None, why: str
) -> None:
    writer, log = world.writer()
    world.send(line_of(1, A))
    world.broker.append(0, key, value)
    world.send(line_of(2, A))
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == [Kind.CREATED, Kind.DEAD, Kind.CREATED]
    [(letter_key, letter_value, headers)] = world.broker.dead_letters[0]
    told = dict(headers)
    assert why in told["reason"].decode()
    assert (told["partition"], told["offset"]) == (b"0", b"1")
    assert world.ledger.decided[0, 1].detail == told["reason"].decode()
    assert "\0" not in world.ledger.decided[0, 1].detail  # Postgres could not store it
    assert len(world.ledger.decided[0, 1].detail) <= 500
    assert len(letter_key or b"") + len(letter_value or b"") <= 600_000
    if "truncated-to" in told:
        assert (value or b"").startswith(letter_value or b"")
    else:
        assert (letter_key, letter_value) == (key, value)
    assert world.event_ids() == [b"0-0", b"0-2"]


async def test_a_lost_ack_publishes_the_same_again(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        await eventually(lambda: len(world.ledger.claims) == PARTITIONS)
        log.lose_acks = 2
        world.send(line_of(1, A), line_of(2, A))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 2
    assert world.event_ids() == [b"0-0", b"0-1"] * 3
    assert len(distinct(world.broker.events[0])) == 2
    assert world.ledger.claims[0].epoch == 1


async def test_lost_acks_of_dead_letters_decide_nothing_twice(world: World) -> None:
    writer, log = world.writer()
    log.lose_acks = 1
    world.broker.append(0, b"k", b"poison")
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == [Kind.DEAD]
    assert len(world.broker.dead_letters[0]) == 2


@pytest.mark.parametrize("part", ["ledger", "log"])
async def test_servers_may_come_back(world: World, part: str) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        switch = world.ledger if part == "ledger" else log
        switch.available = False
        world.send(line_of(2, A))
        await eventually(lambda: "problem" in writer._health.report()[1])
        assert not writer._health.report()[0]
        switch.available = True
        await world.all_done()
        assert await _readiness(writer)
    assert world.kinds() == [Kind.CREATED] * 2
    assert world.event_ids() == [b"0-0", b"0-1"]


async def test_a_changed_catalogue_is_loaded_again(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        world.ledger.catalogue[A] = product_of(A, version=2, name="Another name")
        world.send(line_of(2, A))
        await world.all_done()
    order = world.ledger.decided[0, 1].order
    assert order is not None
    assert order.name == "Another name"


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
        log.positions[0] = 1
        world.send(line_of(1, A), line_of(2, A))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 2


async def test_an_expected_total_over_products_of_other_partitions(world: World) -> None:
    total = {"amount": "387.00", "currency": "CNY"}
    basket = [(A, 1), (B, 2)]
    writer, log = world.writer()
    for checkout, amount in ((1, "387.00"), (2, "386.99")):
        expected = msgspec.convert(total | {"amount": amount}, CheckoutLine.__annotations__["expected_total"])
        world.send(line_of(checkout, A, 1, expected_total=expected, basket=basket))
        world.send(line_of(checkout, B, 2, expected_total=expected, basket=basket), partition=1)
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == world.kinds(1) == [Kind.CREATED, Kind.REFUSED]
    assert world.ledger.decided[0, 1].reason is Reason.PRICE_CHANGED


async def test_a_start_that_fails_leaves_the_group(world: World) -> None:
    writer, log = world.writer()
    stopped: list[bool] = []
    log.available = False
    log.stop = _recorder(stopped)  # type: ignore[method-assign]
    async with failing(writer) as task:
        with pytest.raises(Exception, match="switched off"):
            await task
    assert stopped == [True]


def _recorder(calls: list[bool]) -> object:
    async def record() -> None:
        calls.append(True)

    return record
