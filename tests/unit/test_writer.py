"""The writer on a log, a ledger and a view in memory, with time that is turned by hand."""

import asyncio
from collections.abc import Iterator

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
    world.send(line_of(1, A), line_of(1, A, payload_hash="f" * 32), line_of(2, "unknown" if False else A, 99))
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


class Crash(Exception):  # noqa: N818 - the process dies
    """Ends a writer at once, as a crash does: nothing catches it."""


async def test_a_crash_after_persist_is_made_up_for_by_the_next_writer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, log = world.writer("first")
    world.send(line_of(1, A), line_of(2, A, 99), line_of(1, A, payload_hash="f" * 32))
    with monkeypatch.context() as patched:

        async def crash(*_: object) -> None:
            raise Crash

        patched.setattr(world.view, "show", crash)
        patched.setattr(log, "committed", _raises_nothing(log))
        async with running(first) as task:
            await world.share_out(log)
            with pytest.raises(Crash):
                await task
    # The first show of all is the rebuild at the claim: nothing was decided yet. Let it die later.
    assert world.ledger.decided == {}


def _raises_nothing(log: MemoryLog) -> object:
    return log.committed
