"""The log as a writer sees it: read, seek, publish, commit. Kafka is its real adapter."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol

from contracts.kafka import Record
from contracts.topics import Stream


class Message(Protocol):
    """What is read: aiokafka's ConsumerRecord has this shape."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


Batch = dict[int, Sequence[Message]]  # of one stream, by partition, in the order of offsets
Revoked = Callable[[], Awaitable[None]]


class Log(Protocol):
    """Every method but `read` raises Unavailable or NotAcknowledged when the brokers do not answer."""

    async def start(self, revoked: Revoked) -> None:
        """Join the group; after a failure it may be tried again. `revoked` is awaited before partitions go to another
        member.
        """
        ...

    async def stop(self) -> None:
        """Leave the group, so that the others take over at once."""
        ...

    def assigned(self) -> tuple[int, frozenset[int]]:
        """Generation of the assignment, and the partitions that are ours in it."""
        ...

    async def read(self, rows_max: int, wait_ms: int) -> dict[Stream, Batch]:
        """The next messages of the assigned partitions, at most so many of each stream; empty after `wait_ms` without
        any.
        """
        ...

    def seek(self, stream: Stream, partition: int, offset: int) -> None:
        """Read the partition from `offset` on."""
        ...

    async def first_offsets(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        """The oldest offset that is still there."""
        ...

    async def end_offsets(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        """The offset after the newest message."""
        ...

    async def committed(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        """The group's committed offsets. Where there is none, the oldest one that is still there: what came before was told
        long ago.
        """
        ...

    async def commit(self, stream: Stream, offsets: Mapping[int, int]) -> None:
        """Commit next offsets. Raises FenceLost if the group has gone on without us."""
        ...

    async def publish(self, events: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        """Publish to the events topic, by partition, and wait for every ack."""
        ...

    async def send(self, stream: Stream, messages: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        """Publish what writers are to decide, by partition, and wait for every ack."""
        ...

    async def set_aside(self, letters: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        """Publish to the dead-letter topic, by partition, and wait for every ack."""
        ...


def pieces(batch: Batch, bytes_max: int) -> Iterator[Batch]:
    """The batch in parts of at most `bytes_max` bytes of keys and values, or one message; one part if it is empty.

    Each partition's messages stay in order.
    """
    piece: Batch = {}
    left = bytes_max
    for partition, messages in batch.items():
        start = 0
        for number, message in enumerate(messages):
            left -= len(message.key or b"") + len(message.value or b"")
            if left < 0 and (piece or number > start):
                if number > start:
                    piece[partition] = messages[start:number]
                yield piece
                piece, start = {}, number
                left = bytes_max - len(message.key or b"") - len(message.value or b"")
        piece[partition] = messages[start:]
    yield piece
