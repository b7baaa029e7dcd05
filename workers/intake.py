"""From what was read to what is next: messages already decided are dropped, gaps explained, dead letters set aside."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TypeVar

from contracts.errors import LogTruncated, StaleView, UndecodableMessage
from contracts.times import to_ms
from contracts.topics import Stream
from stock_ledger.ledger import Advance, Claim
from workers.log import Batch, Log, Message

_LETTER_BYTES_MAX = (
    256 * 1024
)  # of a key or value set aside: with its reason it must fit where the original did

T = TypeVar("T")
P = TypeVar("P")


class Intake:
    """One stream's way in."""

    def __init__(self, log: Log, stream: Stream) -> None:
        self._log = log
        self._stream = stream

    async def take(
        self,
        batch: Batch,
        claims: Mapping[int, Claim],
        decode: Callable[[Message, int], T],
        placed: Callable[[int, int, T | None, str], P],
        now: datetime,
    ) -> tuple[list[P], list[Advance]]:
        """What is next in each claimed partition, decoded and `placed` at its (partition, offset), and the advances.

        What cannot be decoded is in the dead-letter topic, and placed with its error. Raises StaleView if a message is
        missing, LogTruncated if the log has lost it.
        """
        taken: list[P] = []
        advances: list[Advance] = []
        dead: dict[int, list[tuple[Message, str]]] = defaultdict(list)
        for partition, messages in batch.items():
            claim = claims.get(partition)
            if claim is None:
                continue  # not claimed yet: read again after the claim
            start = expected = claim.next_of(self._stream)
            for message in messages:
                if message.offset < expected:
                    continue
                if message.offset > expected:
                    await self.check_log({partition: expected})
                    raise StaleView(
                        f"partition {partition}: expected offset {expected}, read {message.offset}"
                    )
                try:
                    taken.append(placed(partition, message.offset, decode(message, partition), ""))
                except UndecodableMessage as error:
                    dead[partition].append((message, str(error)))
                    taken.append(placed(partition, message.offset, None, str(error)))
                expected += 1
            if expected != start:
                advances.append(Advance(partition, claim, expected))
            elif messages:  # all decided before: the reader went back
                await self.check_log({partition: expected})
        if dead:
            letters = {
                p: [dead_letter(self._stream, p, message, why) for message, why in of_p]
                for p, of_p in dead.items()
            }
            await self._log.set_aside(letters, to_ms(now))
        return taken, advances

    async def check_log(self, next_offsets: Mapping[int, int]) -> None:
        """Raise LogTruncated unless the log goes on exactly where deciding does."""
        first = await self._log.first_offsets(self._stream, list(next_offsets))
        end = await self._log.end_offsets(self._stream, list(next_offsets))
        for p, decided_to in next_offsets.items():
            place = f"{self._stream}, partition {p}"
            if first[p] > decided_to:
                raise LogTruncated(
                    f"{place}: the log begins at {first[p]}, but only offsets below {decided_to} are decided. "
                    "Raise the topic's retention; restore the log, or restore Postgres to match it."
                )
            if end[p] < decided_to:
                raise LogTruncated(
                    f"{place}: the log ends at {end[p]}, but offsets below {decided_to} are decided. New messages "
                    "would pass for decided ones. Restore the log, or restore Postgres to match it."
                )


def dead_letter(
    stream: Stream, partition: int, message: Message, why: str
) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
    """A message as it was, with why it was set aside and where it lay."""
    headers = [
        ("reason", why.encode()),
        ("stream", stream.encode()),
        ("partition", str(partition).encode()),
        ("offset", str(message.offset).encode()),
    ]
    key, value = message.key, message.value
    if len(key or b"") > _LETTER_BYTES_MAX or len(value or b"") > _LETTER_BYTES_MAX:
        headers.append(("truncated-to", str(_LETTER_BYTES_MAX).encode()))
    return key and key[:_LETTER_BYTES_MAX], value and value[:_LETTER_BYTES_MAX], headers
