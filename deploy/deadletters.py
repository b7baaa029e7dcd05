"""Dead letters: what was set aside and why, and again through the pipeline once it can be read."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from contracts.commands import read_command
from contracts.errors import Invalid, NotAcknowledged, Unavailable, UndecodableMessage
from contracts.kafka import Record, send
from contracts.kafka_clients import start_producer, stop_producer
from contracts.messages import decode_checkout_line, read_checkout_line
from contracts.settings import Settings
from contracts.topics import Stream, Topics, partition_of
from deploy.records import reading

Place = tuple[Stream, int, int]  # stream, partition, offset


class Letter(msgspec.Struct, frozen=True):
    """A message that could not be decided, as it was: `truncated_to` bytes of key and value if it was very large.

    `still` is why it cannot be decided today either; empty when it can.
    """

    stream: Stream
    partition: int
    offset: int
    reason: str
    key: bytes
    value: bytes
    still: str
    truncated_to: int | None = None

    @property
    def place(self) -> Place:
        return self.stream, self.partition, self.offset

    @property
    def where(self) -> str:
        """The place as people write it."""
        return written(self.place)


class Stray(msgspec.Struct, frozen=True):
    """A record of the dead-letter topic itself that is no dead letter, and why not."""

    partition: int
    offset: int
    size: int
    why: str

    @property
    def where(self) -> str:
        """Its place in that topic."""
        return f"dead-letters:{self.partition}:{self.offset}"

    @property
    def told(self) -> str:
        return f"no dead letter: {self.why}"


def written(place: Place) -> str:
    """PARTITION:OFFSET of the checkouts topic; of the commands topic with "commands:" before it."""
    stream, partition, offset = place
    there = f"{partition}:{offset}"
    return there if stream is Stream.CHECKOUTS else f"{stream}:{there}"


async def letters(settings: Settings) -> tuple[list[Letter], list[Stray]]:
    """All that the dead-letter topic holds: letters, each once, by place; and what is none. Raises Unavailable if Kafka
    does not answer.
    """
    topic = Topics(settings).dead_letters
    found: dict[Place, Letter] = {}
    strays: list[Stray] = []
    async with reading(settings) as log:
        async for record in log.read(topic, await log.firsts(topic), await log.ends(topic)):
            try:
                letter = _letter_of(record, settings)
            except Invalid as error:
                strays.append(Stray(record.partition, record.offset, len(record.value or b""), str(error)))
            else:
                found[letter.place] = letter
    return [found[place] for place in sorted(found)], strays


def _letter_of(record: Any, settings: Settings) -> Letter:
    """Raises Invalid with what is wrong with a record that is no letter: anyone may have put it there."""
    headers = {name: value or b"" for name, value in record.headers}
    try:
        stream = Stream(headers.get("stream", Stream.CHECKOUTS.encode()).decode())
        place = (stream, int(headers["partition"]), int(headers["offset"]))
        cut = int(headers["truncated-to"]) if "truncated-to" in headers else None
    except KeyError as missing:
        raise Invalid(f"it has no header {missing}") from missing
    except ValueError as error:
        raise Invalid(f"of its headers, {error}") from error
    key, value = record.key or b"", record.value or b""
    reason = headers.get("reason", b"").decode(errors="replace")
    return Letter(*place, reason, key, value, _why_not(stream, value, settings), cut)


async def replay(
    settings: Settings,
    chosen: Sequence[Letter],
    value: bytes | None = None,
    tell: Callable[[Letter, Place], None] = lambda _letter, _place: None,
) -> list[Place]:
    """Put letters into the topics they came from again, or `value` in the place of the one chosen; their new places,
    which `tell` is told as each is acknowledged.

    Their checkout and command ids stay, so that replaying twice decides once. The old place keeps its answer, a dead letter.
    Raises Invalid, before anything is sent, if one of them could still not be decided; Unavailable if Kafka does not
    answer; NotAcknowledged if it does not confirm one: those after it are not sent.
    """
    mended = [_mended(letter, value, settings) for letter in chosen]
    places: list[Place] = []
    try:
        producer = await start_producer(settings, "sluiceway-deadletters")
    except KafkaError as error:
        raise Unavailable(f"Kafka: {error!r}") from error
    try:
        for letter, (key, partition, content) in zip(chosen, mended, strict=True):
            offset = await _put(producer, letter, partition, (key, content, []), settings)
            places.append((letter.stream, partition, offset))
            tell(letter, places[-1])
    finally:
        await stop_producer(producer)
    return places


async def _put(
    producer: AIOKafkaProducer, letter: Letter, partition: int, record: Record, settings: Settings
) -> int:
    """The offset, once acknowledged. Raises NotAcknowledged."""
    topic = Topics(settings).of(letter.stream)
    try:
        async with asyncio.timeout(settings.produce_ack_deadline_s):
            [(_, ack)] = await send(producer, topic, partition, [record], time.time_ns() // 1_000_000)
            offset: int = (await ack).offset
    except (KafkaError, TimeoutError, NotAcknowledged) as error:
        raise NotAcknowledged(
            f"the dead letter of {letter.where} was not acknowledged: {error!r}; replay it again: twice decides once"
        ) from error
    if offset < 0:
        raise NotAcknowledged(
            f"the broker does not tell where it put the dead letter of {letter.where}; replay it again"
        )
    return offset


def _mended(letter: Letter, value: bytes | None, settings: Settings) -> tuple[bytes, int, bytes]:
    """Key, partition and value to send. The first two follow from the value, whatever they were."""
    content = letter.value if value is None else value
    what = f"the dead letter of {letter.where}"
    if value is None and letter.truncated_to is not None:
        raise Invalid(f"{what} was cut to {letter.truncated_to} bytes; give its whole content with --value")
    try:
        return *_place_of(letter.stream, content, settings), content
    except UndecodableMessage as error:
        raise Invalid(f"{what} can still not be decided: {error}; mend its content with --value") from error


def _why_not(stream: Stream, value: bytes, settings: Settings) -> str:
    try:
        _place_of(stream, value, settings)
    except UndecodableMessage as error:
        return str(error)
    return ""


def _place_of(stream: Stream, value: bytes, settings: Settings) -> tuple[bytes, int]:
    """Key and partition under which the value can be decided. Raises UndecodableMessage."""
    if stream is Stream.COMMANDS:
        command = read_command(value)
        key, partition = command.subject().encode(), command.partition(settings.partitions)
        if partition >= settings.partitions:
            raise UndecodableMessage(f"{command.subject()} is not an order of these partitions")
        return key, partition
    line = read_checkout_line(value)
    key, partition = line.partition_key(), partition_of(line.stock_id, settings.partitions)
    decode_checkout_line(value, key, partition, settings.partitions)
    return key, partition
