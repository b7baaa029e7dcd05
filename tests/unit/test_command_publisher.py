"""What becomes of commands when Kafka does not do as it should."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, OutOfOrderSequenceNumber

from api.publisher import KafkaCommands
from contracts import kafka_clients
from contracts.commands import Pick
from contracts.decisions import order_id_of
from contracts.errors import NotAcknowledged
from contracts.settings import Settings
from tests.harness import eventually, uuid_of

ORDER = order_id_of(1_794_394_800_000, 2, 7)
COMMAND = Pick(command_id=uuid_of(1), actor="merchant:m", asked_at_ms=1, order_id=ORDER)


class Sent(msgspec.Struct):
    offset: int


class Producer:
    """As much of a producer as is used: gives an offset, raises, or never answers (None)."""

    def __init__(self, answer: int | KafkaError | None) -> None:
        self.answer = answer
        self.stopped = False

    async def send_and_wait(self, topic: str, value: bytes, key: bytes, partition: int) -> Sent:
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, KafkaError):
            raise self.answer
        return Sent(self.answer or 0)

    async def stop(self) -> None:
        self.stopped = True


def starting(*producers: Producer | KafkaError) -> Callable[[], Any]:
    """One after the other, each at a start of its own."""
    left = list(producers)

    async def start() -> Producer:
        producer = left.pop(0)
        if isinstance(producer, KafkaError):
            raise producer
        return producer

    return start


@pytest.fixture
def settings(offline_settings: Settings) -> Settings:
    return msgspec.structs.replace(offline_settings, produce_ack_deadline_s=0.01)


@pytest.mark.parametrize("answer", [OutOfOrderSequenceNumber(), KafkaConnectionError(), None])
async def test_a_producer_that_failed_is_replaced(settings: Settings, answer: KafkaError | None) -> None:
    first, second = Producer(answer), Producer(5)
    commands = KafkaCommands(starting(first, second), settings)
    with pytest.raises(NotAcknowledged):
        await commands.publish(COMMAND)
    assert first.stopped
    assert commands.problem
    assert await commands.publish(COMMAND) == (2, 5)
    assert (commands.problem, second.stopped) == ("", False)
    await commands.stop()
    assert second.stopped


async def test_a_broker_that_is_away_is_tried_again_with_the_next_command(settings: Settings) -> None:
    commands = KafkaCommands(starting(KafkaConnectionError(), Producer(0)), settings)
    with pytest.raises(NotAcknowledged):
        await commands.publish(COMMAND)
    assert await commands.publish(COMMAND) == (2, 0)


async def test_a_broker_that_is_back_is_told_of_without_a_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_clients, "_CONNECT_EVERY_S", 0.0)
    commands = KafkaCommands(
        starting(Producer(KafkaConnectionError()), KafkaConnectionError(), Producer(5)), settings
    )
    connecting = asyncio.create_task(commands.run())
    with pytest.raises(NotAcknowledged):
        await commands.publish(COMMAND)
    assert commands.problem
    await eventually(lambda: not commands.problem)
    connecting.cancel()
    assert await commands.publish(COMMAND) == (2, 5)


async def test_an_offset_that_is_not_told_is_no_place(settings: Settings) -> None:
    producer = Producer(-1)
    commands = KafkaCommands(starting(producer), settings)
    with pytest.raises(NotAcknowledged):
        await commands.publish(COMMAND)
    assert not producer.stopped
