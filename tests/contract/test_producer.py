"""What ingest counts on from a producer, in memory and in Kafka."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from contracts.kafka import Record, send, start_producer
from contracts.settings import Settings
from contracts.topics import Topics
from ingest.fakes import MemoryProducer
from tests.contract.adapters import memory_or
from tests.harness import eventually, records_of
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
