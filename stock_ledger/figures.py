"""Live sale figures: events folded into counts by product and outcome, each event once however often it comes."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import asyncpg
import msgspec

from contracts.messages import Money
from stock_ledger.postgres import acquired

# $1 partitions. The row locks make folds of a partition follow each other, whoever makes them.
STATES = """
INSERT INTO figure_state AS s (partition, next_offset, next_decision)
SELECT p, 0, 0 FROM unnest($1::int[]) AS p ORDER BY p
ON CONFLICT (partition) DO UPDATE SET next_offset = s.next_offset RETURNING partition, next_offset, next_decision
"""
# $1 partitions, $2 next offsets, $3 next decisions
ADVANCE = """
UPDATE figure_state AS s SET next_offset = u.next_offset, next_decision = u.next_decision
FROM unnest($1::int[], $2::bigint[], $3::bigint[]) AS u (partition, next_offset, next_decision)
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


class EventOrder(msgspec.Struct, frozen=True):
    """What the figures need of an event's order."""

    total: Money


class EventData(msgspec.Struct, frozen=True):
    """What the figures need of an event's data. `offset` is the decision's."""

    offset: int
    product_id: str
    quantity: int
    status: str
    reason: str = ""
    order: EventOrder | None = None


Place = tuple[str, str, str]  # product_id, outcome, currency
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
        order = event.order
        place = (
            event.product_id,
            event.reason or event.status,
            "" if order is None else order.total.currency,
        )
        lines, units, amount = sums.get(place, (0, 0, Decimal(0)))
        sums[place] = (
            lines + 1,
            units + event.quantity,
            amount if order is None else amount + order.total.decimal(),
        )
    return sums


def fresh_events(documents: Iterable[bytes], next_decision: int) -> list[EventData]:
    """The events of decisions from `next_decision` on, each once.

    A partition's events come in the order of its decisions; whatever goes back was published before.
    """
    fresh: list[EventData] = []
    for document in documents:
        event = _decoder.decode(document)
        if event.offset >= next_decision:
            fresh.append(event)
            next_decision = event.offset + 1
    return fresh


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
            advances: list[tuple[int, int, int]] = []
            for partition, next_offset, next_decision in await connection.fetch(STATES, sorted(events)):
                delivered = [(offset, data) for offset, data in events[partition] if offset >= next_offset]
                if not delivered:
                    continue
                fresh = fresh_events((data for _, data in delivered), next_decision)
                rows += [(partition, *place, *sums) for place, sums in fold(fresh).items()]
                decided_to = fresh[-1].offset + 1 if fresh else next_decision
                advances.append((partition, delivered[-1][0] + 1, decided_to))
            if rows:
                await connection.execute(ADD, *zip(*rows, strict=True))
            if advances:
                await connection.execute(ADVANCE, *zip(*advances, strict=True))

    async def read(self) -> Figures:
        async with acquired(self._pool) as connection:
            lines = {row["outcome"]: row["lines"] for row in await connection.fetch(BY_OUTCOME)}
            takings = {row["currency"]: row["amount"] for row in await connection.fetch(TAKINGS)}
        return Figures(lines, takings)
