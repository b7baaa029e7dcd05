"""The log in memory, for tests and trials: what Kafka promises and what it does on a bad day; no clock, no random."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import msgspec

from contracts.errors import FenceLost, NotAcknowledged, Unavailable
from contracts.kafka import Record
from contracts.topics import Stream
from workers.log import Batch, Revoked


class MemoryMessage(msgspec.Struct, frozen=True):
    """See `workers.log.Message`."""

    offset: int
    key: bytes | None
    value: bytes | None


class MemoryTopic:
    """Messages by partition, and the group's committed offsets."""

    def __init__(self, partitions: int) -> None:
        self.messages: dict[int, list[MemoryMessage]] = {p: [] for p in range(partitions)}
        self.first: dict[int, int] = dict.fromkeys(range(partitions), 0)
        self.committed: dict[int, int] = {}

    def append(self, partition: int, key: bytes | None, value: bytes | None) -> int:
        """Add a message; returns its offset."""
        offset = self.end(partition)
        self.messages[partition].append(MemoryMessage(offset, key, value))
        return offset

    def end(self, partition: int) -> int:
        """The offset after the newest message."""
        return self.first[partition] + len(self.messages[partition])

    def delete_before(self, partition: int, offset: int) -> None:
        """Lose the oldest messages, as retention does."""
        del self.messages[partition][: offset - self.first[partition]]
        self.first[partition] = offset

    def delete_from(self, partition: int, offset: int) -> None:
        """Lose the newest messages, as a broker set back to older data does."""
        del self.messages[partition][offset - self.first[partition] :]


class MemoryBroker(MemoryTopic):
    """Topics and the group's assignment, shared by the logs of a test. It is the checkouts topic itself.

    `events` and `dead_letters` record what was published, by partition.
    """

    def __init__(self, partitions: int) -> None:
        super().__init__(partitions)
        self.partitions = partitions
        self.commands = MemoryTopic(partitions)
        self.events: dict[int, list[Record]] = defaultdict(list)
        self.dead_letters: dict[int, list[Record]] = defaultdict(list)
        self.generation = 0
        self.members: list[MemoryLog] = []

    def of(self, stream: Stream) -> MemoryTopic:
        return self.commands if stream is Stream.COMMANDS else self

    async def assign(
        self, assignment: "Mapping[MemoryLog, Collection[int]]", *, silent: "Collection[MemoryLog]" = ()
    ) -> None:
        """Give partitions to members. Everyone's are revoked first, and awaited; the silent ones do not notice."""
        told = [member for member in self.members if member not in silent]
        for member in told:
            await member.revoke()
        self.generation += 1
        for member in told:
            member.take(self.generation, frozenset(assignment.get(member, ())))


class MemoryLog:
    """See `workers.log.Log`. Members get their partitions by `MemoryBroker.assign`.

    Switches: `available` False makes every call but read raise Unavailable or NotAcknowledged. The next `lose_acks`
    publications reach the log and raise NotAcknowledged just the same.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.available = True
        self.lose_acks = 0
        self.positions: dict[tuple[Stream, int], int] = {}
        self._generation = 0
        self._assigned: frozenset[int] = frozenset()
        self._held: frozenset[int] = frozenset()  # as the broker sees it: until the next assignment
        self._revoked: Revoked | None = None

    async def start(self, revoked: Revoked) -> None:
        self._answer()
        self._revoked = revoked
        self.broker.members.append(self)

    async def stop(self) -> None:
        if self in self.broker.members:
            self.broker.members.remove(self)
        self._assigned = self._held = frozenset()

    async def revoke(self) -> None:
        """Before a new assignment: what is under way may still be finished and committed."""
        self._assigned = frozenset()
        if self._revoked is not None:
            await self._revoked()

    def take(self, generation: int, partitions: frozenset[int]) -> None:
        """Get partitions; reading begins at the committed offsets."""
        self._generation, self._assigned, self._held = generation, partitions, partitions
        self.positions = {
            (stream, p): self.broker.of(stream).committed.get(p, 0) for stream in Stream for p in partitions
        }

    def assigned(self) -> tuple[int, frozenset[int]]:
        return self._generation, self._assigned

    async def read(self, rows_max: int, wait_ms: int) -> dict[Stream, Batch]:
        await asyncio.sleep(0)
        return self.take_messages(rows_max)

    def take_messages(self, rows_max: int) -> dict[Stream, Batch]:
        """What there is to read, without waiting."""
        found = {stream: self._take_of(stream, rows_max) for stream in Stream}
        return {stream: batch for stream, batch in found.items() if batch}

    def _take_of(self, stream: Stream, rows_max: int) -> Batch:
        batch: Batch = {}
        topic = self.broker.of(stream)
        for p in sorted(self._held):
            there = topic.messages[p]
            begin = self.positions[stream, p] - topic.first[p]
            if not 0 <= begin <= len(there):
                begin = 0  # out of range: from the earliest, as the consumer is configured
            messages = there[begin : begin + rows_max]
            if messages:
                batch[p] = messages
                rows_max -= len(messages)
            self.positions[stream, p] = topic.first[p] + begin + len(messages)
        return batch

    def seek(self, stream: Stream, partition: int, offset: int) -> None:
        if partition not in self._held:
            raise FenceLost(f"partition {partition} is not assigned")
        self.positions[stream, partition] = offset

    async def first_offsets(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        self._answer()
        return {p: self.broker.of(stream).first[p] for p in partitions}

    async def end_offsets(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        self._answer()
        return {p: self.broker.of(stream).end(p) for p in partitions}

    async def committed(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        self._answer()
        topic = self.broker.of(stream)
        return {p: topic.committed.get(p, topic.first[p]) for p in partitions}

    async def commit(self, stream: Stream, offsets: Mapping[int, int]) -> None:
        self._answer()
        if self._generation != self.broker.generation or not self._held.issuperset(offsets):
            raise FenceLost("the group has gone on without us")
        self.broker.of(stream).committed.update(offsets)

    async def publish(self, events: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        self._send(self.broker.events, events)

    async def send(self, stream: Stream, messages: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        if self.available:
            for p, of_p in messages.items():
                for key, value, _ in of_p:
                    self.broker.of(stream).append(p, key, value)
        self._send(defaultdict(list), messages)

    async def set_aside(self, letters: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        self._send(self.broker.dead_letters, letters)

    def _send(self, topic: dict[int, list[Record]], records: Mapping[int, Sequence[Record]]) -> None:
        if not self.available:
            raise NotAcknowledged("the log in memory is switched off")
        for p, of_p in records.items():
            topic[p].extend(of_p)
        if self.lose_acks and any(records.values()):
            self.lose_acks -= 1
            raise NotAcknowledged("the ack was lost")

    def _answer(self) -> None:
        if not self.available:
            raise Unavailable("the log in memory is switched off")
