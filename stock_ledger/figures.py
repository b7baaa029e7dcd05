"""Live sale figures: events folded into counts by product and outcome, each event once however often it comes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import asyncpg
import msgspec

from contracts.messages import Money
from stock_ledger.pool import acquired

# $1 partitions. The row locks make folds of a partition follow each other, whoever makes them.
STATES = """
INSERT INTO figure_state AS s (partition, next_offset, next_decision, next_command)
SELECT p, 0, 0, 0 FROM unnest($1::int[]) AS p ORDER BY p
ON CONFLICT (partition) DO UPDATE SET next_offset = s.next_offset
RETURNING partition, next_offset, next_decision, next_command
"""
# $1 partitions, $2 next offsets, $3 next decisions, $4 next commands
ADVANCE = """
UPDATE figure_state AS s
SET next_offset = u.next_offset, next_decision = u.next_decision, next_command = u.next_command
FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[])
    AS u (partition, next_offset, next_decision, next_command)
WHERE s.partition = u.partition
"""
ADD = """
INSERT INTO figures AS f (partition, product_id, outcome, currency, lines, units, amount)
SELECT * FROM unnest($1::int[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::numeric[])
ON CONFLICT (partition, product_id, outcome, currency) DO UPDATE
SET lines = f.lines + excluded.lines, units = f.units + excluded.units, amount = f.amount + excluded.amount
"""
BY_OUTCOME = "SELECT outcome, sum(lines)::bigint AS lines FROM figures GROUP BY outcome"
TAKINGS = "SELECT currency, sum(amount) AS amount FROM figures WHERE outcome = 'created' GROUP BY currency"


Place = tuple[str, str, str]  # product_id, outcome, currency


class EventOrder(msgspec.Struct, frozen=True):
    """What the figures need of an event's order."""

    total: Money


class EventItem(msgspec.Struct, frozen=True):
    """What the figures need of an item of an order, or of a line of an all-or-nothing checkout."""

    product_id: str
    quantity: int
    price: Any = None
    reason: str = ""


class EventData(msgspec.Struct, frozen=True):
    """What the figures need of an event's data. It is of the decision at `offset`, or of a command."""

    offset: int | None = None
    command_offset: int | None = None
    type: str = ""
    product_id: str = ""
    quantity: int = 0
    status: str = ""
    reason: str = ""
    order: EventOrder | None = None
    total: Money | None = None
    items: list[EventItem] | None = None
    lines: Any = None

    def counts(self) -> Iterator[tuple[Place, int, Decimal]]:
        """(place, units, amount) of everything that the event counts for."""
        if self.offset is not None:
            total = None if self.order is None else self.order.total
            currency, amount = ("", Decimal(0)) if total is None else (total.currency, total.decimal())
            yield (self.product_id, self.reason or self.status, currency), self.quantity, amount
        elif self.type in ("order.created", "checkout.refused"):
            for line in msgspec.convert(self.lines, list[EventItem]):
                if line.reason:
                    yield (line.product_id, line.reason, ""), line.quantity, Decimal(0)
                    continue
                price = msgspec.convert(line.price, Money)
                yield (
                    (line.product_id, "created", price.currency),
                    line.quantity,
                    price.decimal() * line.quantity,
                )
        elif self.type.startswith("order.") and self.items is not None and self.total is not None:
            for item in self.items:
                place = (item.product_id, self.status, self.total.currency)
                yield place, item.quantity, Decimal(item.price) * item.quantity


Sums = dict[Place, tuple[int, int, Decimal]]  # lines, units, amount

_decoder = msgspec.json.Decoder(EventData)


class Figures(msgspec.Struct, frozen=True):
    """Lines by outcome ("created" or the reason), and takings by currency."""

    lines: dict[str, int]
    takings: dict[str, Decimal]


def fold(events: Iterable[EventData]) -> Sums:
    """Sums by product, outcome and currency."""
    sums: Sums = {}
    for event in events:
        for place, quantity, value in event.counts():
            lines, units, amount = sums.get(place, (0, 0, Decimal(0)))
            sums[place] = (lines + 1, units + quantity, amount + value)
    return sums


class Seen(msgspec.Struct, frozen=True):
    """How far a partition's events are folded: the offsets after those of the newest decision and command."""

    next_decision: int = 0
    next_command: int = 0


def fresh_events(documents: Iterable[bytes], seen: Seen) -> tuple[list[EventData], Seen]:
    """The events that count, each once, and how far that is.

    A partition's events come in the order of its decisions, and of its commands; whatever goes back was published
    before. Of the events of one command at most one counts.
    """
    fresh: list[EventData] = []
    decision, command = seen.next_decision, seen.next_command
    for document in documents:
        event = _decoder.decode(document)
        if event.offset is not None and event.offset >= decision:
            decision = event.offset + 1
        elif (
            event.offset is None
            and event.command_offset is not None
            and event.command_offset >= command
            and any(event.counts())
        ):
            command = event.command_offset + 1
        else:
            continue
        fresh.append(event)
    return fresh, Seen(decision, command)


class FigureStore:
    """Figures in Postgres."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    async def add(self, events: Mapping[int, Sequence[tuple[int, bytes]]]) -> None:
        """Fold events, by partition (offset, data) in order; those folded before are skipped.

        Raises Unavailable if Postgres does not answer; nothing is folded then.
        """
        async with acquired(self._pool) as connection, connection.transaction():
            rows: list[tuple[Any, ...]] = []
            advances: list[tuple[int, int, int, int]] = []
            for partition, next_offset, *seen in await connection.fetch(STATES, sorted(events)):
                delivered = [(offset, data) for offset, data in events[partition] if offset >= next_offset]
                if not delivered:
                    continue
                fresh, now_seen = fresh_events((data for _, data in delivered), Seen(*seen))
                rows += [(partition, *place, *sums) for place, sums in fold(fresh).items()]
                advances.append(
                    (partition, delivered[-1][0] + 1, now_seen.next_decision, now_seen.next_command)
                )
            if rows:
                await connection.execute(ADD, *zip(*rows, strict=True))
            if advances:
                await connection.execute(ADVANCE, *zip(*advances, strict=True))

    async def read(self) -> Figures:
        async with acquired(self._pool) as connection:
            lines = {row["outcome"]: row["lines"] for row in await connection.fetch(BY_OUTCOME)}
            takings = {row["currency"]: row["amount"] for row in await connection.fetch(TAKINGS)}
        return Figures(lines, takings)
