"""Dead letters: what was set aside and why, and again through the pipeline once it can be read."""

import time
from collections.abc import Sequence

import msgspec

from contracts.errors import Invalid, NotAcknowledged, UndecodableMessage
from contracts.kafka import Record, send, start_producer
from contracts.messages import CheckoutLine, decode_checkout_line
from contracts.settings import Settings
from contracts.topics import Topics, partition_of
from deploy.records import reading

Place = tuple[int, int]  # (partition, offset) in the checkouts topic


class Letter(msgspec.Struct, frozen=True):
    """A message that could not be decided, as it was: `truncated_to` bytes of key and value if it was very large.

    `still` is why it cannot be decided today either; empty when it can.
    """

    partition: int
    offset: int
    reason: str
    key: bytes
    value: bytes
    still: str
    truncated_to: int | None = None

    @property
    def place(self) -> Place:
        return self.partition, self.offset

    @property
    def where(self) -> str:
        """The place as people write it."""
        return f"{self.partition}:{self.offset}"


async def letters(settings: Settings) -> list[Letter]:
    """All that the dead-letter topic holds, each once, by place. Raises Unavailable if Kafka does not answer."""
    topic = Topics(settings).dead_letters
    found: dict[Place, Letter] = {}
    async with reading(settings) as log:
        async for record in log.read(topic, await log.firsts(topic), await log.ends(topic)):
            headers = dict(record.headers)
            try:
                place = (int(headers["partition"]), int(headers["offset"]))
                cut = int(headers["truncated-to"]) if "truncated-to" in headers else None
            except (KeyError, ValueError) as error:
                raise Invalid(
                    f"the record at {record.partition}:{record.offset} of {topic} is no dead letter: {error!r}"
                ) from error
            key, value = record.key or b"", record.value or b""
            reason = headers.get("reason", b"").decode(errors="replace")
            found[place] = Letter(*place, reason, key, value, _why_not(value, settings), cut)
    return [found[place] for place in sorted(found)]


async def replay(settings: Settings, chosen: Sequence[Letter], value: bytes | None = None) -> list[Place]:
    """Put letters into the checkouts topic again, or `value` in the place of the one chosen; their new places.

    Their checkout ids stay, so that replaying twice decides once. The old place keeps its answer, a dead letter.
    Raises Invalid, before anything is sent, if one of them could still not be decided; NotAcknowledged if Kafka
    does not confirm.
    """
    lines = [_mended(letter, value, settings) for letter in chosen]
    topic = Topics(settings).checkouts
    places: list[Place] = []
    producer = await start_producer(settings, "sluiceway-deadletters")
    try:
        for line, content in lines:
            partition = partition_of(line.product_id, settings.partitions)
            records: list[Record] = [(line.partition_key(), content, [])]
            for _, ack in await send(producer, topic, partition, records, time.time_ns() // 1_000_000):
                offset = (await ack).offset
                if offset < 0:
                    raise NotAcknowledged(
                        "the broker does not tell where it put the message; replay it again"
                    )
                places.append((partition, offset))
    finally:
        await producer.stop()
    return places


def _mended(letter: Letter, value: bytes | None, settings: Settings) -> tuple[CheckoutLine, bytes]:
    """The line, and the bytes to send. The key follows from the product, whatever it was."""
    content = letter.value if value is None else value
    where = f"the dead letter of {letter.where}"
    if value is None and letter.truncated_to is not None:
        raise Invalid(f"{where} was cut to {letter.truncated_to} bytes; give its whole content with --value")
    try:
        return _line_of(content, settings), content
    except UndecodableMessage as error:
        raise Invalid(f"{where} can still not be decided: {error}; mend its content with --value") from error


def _why_not(value: bytes, settings: Settings) -> str:
    try:
        _line_of(value, settings)
    except UndecodableMessage as error:
        return str(error)
    return ""


def _line_of(value: bytes, settings: Settings) -> CheckoutLine:
    """The line, under the key and in the partition of its product. Raises UndecodableMessage."""
    key = _key_of(value)
    partition = partition_of(key.decode(), settings.partitions)
    return decode_checkout_line(value, key, partition, settings.partitions)


class _Product(msgspec.Struct):
    product_id: str


def _key_of(value: bytes) -> bytes:
    """The product id as bytes; empty if the value has none, which decoding then says."""
    try:
        return msgspec.json.decode(value, type=_Product).product_id.encode()
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return b""
