"""A world of its own: the servers, and the processes of the pipeline as nodes. The real code, composed on fakes."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

from api.checkouts import Checkouts
from contracts.auth import BearerVerifier
from contracts.errors import SluicewayError
from contracts.receipts import ReceiptSigner
from contracts.settings import Settings
from contracts.slices import product_of
from contracts.times import from_ms, to_ms
from contracts.topics import partition_of
from deploy.simulation.auditor import Auditor
from deploy.simulation.broker import Arrivals, Group, WriterLog, start_producer
from deploy.simulation.database import CommandClient, LedgerClient
from deploy.simulation.loop import Loop
from deploy.simulation.model import Goods, Violation
from deploy.simulation.network import Remote, Server
from deploy.simulation.node import Node, current_node
from ingest.app import Ingest
from ingest.backpressure import Backpressure
from ingest.gate import PayloadMemory, SoldOutGate
from ingest.publisher import Publisher
from stock_ledger.batch import Product, Stock
from stock_ledger.commands.fakes import MemoryCommandLedger, MemoryDue
from stock_ledger.fakes import MemoryLedger, MemoryReads
from stock_ledger.view_fakes import MemoryView, Snapshot
from workers.fakes import MemoryBroker
from workers.health import Health
from workers.shelf import Shelf
from workers.writer import Writer

CLOCK_OFF_S_MAX = 0.5  # of a process, either way
START_MS = to_ms(datetime(2026, 11, 11, 12, tzinfo=UTC))
PRICE = Decimal("129.00")

# Everything happens fast, so that a second of a run is full of events. What counts is how the times compare.
SETTINGS = Settings(
    kafka_url="simulated",
    postgres_url="postgresql://simulated",
    redis_url="redis://simulated",
    partitions=3,
    jwt_hs256_secret="of a sale that never was, " + "0" * 16,
    receipt_secret="of a receipt that never was, " + "0" * 16,
    produce_linger_ms=15.0,
    produce_ack_deadline_s=0.4,
    gate_refresh_ms=200,
    gate_stale_s=0.6,
    batch_rows_max=32,
    batch_linger_ms=20.0,
    idle_beat_s=0.2,
    session_timeout_ms=600,
    hold_ttl_s=1.0,
    timer_again_s=2.0,
    postgres_timeout_s=1.5,
    cache_retry_s=0.1,
)
VERIFIER = BearerVerifier(SETTINGS)  # keeps nothing but tokens it has seen


class Worker:
    """A worker process. Whoever runs it starts it again when it ends by itself."""

    def __init__(self, world: "World") -> None:
        self.node = world.node("worker")
        log: WriterLog = self.node.context.run(world.writer_log)
        shelf = Shelf(world.view, world.ledger, world.settings, world.loop.time)
        health = Health(world.settings, world.loop.time)
        self.writer = Writer(
            log, world.ledger, world.commands, shelf, health, world.settings, self.node.name, world.now
        )
        self.task = self.node.start(self.writer.run())


class IngestProcess:
    """An ingest process."""

    def __init__(self, world: "World") -> None:
        self.node = world.node("ingest")
        settings = world.settings
        payloads = PayloadMemory(world.view, settings, world.loop.time)

        async def start() -> Any:
            return await start_producer(world.broker, world.kafka, world.arrivals, self.node, world.random)

        backpressure = Backpressure(settings, world.loop.time)
        publisher = Publisher(start, payloads, "checkouts", settings, world.now_ms, backpressure)
        gate = SoldOutGate(world.view, settings, world.loop.time, backpressure)
        self.app = Ingest(settings, VERIFIER, world.signer, publisher, gate, backpressure, world.now_ms)
        self.node.start(gate.run())


class ApiProcess:
    """An api process: the part of it that tells what became of a checkout."""

    def __init__(self, world: "World") -> None:
        self.node = world.node("api")
        self.checkouts = Checkouts(world.reads, world.view, world.settings, world.loop.time)


class World:
    """All of a run but its clients and its faults. The servers' fakes are told apart from the network before them."""

    def __init__(self, random: Random, goods: list[Goods], settings: Settings = SETTINGS) -> None:
        self.random = random
        self.settings = settings
        self.goods = goods
        self.loop = Loop(random)  # type: ignore[abstract]  # it has what is used of a loop
        self.kafka = Server("kafka", self.loop, random)
        self.postgres = Server("postgres", self.loop, random)
        self.cache = Server("cache", self.loop, random)
        self.servers = (self.kafka, self.postgres, self.cache)
        self.broker = MemoryBroker(settings.partitions)
        self.arrivals = Arrivals(self.loop)
        session_s = settings.session_timeout_ms / 1000
        self.group = Group(self.loop, self.broker, self.kafka, self.arrivals, session_s)
        self.truth = MemoryLedger()
        self.cached = MemoryView()
        for part in (part for good in goods for part in good.parts()):
            self.truth.put(
                product(part), Stock(part.units, 1), partition_of(part.product_id, settings.partitions)
            )
        self.commanded = MemoryCommandLedger(self.truth)
        self.auditor = Auditor(
            self.broker,
            self.truth,
            self.commanded,
            self.cached,
            goods,
            self.loop.time,
            settings.hold_ttl_s,
            session_s,
            settings.gate_stale_s,
        )
        self._view_called = self.audited(self.auditor.view_called)
        self.ledger: Any = LedgerClient(
            self.postgres, self.truth, self.audited(self.auditor.ledger_called), settings
        )
        self.commands: Any = CommandClient(
            self.ledger, self.commanded, self.audited(self.auditor.commands_called)
        )
        self.due: Any = Remote(self.postgres, MemoryDue(self.commanded), untold)
        self.reads: Any = Remote(
            self.postgres, MemoryReads(self.truth, self.commanded.gatherings), self._was_read
        )
        self.view: Any = Remote(self.cache, self.cached, self._viewed)
        self.signer = ReceiptSigner(settings.receipt_secret)
        self.workers: list[Worker] = []
        self.ingests: list[IngestProcess] = []
        self.apis: list[ApiProcess] = []
        self.trace: Callable[[str], None] = untraced  # the course of the run
        self.tell: Callable[[str], None] = untraced  # every effect on a server
        self._named = 0
        self._clocks = Random(random.getrandbits(32))  # noqa: S311 - for repeatable runs

    def open(self, workers: int, ingests: int, apis: int) -> None:
        """Start the processes."""
        self.loop.world.start(self.group.coordinate())
        for _ in range(workers):
            self.add_worker()
        self.ingests += [IngestProcess(self) for _ in range(ingests)]
        self.apis += [ApiProcess(self) for _ in range(apis)]

    def add_worker(self) -> Worker:
        worker = Worker(self)
        self.workers.append(worker)
        worker.task.add_done_callback(lambda _: self._ended(worker), context=self.loop.world.context)
        return worker

    def _ended(self, worker: Worker) -> None:
        """A worker process ended by itself: in good order, or for want of a server, and is started again."""
        if worker in self.workers:
            self.workers.remove(worker)
        error = worker.task.exception()
        self.trace(f"{worker.node.name} ended: {error!r}")
        worker.node.kill()
        if error is None:
            return
        if not isinstance(error, SluicewayError):
            self.loop.errors.append(error)
        self.loop.call_later(0.2, self.add_worker, context=self.loop.world.context)

    def write(self, partition: int, key: bytes | None, value: bytes | None, *, is_poison: bool) -> None:
        """Write to the log of checkouts, past ingest."""
        offset = self.broker.append(partition, key, value)
        if is_poison:
            self.auditor.model.poison.add((partition, offset))
        self.arrivals.tell(partition)

    def append_command(self, partition: int, key: bytes | None, value: bytes | None) -> int:
        """A command reaches the log; gives its offset."""
        offset = self.broker.commands.append(partition, key, value)
        self.arrivals.tell(partition)
        return offset

    def flush_cache(self) -> None:
        self.cached.flush()
        self.auditor.view_flushed()

    def fail_over_cache(self, behind: Snapshot, since: float) -> None:
        """To a replica that holds what was at that time."""
        self.cache.break_connections()
        self.cached.restore(behind)
        self.auditor.view_set_back(since)

    def heal(self) -> None:
        """Everything works from now on."""
        for server in self.servers:
            server.up, server.slow, server.losing = True, 1.0, 0.0
        self.arrivals.refused.clear()
        for node in self._nodes():
            node.resume()
        if not self.workers:
            self.add_worker()

    def end(self) -> None:
        """Close what still runs, without effect."""
        with self.loop.running():
            for node in (*self._nodes(), self.loop.world):
                node.kill()

    def _nodes(self) -> list[Node]:
        workers = [worker.node for worker in self.workers]
        ingests = [ingest.node for ingest in self.ingests]
        return workers + ingests + [api.node for api in self.apis]

    def writer_log(self) -> WriterLog:
        after = self.audited(self.auditor.log_called)
        return WriterLog(self.group, self.kafka, self.arrivals, after, self.settings.produce_ack_deadline_s)

    def audited(
        self, check: Callable[[str, tuple[Any, ...]], None]
    ) -> Callable[[str, tuple[Any, ...]], None]:
        """The check; what it finds ends the run, whoever would catch it."""

        def after(name: str, arguments: tuple[Any, ...]) -> None:
            if self.tell is not untraced:
                self.tell(f"{current_node().name}: {name} {brief(name, arguments)}")
            try:
                check(name, arguments)
            except Violation as violation:
                self.trace(f"VIOLATION: {violation}")
                self.loop.errors.append(violation)

        return after

    def _viewed(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "gates":
            self.auditor.of_gate.looked(current_node().name, {p: self.cached.gate(p) for p in arguments[0]})
        self._view_called(name, arguments)

    def _was_read(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "next_offsets":
            self.auditor.of_clients.told(current_node().name, *arguments)

    def node(self, kind: str) -> Node:
        """A process of this kind, with a clock of its own."""
        self._named += 1
        clock_off_s = self._clocks.uniform(-CLOCK_OFF_S_MAX, CLOCK_OFF_S_MAX)
        return Node(self.loop, f"{kind}-{self._named}", clock_off_s)

    def now(self) -> datetime:
        """UTC by the clock of the node that runs, in whole milliseconds."""
        return from_ms(self.now_ms())

    def now_ms(self) -> int:
        return START_MS + round((self.loop.time() + current_node().clock_off_s) * 1000)


def product(good: Goods) -> Product:
    name = f"Name of {product_of(good.product_id)}"
    return Product(
        good.product_id, name, "", PRICE, "CNY", good.on_shelf, good.buyer_limit, payment_ttl_s=2, version=1,
        slices=good.slices,
    )  # fmt: skip


def brief(name: str, arguments: tuple[Any, ...]) -> str:
    """What an effect was about, in a few words."""
    match name, arguments:
        case "persist", (advances, *_):
            return ", ".join(f"{a.partition}:{a.claim.next_offset}-{a.next_offset}" for a in advances)
        case "show", (shown, results):
            parts = [f"{part.partition} {part.progress.text()}{' whole' * part.whole}" for part in shown]
            return f"{parts} and {len(results)} results"
        case (("publish" | "set_aside"), (records, _)) | ("send", (_, records, _)):
            return str({p: len(of_partition) for p, of_partition in records.items()})
        case (("claim" | "commit"), (what, *_)):
            return str(what)
    return ""


def untold(_: str, __: tuple[Any, ...]) -> None:
    """Reading has no effect."""


def untraced(_: str) -> None:
    """Nobody wants to know."""
