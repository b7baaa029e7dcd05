"""What ingest counts on from a producer, in memory and in Kafka."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient

from contracts.kafka import Record, send
from contracts.kafka_clients import start_producer, stop_producer
from contracts.settings import Settings
from contracts.topics import Topics
from deploy.stack import LocalStack
from ingest.fakes import MemoryProducer
from tests.contract.adapters import memory_or
from tests.harness import Traces, eventually, records_of, stalled
from workers.fakes import MemoryBroker

PARTITIONS = 4
Sent = list[tuple[int, int]]  # (records, offset of the first) of each batch


class MemoryWorld:
    topic = "checkouts"

    def __init__(self) -> None:
        self.broker = MemoryBroker(PARTITIONS)
        self.producer: Any = MemoryProducer(self.broker.append, batch_bytes_max=10_000)

    async def messages(self, partition: int) -> list[tuple[bytes | None, bytes | None]]:
        return [(m.key, m.value) for m in self.broker.messages[partition]]

    async def stop(self) -> None:
        await self.producer.stop()


class KafkaWorld:
    def __init__(self, settings: Settings, producer: Any) -> None:
        self.settings = settings
        self.producer = producer
        self.topic = Topics(settings).checkouts

    async def messages(self, partition: int) -> list[tuple[bytes | None, bytes | None]]:
        return [(r.key, r.value) for r in await records_of(self.settings, self.topic, partition)]

    async def stop(self) -> None:
        await self.producer.stop()


World = MemoryWorld | KafkaWorld


world_settings = memory_or("kafka", "topic_settings")


@pytest.fixture
async def world(world_settings: Settings | None) -> AsyncIterator[World]:
    if world_settings is None:
        yield MemoryWorld()
        return
    made = KafkaWorld(world_settings, await start_producer(world_settings, "producer"))
    yield made
    await made.stop()


async def lie(world: World, partition: int, *values: bytes) -> None:
    """Wait until these are there to be read, and no others: a partition that was just given a leader may be behind."""

    async def are_there() -> bool:
        return await world.messages(partition) == [(b"k", value) for value in values]

    await eventually(are_there)


async def test_it_knows_the_partitions_of_its_topic(world: World) -> None:
    assert await world.producer.partitions_for(world.topic) == set(range(PARTITIONS))


async def test_brokers_are_not_asked_for_a_missing_leader_as_fast_as_they_answer(
    topic_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    ask = AIOKafkaClient._metadata_update

    async def without_leaders(self: Any, cluster: Any, topics: Any) -> Any:
        asked.append(asyncio.get_running_loop().time())
        answered = await ask(self, cluster, topics)
        for of_topic in cluster._partitions.values():
            of_topic.update({p: told._replace(leader=-1) for p, told in of_topic.items()})
        return answered

    monkeypatch.setattr(AIOKafkaClient, "_metadata_update", without_leaders)
    producer = await start_producer(topic_settings, "producer")
    sending = asyncio.create_task(producer.send(Topics(topic_settings).checkouts, b"v", partition=0))
    await eventually(lambda: len(asked) >= 6)
    assert asked[5] - asked[1] > 0.3  # the first two may be of the start
    await sending
    await stop_producer(producer)


async def send_all(world: World, partition: int, *values: bytes) -> Sent:
    records: list[Record] = [(b"k", value, []) for value in values]
    sent = await send(world.producer, world.topic, partition, records, 1_794_394_800_000)
    return [(count, (await ack).offset) for count, ack in sent]


async def test_records_lie_in_order_from_the_offset_that_is_told(world: World) -> None:
    assert await send_all(world, 0, b"a", b"b", b"c") == [(3, 0)]
    assert await send_all(world, 0, b"d") == [(1, 3)]
    assert await send_all(world, 3, b"x") == [(1, 0)]
    await lie(world, 0, b"a", b"b", b"c", b"d")
    await lie(world, 3, b"x")
    assert await world.messages(1) == []


async def test_a_record_that_is_larger_than_a_batch_goes_alone(world: World) -> None:
    assert await send_all(world, 0, b"a", b"x" * 600_000, b"b") == [(1, 0), (1, 1), (1, 2)]
    assert [len(value or b"") for _, value in await world.messages(0)] == [1, 600_000, 1]


async def test_what_does_not_fit_in_one_batch_goes_in_several(world: World) -> None:
    size = 4000 if isinstance(world, MemoryWorld) else 200_000
    values = [b"%d" % n * size for n in range(1, 6)]
    sent = await send_all(world, 2, *values)
    assert len(sent) > 1
    assert sum(count for count, _ in sent) == 5
    await lie(world, 2, *values)


async def delete_topic(settings: Settings, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_url.split(","))
    await admin.start()

    async def is_gone() -> bool:
        return topic not in await admin.list_topics()

    try:
        await admin.delete_topics([topic])
        await eventually(is_gone)
    finally:
        await admin.close()


async def test_of_a_producer_that_is_stopped_while_a_partition_takes_nothing_nothing_is_left(
    topic_settings: Settings,
) -> None:
    topic = Topics(topic_settings).checkouts
    traces = Traces()
    producer = await start_producer(topic_settings, "producer")
    await producer.send_and_wait(topic, b"v", b"k", 0)
    await delete_topic(topic_settings, topic)
    ((_, ack),) = await send(producer, topic, 0, [(b"k", b"v", [])], 1_794_394_800_000)
    await stop_producer(producer)
    assert not ack.done()
    await traces.are_gone()


async def test_of_a_producer_that_is_stopped_while_the_broker_is_stalled_nothing_is_left(
    topic_settings: Settings, stack: LocalStack
) -> None:
    """Not even what is too much for the buffers of its connections."""
    settings = msgspec.structs.replace(topic_settings, produce_batch_bytes=64 * 1024 * 1024)
    topic = Topics(settings).checkouts
    traces = Traces()
    producer = await start_producer(settings, "producer")
    assert (await producer.send_and_wait(topic, b"v", b"k", 0)).offset == 0
    async with stalled(stack, settings):
        await send(producer, topic, 0, [(b"k", bytes(32 * 1024 * 1024), [])], 1_794_394_800_000)
        await stop_producer(producer)
        await traces.are_gone()
