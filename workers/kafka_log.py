"""The log in Kafka, by aiokafka."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from contracts.errors import FenceLost, NotAcknowledged, Unavailable
from contracts.kafka import Record, consumer_options, send, tp
from contracts.kafka_clients import SharedProducer, start_producer, stop_consumer
from contracts.settings import Settings
from contracts.topics import Stream, Topics
from workers.log import Batch, Revoked

logger = logging.getLogger(__name__)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Keeps an own account of the assignment: aiokafka's is live before its callbacks end."""

    def __init__(self, revoked: Revoked) -> None:
        self.generation = 0
        self.partitions: frozenset[int] = frozenset()
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: Any) -> None:
        self.partitions = frozenset()
        await self._revoked()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        self.generation += 1
        # Of both streams the same: range assignment of topics with equal partition counts.
        self.partitions = frozenset(p.partition for p in assigned)
        logger.info(
            "partitions assigned", extra={"action": "assigned", "partitions": sorted(self.partitions)}
        )


class KafkaLog:
    """See `workers.log.Log`."""

    def __init__(self, settings: Settings, client_id: str) -> None:
        self._settings = settings
        self._topics = Topics(settings)
        self._client_id = client_id
        self._consumer: AIOKafkaConsumer | None = None
        self._producer = SharedProducer(lambda: start_producer(settings, client_id))
        self._listener: _Listener | None = None

    async def start(self, revoked: Revoked) -> None:
        self._listener = _Listener(revoked)
        self._consumer = AIOKafkaConsumer(
            group_id=self._settings.consumer_group,
            client_id=self._client_id,
            partition_assignment_strategy=(RangePartitionAssignor,),
            **consumer_options(self._settings),
        )
        self._consumer.subscribe([self._topics.of(stream) for stream in Stream], listener=self._listener)
        try:
            await self._consumer.start()
        except KafkaError as error:
            await stop_consumer(self._consumer)
            raise Unavailable(f"Kafka: {error!r}") from error

    async def stop(self) -> None:
        try:
            if self._consumer is not None:
                await stop_consumer(self._consumer)
        finally:
            await self._producer.stop()

    def assigned(self) -> tuple[int, frozenset[int]]:
        if self._listener is None:
            return 0, frozenset()
        return self._listener.generation, self._listener.partitions

    async def read(self, rows_max: int, wait_ms: int) -> dict[Stream, Batch]:
        found = await self._fetch(rows_max, 0, Stream.COMMANDS)
        found |= await self._fetch(rows_max, 0, Stream.CHECKOUTS)
        return found or await self._fetch(rows_max, wait_ms, *Stream)

    async def _fetch(self, rows_max: int, wait_ms: int, *streams: Stream) -> dict[Stream, Batch]:
        reader, found = self._reader, dict[Stream, Batch]()
        ours = [tp(self._topics.of(s), p) for s in streams for p in self.assigned()[1]]
        if not ours and not wait_ms:
            return found
        # Never cancelled and never under a timeout: that would disable the eviction of a stuck member.
        records = await reader.getmany(*ours, timeout_ms=wait_ms, max_records=rows_max)
        for where, messages in records.items():
            if messages:
                stream = self._topics.stream_of(where.topic)
                found.setdefault(stream, {})[where.partition] = messages
        return found

    def seek(self, stream: Stream, partition: int, offset: int) -> None:
        try:
            self._reader.seek(tp(self._topics.of(stream), partition), offset)
        except IllegalStateError as error:  # the partition is not ours any more
            raise FenceLost(str(error)) from error

    async def first_offsets(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        async with self._answering():
            found = await self._reader.beginning_offsets(self._of(stream, partitions))
        return {where.partition: offset for where, offset in found.items()}

    async def end_offsets(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        async with self._answering():
            found = await self._reader.end_offsets(self._of(stream, partitions))
        return {where.partition: offset for where, offset in found.items()}

    async def committed(self, stream: Stream, partitions: Sequence[int]) -> dict[int, int]:
        async with self._answering():  # one request: the reader itself has one for each partition
            coordinator = self._reader._coordinator  # noqa: SLF001
            found = await coordinator.fetch_committed_offsets(self._of(stream, partitions))
        there = {place.partition: committed.offset for place, committed in found.items()}
        nowhere = [p for p in partitions if p not in there]
        return (await self.first_offsets(stream, nowhere) if nowhere else {}) | there

    async def commit(self, stream: Stream, offsets: Mapping[int, int]) -> None:
        async with self._answering():
            topic = self._topics.of(stream)
            await self._reader.commit({tp(topic, p): offset for p, offset in offsets.items()})

    def _of(self, stream: Stream, partitions: Sequence[int]) -> list[TopicPartition]:
        return [tp(self._topics.of(stream), p) for p in partitions]

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """The library's errors become ours. By itself it would ask a coordinator that is away for ever."""
        try:
            async with asyncio.timeout(self._settings.produce_ack_deadline_s):
                yield
        except (CommitFailedError, IllegalStateError) as error:
            raise FenceLost(str(error)) from error
        except (KafkaError, TimeoutError) as error:
            raise Unavailable(f"Kafka: {error!r}") from error

    async def publish(self, events: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        await self._send(self._topics.events, events, timestamp_ms)

    async def send(self, stream: Stream, messages: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        await self._send(self._topics.of(stream), messages, timestamp_ms)

    async def set_aside(self, letters: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        await self._send(self._topics.dead_letters, letters, timestamp_ms)

    async def _send(self, topic: str, records: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        """Send and wait for every ack. A producer that failed is not used again: its sequence may be stuck."""
        producer = None
        try:
            async with asyncio.timeout(self._settings.produce_ack_deadline_s):
                producer = await self._producer.ready()
                sent = [await send(producer, topic, p, of_p, timestamp_ms) for p, of_p in records.items()]
                for _, ack in (batch for batches in sent for batch in batches):
                    await ack
        except (KafkaError, TimeoutError, NotAcknowledged) as error:
            await self._producer.drop(producer)
            raise NotAcknowledged(f"{topic}: {error!r}") from error

    @property
    def _reader(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise Unavailable("the log is not started")
        return self._consumer
