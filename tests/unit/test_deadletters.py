"""Dead letters again through the pipeline: under which key, to which partition."""

import pytest

from contracts.commands import Command, Move, Settle, TakeIn, decode_command, encode_command
from contracts.messages import decode_checkout_line
from contracts.settings import Settings
from contracts.topics import Stream
from deploy import deadletters
from deploy.deadletters import Letter, replay
from ingest.fakes import MemoryProducer
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
