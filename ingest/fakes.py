"""What ingest talks to, in memory, for tests and trials: one HTTP exchange, and a producer. No clock, no random."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import orjson
from aiokafka.errors import KafkaConnectionError

HeaderValue = str | bytes | list[str] | None
Append = Callable[[int, bytes | None, bytes | None], int]  # (partition, key, value) -> offset


class MemoryHeaders:
    """See `contracts.http.RequestHeaders`. A value that is None is not there, a list comes once for each, bytes are
    not text.
    """

    def __init__(self, given: dict[str, HeaderValue]) -> None:
        self._given = {name: value for name, value in given.items() if value is not None}
        self._items: list[tuple[str, str]] = []
        for name, value in self._given.items():
            if isinstance(value, str):
                self._items.append((name, value))
            elif isinstance(value, list):
                self._items += [(name, one) for one in value]

    def items(self) -> list[tuple[str, str]]:
        return self._items

    def __contains__(self, name: str) -> bool:
        return name in self._given


class MemoryScope(msgspec.Struct, frozen=True):
    """See `contracts.http.Scope`."""

    method: str
    path: str
    headers: MemoryHeaders


class Answered(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


class MemoryExchange:
    """See `contracts.http.Exchange`: a body, given whole or in chunks, and the response to it."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._answered: Answered | None = None
        self.chunks_read = 0

    async def __call__(self) -> bytes:
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), 10_000):
            self.chunks_read += 1
            yield self._body[start : start + 10_000]

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        by_name = dict(headers)
        if self._answered is not None or len(by_name) < len(headers):
            raise RuntimeError("answered twice, or a header given twice")
        self._answered = Answered(status, by_name, body)

    def answered(self) -> Answered:
        """The response. Raises RuntimeError if there was none."""
        if self._answered is None:
            raise RuntimeError("not answered")
        return self._answered


class MemoryBatch:
    """What `create_batch` gives: records until `bytes_max` are reached, one in any case."""

    def __init__(self, bytes_max: int) -> None:
        self.records: list[tuple[bytes | None, bytes | None]] = []
        self._left = bytes_max

    def append(
        self, *, key: bytes | None, value: bytes | None, timestamp: int, headers: Any
    ) -> object | None:
        size = len(key or b"") + len(value or b"")
        if self.records and size > self._left:
            return None
        self._left -= size
        self.records.append((key, value))
        return self

    def record_count(self) -> int:
        return len(self.records)

    def close(self) -> None:
        """Nothing is added after this."""


class Metadata(msgspec.Struct, frozen=True):
    """Of a batch in the log: the offset of its first record."""

    offset: int


class MemoryProducer:
    """As much of an idempotent producer as is used. Switches: `broken` fails every send, `hold` keeps acks back, `silent`
    does not tell partitions.
    """

    def __init__(self, append: Append, batch_bytes_max: int = 512 * 1024, partitions: int = 4) -> None:
        self._append = append
        self._batch_bytes_max = batch_bytes_max
        self._partitions = partitions
        self.batches: list[tuple[int, int]] = []  # (partition, records)
        self.hold = False
        self.broken = False
        self.silent = False
        self.held: list[tuple[asyncio.Future[Metadata], int]] = []
        self.stopped = False

    async def partitions_for(self, topic: str) -> set[int]:
        if self.silent:
            await asyncio.Event().wait()
        return set(range(self._partitions))

    def create_batch(self) -> MemoryBatch:
        return MemoryBatch(self._batch_bytes_max)

    async def send_batch(
        self, batch: MemoryBatch, topic: str, *, partition: int
    ) -> "asyncio.Future[Metadata]":
        """The batch is in the log when this returns; the future is its ack. Raises KafkaError if it cannot be."""
        if self.broken:
            raise KafkaConnectionError("the broker is away")
        base = self.write(batch, partition)
        ack: asyncio.Future[Metadata] = asyncio.get_running_loop().create_future()
        if self.hold:
            self.held.append((ack, base))
        else:
            ack.set_result(Metadata(base))
        return ack

    def write(self, batch: MemoryBatch, partition: int) -> int:
        """Put the records into the log, one after the other; the first one's offset."""
        self.batches.append((partition, batch.record_count()))
        offsets = [self._append(partition, key, value) for key, value in batch.records]
        return offsets[0]

    def acknowledge(self) -> None:
        held, self.held = self.held, []
        for ack, base in held:
            ack.set_result(Metadata(base))

    async def stop(self) -> None:
        self.stopped = True
