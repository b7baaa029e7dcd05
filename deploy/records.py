"""Reading topics from offset to offset, outside of any group: for those who look from outside."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from contracts.errors import SettingsError, Unavailable
from contracts.kafka import consumer_options, tp
from contracts.settings import Settings
from contracts.topics import Topics
from stock_ledger.audit.facts import TopicSpan

LOOK_S = 0.2  # between looks at what is still under way
PUBLISH_S = 2.0  # from a commit to what it publishes, at least waited for whatever the time limit
_STALL_MS = 15_000  # the log is known to go on, but gives nothing for so long
_RECORDS_MAX = 10_000
_GROUP_OPTIONS = ("session_timeout_ms", "heartbeat_interval_ms")

Offsets = dict[int, int]  # by partition


class Records:
    """Topics read from offset to offset, outside of any group."""

    def __init__(self, consumer: AIOKafkaConsumer, partitions: int) -> None:
        self._consumer = consumer
        self.partitions = partitions

    async def firsts(self, topic: str) -> Offsets:
        return self._offsets(await self._consumer.beginning_offsets(self._all(topic)))

    async def ends(self, topic: str) -> Offsets:
        return self._offsets(await self._consumer.end_offsets(self._all(topic)))

    async def spans(self, topic: str) -> dict[int, TopicSpan]:
        firsts, ends = await self.firsts(topic), await self.ends(topic)
        return {p: TopicSpan(firsts[p], ends[p]) for p in firsts}

    async def read(self, topic: str, start: Mapping[int, int], ends: Mapping[int, int]) -> AsyncIterator[Any]:
        """Records of start ≤ offset < end, in order within a partition."""
        left = {tp(topic, p): end for p, end in ends.items() if start[p] < end}
        if left:
            self._consumer.assign(list(left))
        for where in left:
            self._consumer.seek(where, start[where.partition])
        while left:
            taken = await self._consumer.getmany(*left, timeout_ms=_STALL_MS, max_records=_RECORDS_MAX)
            for records in taken.values():
                for record in records:
                    if record.offset < ends[record.partition]:
                        yield record
            reached = [where for where in left if await self._consumer.position(where) >= left[where]]
            if not taken and not reached:
                raise Unavailable(
                    f"Kafka gives nothing more of {sorted(left)}, though their ends are not reached"
                )
            for where in reached:
                del left[where]
            self._consumer.pause(*reached)

    async def read_until(
        self, topic: str, take: Callable[[Any], None], is_whole: Callable[[Offsets], bool], deadline: float
    ) -> dict[int, TopicSpan]:
        """Give all records to `take`, then those that come, until it `is_whole`, given the first offsets, or the deadline of the
        monotonic clock is over. What is published a moment after a commit is waited for in any case. Gives what was read.
        """
        deadline = max(deadline, time.monotonic() + PUBLISH_S)
        start = firsts = await self.firsts(topic)
        while True:
            ends = await self.ends(topic)
            async for record in self.read(topic, start, ends):
                take(record)
            start = ends
            if is_whole(firsts) or time.monotonic() > deadline:
                return {p: TopicSpan(firsts[p], end) for p, end in ends.items()}
            await asyncio.sleep(LOOK_S)

    def _all(self, topic: str) -> list[Any]:
        return [tp(topic, p) for p in range(self.partitions)]

    @staticmethod
    def _offsets(found: Mapping[Any, int]) -> Offsets:
        return {where.partition: offset for where, offset in found.items()}


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[Records]:
    """Raises Unavailable if Kafka does not answer, SettingsError if a topic has another number of partitions."""
    options = {
        name: value for name, value in consumer_options(settings).items() if name not in _GROUP_OPTIONS
    }
    consumer = AIOKafkaConsumer(client_id="sluiceway-reader", **options)
    try:
        await consumer.start()
        await _check_topics(settings)
        yield Records(consumer, settings.partitions)
    except KafkaError as error:
        raise Unavailable(f"Kafka: {error!r}") from error
    finally:
        await consumer.stop()


async def _check_topics(settings: Settings) -> None:
    """Raises SettingsError unless every topic has the configured number of partitions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_url.split(","))
    await admin.start()
    try:
        for topic in await admin.describe_topics(Topics(settings).all()):
            if len(topic["partitions"]) != settings.partitions:
                raise SettingsError(
                    f"topic {topic['topic']} has {len(topic['partitions'])} partitions, "
                    f"SLUICEWAY_PARTITIONS is {settings.partitions}"
                )
    finally:
        await admin.close()
