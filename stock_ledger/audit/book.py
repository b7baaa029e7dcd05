"""Facts looked up by what they have in common. Built once, read by every law."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from contracts.commands import Command, Settle, TakeIn, TakeOver
from stock_ledger.audit.command_facts import CommandMessage, CommandRow, GatheringRow, HoldRow
from stock_ledger.audit.facts import DecisionRow, EventFact, Facts, LedgerRow, MessageFact, OrderRow

CREATED, REFUSED, REPEATED, CONFLICT, DEAD = "created", "refused", "repeated", "conflict", "dead_lettered"
HELD, FORWARDED = "held", "forwarded"
TAKING = (CREATED, HELD)  # kinds that take units from stock
FIRST = (
    CREATED,
    HELD,
    REFUSED,
)  # kinds that decide a line; all others refer to one of these, send it on, or decide nothing
TAKEN_BY_LINES = ("order", "hold")  # kinds of ledger entries that lines make; commands make all others

Row = TypeVar("Row")
Place = tuple[int, int]  # (partition, offset)
CommandPlace = tuple[int, int, int]  # (partition, offset, number among the command's events)
BY_COMMAND = 1 << 61  # in the offset of an order id: the offset is one of the commands topic
APPLIED = "applied"
READABLE = "messages that were dead-lettered, can be read today, and were replayed"


class Book:
    """An index over the facts. `twice` are decision rows whose place another row has already."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.history = facts.postgres.history
        self.decisions: dict[int, dict[int, DecisionRow]] = {p: {} for p in range(facts.partitions)}
        self.twice: list[DecisionRow] = []
        self.created: list[DecisionRow] = []
        self.held: dict[tuple[str, str], DecisionRow] = {}  # by checkout and product
        for row in facts.postgres.decisions:
            of_partition = self.decisions.setdefault(row.partition, {})
            if row.offset in of_partition:
                self.twice.append(row)
            of_partition[row.offset] = row
            if row.kind == CREATED:
                self.created.append(row)
            elif row.kind == HELD:
                self.held[row.checkout_id or "", row.product_id] = row
        self.messages: dict[int, dict[int, MessageFact]] = {p: {} for p in range(facts.partitions)}
        for message in facts.messages:
            self.messages[message.partition][message.offset] = message
        self.events: list[
            tuple[EventFact, Place | None]
        ] = []  # the first delivery of each, with its decision's place
        self.command_events: list[tuple[EventFact, CommandPlace]] = []  # likewise, of commands
        seen: set[str] = set()
        for event in facts.events:
            if event.event_id not in seen:
                seen.add(event.event_id)
                of_command = command_place_of(event.event_id)
                if of_command is None:
                    self.events.append((event, place_of(event.event_id)))
                else:
                    self.command_events.append((event, of_command))
        self.slices = {row.product_id: row.slices for row in facts.postgres.products}
        self.created_order: dict[str, DecisionRow] = {
            row.order_id: row for row in self.created if row.order_id is not None
        }
        self._index_commands(facts)

    def _index_commands(self, facts: Facts) -> None:
        postgres = facts.postgres
        self.command_rows: dict[int, dict[int, CommandRow]] = {p: {} for p in range(facts.partitions)}
        self.commands_twice: list[CommandRow] = []
        self.by_subject: dict[str, list[CommandRow]] = {}  # in the order of the log
        for row in postgres.commands:
            of_partition = self.command_rows.setdefault(row.partition, {})
            if row.offset in of_partition:
                self.commands_twice.append(row)
            of_partition[row.offset] = row
            self.by_subject.setdefault(row.subject, []).append(row)
        self.command_messages: dict[int, dict[int, CommandMessage]] = {p: {} for p in range(facts.partitions)}
        for message in facts.commands:
            self.command_messages.setdefault(message.partition, {})[message.offset] = message
        self.orders: dict[str, OrderRow] = {row.order_id: row for row in postgres.orders}
        self.holds: dict[tuple[str, str], HoldRow] = {
            (row.checkout_id, row.product_id): row for row in postgres.holds
        }
        self.gatherings: dict[str, GatheringRow] = {row.checkout_id: row for row in postgres.gatherings}
        self.confirmed: dict[str, GatheringRow] = {
            row.order_id: row for row in postgres.gatherings if row.order_id is not None
        }
        self.command_entries: dict[Place, list[LedgerRow]] = {}
        for entry in postgres.ledger:
            if entry.kind not in TAKEN_BY_LINES and entry.partition is not None and entry.offset is not None:
                self.command_entries.setdefault((entry.partition, entry.offset), []).append(entry)
        # Settlements that are told and not decided yet: holds on their way.
        self.under_way: set[tuple[str, str]] = set()
        self.to_slices: list[Command] = []  # what slices are told by others and have not decided yet
        decided = {row.command_id for row in postgres.commands if row.outcome in (APPLIED, "refused")}
        for row in postgres.commands:
            for _, command in row.asked:
                if isinstance(command, Settle) and command.command_id not in decided:
                    self.under_way.add((command.checkout_id, command.product_id))
                elif isinstance(command, TakeOver | TakeIn) and command.command_id not in decided:
                    self.to_slices.append(command)

    def command(self, place: Place) -> CommandRow | None:
        return self.command_rows.get(place[0], {}).get(place[1])

    def applied(self, row: CommandRow | None) -> bool:
        return row is not None and row.outcome == APPLIED

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

    def is_cut(self, checkout_id: str) -> bool:
        """Whether lines of this all-or-nothing checkout may have been dropped while its answer, just later, was not."""
        gathering = self.gatherings.get(checkout_id)
        return gathering is not None and self.history.is_near(gathering.decided_at_ms)

    def judged_holds(self) -> list[HoldRow]:
        """All holds but those around the cut."""
        return [hold for hold in self.holds.values() if not self.is_cut(hold.checkout_id)]

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


def command_place_of(event_id: str) -> CommandPlace | None:
    """The place of the command that an event id names, and the event's number; None if it names none."""
    parts = event_id.removeprefix("command-").split("-")
    if not event_id.startswith("command-") or not all(p.isascii() and p.isdigit() for p in parts):
        return None
    numbers = [int(part) for part in parts]
    if len(numbers) != 3 or event_id != f"command-{numbers[0]}-{numbers[1]}-{numbers[2]}":
        return None
    return numbers[0], numbers[1], numbers[2]


def by_command(order_id: str) -> bool:
    """Whether a command made the order, of holds. False for an id that no order can have."""
    try:
        return bool(place_in(order_id)[2] & BY_COMMAND)
    except ValueError:
        return False


def replayed(
    dead: Mapping[Any, Sequence[DecisionRow | CommandRow]],
    firsts: Iterable[tuple[Any, DecisionRow | CommandRow]],
) -> set[Place]:
    """Where messages were dead-lettered that can be read today, and were then decided at another place. `dead` are their
    rows by what they ask for, `firsts` all rows that decide something, with what that is.
    """
    if not dead:
        return set()
    return {where(before) for key, row in firsts for before in dead.get(key, ()) if _came_later(row, before)}


def _came_later(row: DecisionRow | CommandRow, other: DecisionRow | CommandRow) -> bool:
    """Whether it was decided after the other one: by their log, or by the clock where they are of two."""
    if row.partition == other.partition:
        return row.offset > other.offset
    return row.decided_at_ms > other.decided_at_ms


def where(row: DecisionRow | MessageFact | CommandRow) -> Place:
    return row.partition, row.offset
