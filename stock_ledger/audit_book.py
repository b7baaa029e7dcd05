"""Facts looked up by what they have in common. Built once, read by every law."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from stock_ledger.audit_facts import DecisionRow, EventFact, Facts, MessageFact

CREATED, REFUSED, REPEATED, CONFLICT, DEAD = "created", "refused", "repeated", "conflict", "dead_lettered"
FIRST = (CREATED, REFUSED)  # kinds that decide a line; all others refer to one of these or decide nothing

Row = TypeVar("Row")
Place = tuple[int, int]  # (partition, offset)


class Book:
    """An index over the facts. `twice` are decision rows whose place another row has already."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.decisions: dict[int, dict[int, DecisionRow]] = {p: {} for p in range(facts.partitions)}
        self.twice: list[DecisionRow] = []
        self.created: list[DecisionRow] = []
        for row in facts.postgres.decisions:
            of_partition = self.decisions.setdefault(row.partition, {})
            if row.offset in of_partition:
                self.twice.append(row)
            of_partition[row.offset] = row
            if row.kind == CREATED:
                self.created.append(row)
        self.messages: dict[int, dict[int, MessageFact]] = {p: {} for p in range(facts.partitions)}
        for message in facts.messages:
            self.messages[message.partition][message.offset] = message
        self.events: list[
            tuple[EventFact, Place | None]
        ] = []  # the first delivery of each, with its decision's place
        seen: set[str] = set()
        for event in facts.events:
            if event.event_id not in seen:
                seen.add(event.event_id)
                self.events.append((event, place_of(event.event_id)))
        self.created_order: dict[str, DecisionRow] = {
            row.order_id: row for row in self.created if row.order_id is not None
        }

    def decision(self, place: Place) -> DecisionRow | None:
        return self.decisions.get(place[0], {}).get(place[1])

    def decided_messages(self) -> Iterator[tuple[MessageFact, DecisionRow]]:
        """Every message that has a decision, with it, in the order of the log."""
        for partition, messages in self.messages.items():
            decisions = self.decisions[partition]
            for offset, message in messages.items():
                decision = decisions.get(offset)
                if decision is not None:
                    yield message, decision

    def is_later(self, place: Place) -> bool:
        """Whether this was decided after the moment Postgres was read: no fact about it is missing."""
        return place[1] >= self.facts.postgres.next_offset(place[0])


def grouped(rows: Iterable[tuple[str, Row]]) -> dict[str, list[Row]]:
    """Rows by their key, in their order."""
    groups: dict[str, list[Row]] = {}
    for key, row in rows:
        groups.setdefault(key, []).append(row)
    return groups


def place_in(order_id: str) -> tuple[int, int, int]:
    """(Unix milliseconds, partition, offset) that an order id is made of, read bit by bit.

    Raises ValueError if it is not a UUID of version 8.
    """
    bits = int(order_id.replace("-", ""), 16)
    if bits >> 76 & 0xF != 8 or bits >> 62 & 0b11 != 0b10:
        raise ValueError(f"{order_id} is not a UUID of version 8")
    return bits >> 80, bits >> 64 & 0xFFF, bits & (1 << 62) - 1


def place_of(event_id: str) -> Place | None:
    """The place of the decision that an event id names; None if it names none."""
    partition, _, offset = event_id.partition("-")
    if partition.isascii() and partition.isdigit() and offset.isascii() and offset.isdigit():
        place = int(partition), int(offset)
        return place if event_id == f"{place[0]}-{place[1]}" else None
    return None


def where(row: DecisionRow | MessageFact) -> Place:
    return row.partition, row.offset
