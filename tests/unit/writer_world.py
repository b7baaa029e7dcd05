"""A writer's world in memory: broker, ledger, view, and time that is turned by hand."""

import asyncio
from collections.abc import Callable

import pytest

from contracts.kafka import Record
from contracts.messages import CheckoutLine
from contracts.outcomes import Kind
from contracts.settings import Settings
from stock_ledger.batch import Stock
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.fakes import MemoryLedger
from stock_ledger.upstream.source import StockSource
from stock_ledger.view_fakes import MemoryView
from tests.harness import (
    Clock,
    encoded,
    eventually,
    make_writer,
    product_in,
    product_of,
)
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
        self.commands = MemoryCommandLedger(self.ledger)
        self.view = MemoryView()
        self.source: StockSource | None = None
        self.put(A, 0)
        self.put(B, 1)

    def put(self, product_id: str, partition: int, available: int = 10) -> None:
        self.ledger.put(product_of(product_id), Stock(available, 1), partition)

    def writer(self, owner: str = "writer") -> tuple[Writer, MemoryLog]:
        log = MemoryLog(self.broker)
        writer = make_writer(
            log, self.ledger, self.commands, self.view, self.settings, self.clock, owner, self.source
        )
        return writer, log

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


def distinct(events: list[Record]) -> list[Record]:
    """Each event once, by its id; those with the same id must be the same."""
    found: dict[bytes, Record] = {}
    for event in events:
        assert found.setdefault(dict(event[2])["ce_id"], event) == event
    return list(found.values())


class Crash(Exception):
    """Ends a writer at once: nothing catches it."""


def dies(
    monkeypatch: pytest.MonkeyPatch, target: object, name: str, *, after: bool, once: Callable[[], object]
) -> None:
    """The next call of the method, once the condition holds, ends the caller, before or after its effect."""
    original = getattr(target, name)

    async def call(*arguments: object) -> object:
        if not once():
            return await original(*arguments)
        if after:
            await original(*arguments)
        raise Crash

    monkeypatch.setattr(target, name, call)


async def crashes_sending(
    world: World, monkeypatch: pytest.MonkeyPatch, begin: Callable[[], object], *, after: bool,
    once: Callable[[], object] = lambda: True,
) -> None:  # fmt: skip
    """A writer that does what `begin` brings about, until it sends other writers something and dies of it, as `dies` has it."""
    writer, log = world.writer("first")
    dies(monkeypatch, log, "send", after=after, once=once)
    task = asyncio.create_task(writer.run())
    await world.share_out(log)
    begin()
    await asyncio.wait([task])
    with pytest.raises(Crash):
        task.result()
