"""Kafka in the simulation: a broker over `MemoryBroker`, its consumer group, and the clients of writers and ingest."""

import asyncio
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from aiokafka.errors import KafkaConnectionError

from contracts.errors import NotAcknowledged, Unavailable
from contracts.kafka import Record
from contracts.topics import Stream
from deploy.simulation.loop import Loop, wake
from deploy.simulation.network import After, Remote, Server, alive
from deploy.simulation.node import Node, current_node
from ingest.fakes import MemoryBatch, MemoryProducer, Metadata
from workers.fakes import MemoryBroker, MemoryLog
from workers.log import Batch, Revoked

_HEARTBEAT_S = 0.05
EVENTS, DEAD_LETTERS = "events", "dead letters"  # topics that nobody decides
_RETRY_S = 0.1  # a producer tries again this often while the broker is away


class Arrivals:
    """Wakes the readers of partitions to which something is appended, or that get them with what they hold.

    Nothing is sent to those that are `refused`, of a topic.
    """

    def __init__(self, loop: Loop) -> None:
        self.refused: set[tuple[str, int]] = set()
        self._loop = loop
        self._waiting: dict[asyncio.Future[None], MemoryLog] = {}

    def tell(self, partition: int) -> None:
        for future, log in self._waiting.items():
            if partition in log.assigned()[1]:
                wake(future)

    async def wait(self, log: MemoryLog, seconds: float) -> None:
        future = self._loop.after(seconds)
        self._waiting[future] = log
        try:
            await future
        finally:
            del self._waiting[future]


class WriterLog:
    """See `workers.log.Log`: a member of the group, over the network."""

    def __init__(
        self, group: "Group", server: Server, arrivals: Arrivals, after: After, ack_deadline_s: float
    ) -> None:
        self._ack_deadline_s = ack_deadline_s
        self.node = current_node()
        self.seen_at = 0.0
        self.left = False
        self._group = group
        self._server = server
        self._arrivals = arrivals
        self.inner = MemoryLog(group.broker)
        self._remote: Any = Remote(server, self.inner, after)

    async def start(self, revoked: Revoked) -> None:
        await self._remote.start(revoked)
        self._group.joined(self)

    async def stop(self) -> None:
        """Leave. With the broker away, the group finds out by itself."""
        alive()
        self.left = True
        if self._server.up:
            await self.inner.stop()

    def assigned(self) -> tuple[int, frozenset[int]]:
        return self.inner.assigned()

    async def read(self, rows_max: int, wait_ms: int) -> dict[Stream, Batch]:
        """At least once, others get their turn before this goes on."""
        alive()
        await self._server.delay()
        batch = self._take(rows_max)
        if batch:
            await asyncio.sleep(0)
            return batch
        await self._arrivals.wait(self.inner, wait_ms / 1000)
        return self._take(rows_max)

    def _take(self, rows_max: int) -> dict[Stream, Batch]:
        return self.inner.take_messages(rows_max) if self._server.up else {}

    def seek(self, stream: Stream, partition: int, offset: int) -> None:
        self.inner.seek(stream, partition, offset)

    async def first_offsets(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        found: dict[int, int] = await self._remote.first_offsets(stream, partitions)
        return found

    async def end_offsets(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        found: dict[int, int] = await self._remote.end_offsets(stream, partitions)
        return found

    async def committed(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        found: dict[int, int] = await self._remote.committed(stream, partitions)
        return found

    async def commit(self, stream: Stream, offsets: Mapping[int, int]) -> None:
        await self._remote.commit(stream, offsets)

    async def publish(self, events: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        await self._send(EVENTS, "publish", events, timestamp_ms)

    async def send(self, stream: Stream, messages: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        await self._send(stream, "send", messages, timestamp_ms, stream)
        for partition in messages:
            self._arrivals.tell(partition)

    async def set_aside(self, letters: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        await self._send(DEAD_LETTERS, "set_aside", letters, timestamp_ms)

    async def _send(
        self,
        topic: str,
        name: str,
        records: Mapping[int, Sequence[Record]],
        timestamp_ms: int,
        *stream: Stream,
    ) -> None:
        """Each partition's records for themselves, so that some may get through."""
        for partition, of_partition in records.items():
            part = {partition: of_partition}
            await self._taken(topic, partition)
            await self._remote.call(name, *stream, part, timestamp_ms, error=NotAcknowledged)

    async def _taken(self, topic: str, partition: int) -> None:
        """The producer tries until the partition takes something in, or the deadline is over."""
        deadline = self._server.loop.time() + self._ack_deadline_s
        while (topic, partition) in self._arrivals.refused:
            if self._server.loop.time() >= deadline:
                raise NotAcknowledged(f"{topic}[{partition}] has too few replicas in sync")
            await self._server.loop.after(_RETRY_S)
            alive()


class Group:
    """The group's coordinator: members that keep silent for `session_s` are put out, all others asked to share anew.

    Run `coordinate` in the world.
    """

    def __init__(
        self, loop: Loop, broker: MemoryBroker, server: Server, arrivals: Arrivals, session_s: float
    ) -> None:
        self.broker = broker
        self.rebalance_wanted = False
        self._loop = loop
        self._server = server
        self._arrivals = arrivals
        self._session_s = session_s
        self._members: list[WriterLog] = []
        self._outside: list[WriterLog] = []  # put out, though they may still live

    def joined(self, log: WriterLog) -> None:
        log.seen_at = self._loop.time()
        self._members.append(log)
        self.rebalance_wanted = True

    async def coordinate(self) -> None:
        while True:
            await self._loop.after(_HEARTBEAT_S)
            if not self._server.up:
                for member in self._members:
                    member.seen_at = self._loop.time()
                continue
            self._look_around()
            if self.rebalance_wanted:
                self.rebalance_wanted = False
                await self._rebalance()

    def _look_around(self) -> None:
        now = self._loop.time()
        for log in [log for log in self._outside if log.node.runs]:
            self._outside.remove(log)
            if not log.left:
                self._come_back(log)
        for log in list(self._members):
            if log.node.runs:
                log.seen_at = now
            if log.left or now - log.seen_at > self._session_s:
                self._put_out(log)

    def _come_back(self, log: WriterLog) -> None:
        """A member that was put out learns of it and joins again; what it had is revoked before it gets anything."""
        self.broker.members.append(log.inner)
        self.joined(log)

    def _put_out(self, log: WriterLog) -> None:
        self._members.remove(log)
        if log.inner in self.broker.members:
            self.broker.members.remove(log.inner)
        if log.node.alive and not log.left:
            self._outside.append(log)
        self.rebalance_wanted = True

    async def _rebalance(self) -> None:
        """Wait until every member has let go of what it has, or is put out; then share the partitions out."""
        letting_go = {log: log.node.start(log.inner.revoke()) for log in self._members if log.node.alive}
        while not all(log not in self._members or task.done() for log, task in letting_go.items()):
            await asyncio.sleep(_HEARTBEAT_S)
            self._look_around()
        self.broker.generation += 1
        there = [log for log in self._members if log in letting_go]
        shares: dict[WriterLog, set[int]] = {log: set() for log in there}
        for p in range(self.broker.partitions):
            if there:
                shares[there[p % len(there)]].add(p)
        for log, share in shares.items():
            log.inner.take(self.broker.generation, frozenset(share))
            for p in share:
                self._arrivals.tell(p)
        self.rebalance_wanted = len(there) != len(self._members)


class Producer(MemoryProducer):
    """An idempotent producer over the network: it tries until the batch is in the log once, or it is stopped."""

    def __init__(
        self, broker: MemoryBroker, server: Server, arrivals: Arrivals, node: Node, random: Random
    ) -> None:
        super().__init__(broker.append)
        self._random = random
        self._server = server
        self._arrivals = arrivals
        self._node = node

    async def send_batch(
        self, batch: MemoryBatch, topic: str, *, partition: int
    ) -> "asyncio.Future[Metadata]":
        alive()
        ack: asyncio.Future[Metadata] = self._node.loop.create_future()
        self._node.start(self._deliver(batch, partition, ack))
        return ack

    async def _deliver(self, batch: MemoryBatch, partition: int, ack: "asyncio.Future[Metadata]") -> None:
        await self._server.set_out(self._node, "send_batch")
        while not self._server.up or (Stream.CHECKOUTS, partition) in self._arrivals.refused:
            await asyncio.sleep(_RETRY_S)
            if self.stopped:
                return
        base: int | None = self.write(batch, partition)
        self._arrivals.tell(partition)
        try:
            self._server.maybe_lose(Unavailable)
        except Unavailable:
            base = await self._ask_again(base)
        await self._server.delay()
        if base is not None and not ack.done():
            ack.set_result(Metadata(base))

    async def _ask_again(self, base: int | None) -> int | None:
        """An ack was lost: the batch is sent again, and is known. The broker may tell its offset, or -1 for not, or
        the client may never get it.
        """
        await asyncio.sleep(_RETRY_S)
        return self._random.choices((base, -1, None), (4, 2, 4))[0]

    async def stop(self) -> None:
        self.stopped = True


async def start_producer(
    broker: MemoryBroker, server: Server, arrivals: Arrivals, node: Node, random: Random
) -> Producer:
    """Raises KafkaError if the broker is away."""
    alive()
    await server.delay()
    if not server.up:
        raise KafkaConnectionError("the broker is away")
    return Producer(broker, server, arrivals, node, random)
