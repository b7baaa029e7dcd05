"""Dead letters again through the pipeline: under which key, to which partition; and what is told if Kafka fails."""

import asyncio
from typing import Any

import msgspec
import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, NotEnoughReplicasError

from contracts.commands import Command, Move, Settle, TakeIn, decode_command, encode_command
from contracts.errors import NotAcknowledged, Unavailable
from contracts.messages import decode_checkout_line
from contracts.settings import Settings
from contracts.topics import Stream, partition_of
from deploy import deadletters
from deploy.deadletters import Letter, Place, replay
from ingest.fakes import MemoryBatch, MemoryProducer, Metadata
from tests.desk import asked
from tests.harness import encoded, line_of, uuid_of

Sent = list[tuple[int, bytes | None, bytes | None]]  # partition, key, value


def letter(value: bytes, stream: Stream = Stream.CHECKOUTS, offset: int = 0) -> Letter:
    return Letter(stream, 0, offset, "the key is not the product id", b"another", value, "")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """What is sent from here on."""
    log: Sent = []

    def append(partition: int, key: bytes | None, value: bytes | None) -> int:
        log.append((partition, key, value))
        return len(log) - 1

    async def start(settings: Settings, client_id: str) -> MemoryProducer:
        return MemoryProducer(append)

    monkeypatch.setattr(deadletters, "start_producer", start)
    return log


@pytest.mark.parametrize("number", [0, 1, 3])
async def test_a_line_of_a_slice_goes_to_the_writer_of_the_slice(
    offline_settings: Settings, sent: Sent, number: int
) -> None:
    line = line_of(1, "p", slice=number)
    mended = line_of(2, "p", slice=number)
    await replay(offline_settings, [letter(encoded(line))])
    await replay(offline_settings, [letter(b"{")], encoded(mended))
    assert [
        decode_checkout_line(value, key, partition, offline_settings.partitions)
        for partition, key, value in sent
    ] == [line, mended]


@pytest.mark.parametrize(
    "command",
    [
        asked(Move, product_id="p", slice=1, to=0, units=2),
        asked(TakeIn, product_id="p~3", units=2),
        asked(Settle, product_id="p~1", checkout_id=uuid_of(1), to="released"),
    ],
)
async def test_a_command_about_a_slice_goes_to_the_writer_of_the_slice(
    offline_settings: Settings, sent: Sent, command: Command
) -> None:
    await replay(offline_settings, [letter(encode_command(command), Stream.COMMANDS)])
    [(partition, key, value)] = sent
    assert decode_command(value, key, partition, offline_settings.partitions) == command


class FailingProducer(MemoryProducer):
    """One whose third ack is an error, or never comes (None)."""

    def __init__(self, error: KafkaError | None) -> None:
        super().__init__(lambda _partition, _key, _value: len(self.batches) - 1)
        self._error = error

    async def send_batch(
        self, batch: MemoryBatch, topic: str, *, partition: int
    ) -> "asyncio.Future[Metadata]":
        self.hold = len(self.batches) == 2
        ack = await super().send_batch(batch, topic, partition=partition)
        if self.hold and self._error is not None:
            ack.set_exception(self._error)
        return ack


@pytest.mark.parametrize("error", [NotEnoughReplicasError(), None])
async def test_what_was_sent_before_kafka_failed_is_told(
    offline_settings: Settings, monkeypatch: pytest.MonkeyPatch, error: KafkaError | None
) -> None:
    producer = FailingProducer(error)

    async def start(settings: Settings, client_id: str) -> MemoryProducer:
        return producer

    monkeypatch.setattr(deadletters, "start_producer", start)
    told: list[tuple[str, Place]] = []
    settings = msgspec.structs.replace(offline_settings, produce_ack_deadline_s=0.01)
    chosen = [letter(encoded(line_of(n, "p")), offset=n) for n in range(4)]
    with pytest.raises(NotAcknowledged, match="the dead letter of 0:2 was not acknowledged"):
        await replay(settings, chosen, None, lambda which, now: told.append((which.where, now)))
    place = partition_of("p", settings.partitions)
    assert told == [("0:0", (Stream.CHECKOUTS, place, 0)), ("0:1", (Stream.CHECKOUTS, place, 1))]
    assert len(producer.batches) == 3, "those after it are not sent"
    assert producer.stopped


async def test_without_kafka_nothing_is_sent(
    offline_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(settings: Settings, client_id: str) -> Any:
        raise KafkaConnectionError("nobody there")

    monkeypatch.setattr(deadletters, "start_producer", start)
    with pytest.raises(Unavailable, match="nobody there"):
        await replay(offline_settings, [letter(encoded(line_of(1, "p")))])
