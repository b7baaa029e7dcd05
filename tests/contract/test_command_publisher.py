"""What the api counts on from where commands go, in memory and in Kafka."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from api.publisher import CommandPublisher, KafkaCommands, MemoryCommands
from contracts.commands import Cancel, Command, Restock, decode_command
from contracts.decisions import order_id_of
from contracts.kafka_clients import start_producer
from contracts.settings import Settings
from contracts.topics import Topics
from tests.contract.adapters import memory_or
from tests.harness import product_in, records_of, uuid_of

PARTITIONS = 4

world_settings = memory_or("kafka", "topic_settings")

Written = Callable[[int], Awaitable[list[Command]]]
World = tuple[CommandPublisher, Written]


@pytest.fixture
async def world(world_settings: Settings | None) -> AsyncIterator[World]:
    if world_settings is None:
        memory = MemoryCommands(PARTITIONS)

        async def kept(partition: int) -> list[Command]:
            return [c for c in memory.published if c.partition(PARTITIONS) == partition]

        yield memory, kept
        return
    settings = world_settings
    commands = KafkaCommands(lambda: start_producer(settings, "commands"), settings)

    async def written(partition: int) -> list[Command]:
        records = await records_of(settings, Topics(settings).commands, partition)
        return [decode_command(r.value, r.key, partition, PARTITIONS) for r in records]

    yield commands, written
    await commands.stop()


def cancel(number: int, partition: int) -> Cancel:
    return Cancel(
        command_id=uuid_of(number),
        actor="buyer:b1",
        asked_at_ms=1,
        order_id=order_id_of(1_794_394_800_000, partition, number),
        buyer_id="b1",
    )


async def test_a_command_lies_in_the_partition_of_its_writer_and_can_be_read_there(world: World) -> None:
    commands, written = world
    stock = Restock(
        command_id=uuid_of("r"), actor="merchant:m", asked_at_ms=1, product_id=product_in(1, PARTITIONS), units=5
    )  # fmt: skip
    assert await commands.publish(cancel(1, 3)) == (3, 0)
    assert await commands.publish(stock) == (1, 0)
    assert await commands.publish(cancel(2, 3)) == (3, 1)
    assert await written(3) == [cancel(1, 3), cancel(2, 3)]
    assert await written(1) == [stock]
    assert commands.problem == ""


async def test_the_same_command_again_is_another_message(world: World) -> None:
    commands, written = world
    assert [await commands.publish(cancel(1, 0)) for _ in range(2)] == [(0, 0), (0, 1)]
    assert await written(0) == [cancel(1, 0)] * 2
