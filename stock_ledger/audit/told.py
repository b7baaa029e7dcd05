"""Laws of what commands told: each event once as it is kept, every order's events in their number, every ask in the log."""

from contracts.commands import HoldAnswer
from contracts.events import ORDER_CREATED
from contracts.topics import partition_of
from stock_ledger.audit.book import FIRST, Book, Place, place_in, where
from stock_ledger.audit.command_facts import ToldEvent
from stock_ledger.audit.facts import EventFact
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law

_CUT = "retention removed the beginning of the topic"


def command_events(book: Book) -> Law:
    law = Law(
        "command-events",
        "The events of commands are exactly those that are kept with them, each of them published",
    )
    told: dict[str, tuple[ToldEvent, Place]] = {}
    for row in book.facts.postgres.commands:
        for event in row.events:
            told[event.event_id] = (event, where(row))
    published: set[str] = set()
    for found, place in book.command_events:
        dropped = book.command(place[:2]) is None and book.history.obeyed(*place[:2])
        law.skip(int(dropped), DROPPED)
        if dropped or place[1] >= book.facts.postgres.next_command(place[0]):
            continue  # or decided after Postgres was read
        law.checked += 1
        published.add(found.event_id)
        kept = told.get(found.event_id)
        if kept is None:
            law.deviate(f"event {found.event_id} is of no command that told it", place=place[:2])
        elif not _is_told(found, kept[0], erased=_is_erased(book, kept[1])):
            law.deviate(
                f"event {found.event_id} is {found.type} {found.key!r} {found.sequence}, kept was {kept[0].type} "
                f"{kept[0].key!r} {kept[0].sequence}, or their data differ",
                place=kept[1],
            )
    for event_id, (event, at) in told.items():
        if event_id in published:
            continue
        span = book.facts.events_span.get(at[0])
        if span is not None and span.first > 0:
            law.skip(1, _CUT)
            continue
        law.checked += 1
        law.deviate(f"event {event_id}, {event.type}, was not published", place=at)
    return law


def _is_erased(book: Book, place: Place) -> bool:
    """Whether what a command told was of a buyer whose data was erased since."""
    row = book.command(place)
    return row is not None and not row.pseudonyms.isdisjoint(book.history.pseudonyms)


def _is_told(found: EventFact, kept: ToldEvent, *, erased: bool) -> bool:
    value_hash = kept.value_hash if erased else found.value_hash
    return (found.type, found.key, found.sequence, value_hash) == (
        kept.type,
        kept.key,
        kept.sequence,
        kept.value_hash,
    )


def order_events(book: Book) -> Law:
    """As consumers see them: of first deliveries, in the order of the topic."""
    law = Law(
        "order-events",
        "An order's events are order.created and what follows, numbered from 1 without gaps, in order",
    )
    numbers: dict[str, list[tuple[int, int | None, str]]] = {}
    cut = {p for p, span in book.facts.events_span.items() if span.first > 0}
    for found, place in book.events:
        if found.type == ORDER_CREATED and found.partition not in cut and place and not book.is_later(place):
            order_id = (found.key or b"").decode(errors="replace")
            numbers.setdefault(order_id, []).append((found.offset, found.sequence, found.type))
    for found, of_command in book.command_events:
        later = of_command[1] >= book.facts.postgres.next_command(of_command[0])
        if found.sequence is not None and found.partition not in cut and not later:
            order_id = (found.key or b"").decode(errors="replace")
            numbers.setdefault(order_id, []).append((found.offset, found.sequence, found.type))
    for order_id, order in book.orders.items():
        of_order = sorted(numbers.pop(order_id, []))
        if not of_order and _partition_in(order_id) in cut:
            law.skip(1, _CUT)
            continue
        law.checked += 1
        sequences = [sequence for _, sequence, _ in of_order]
        created = [kind for _, _, kind in of_order].count(ORDER_CREATED)
        starts = bool(of_order) and of_order[0][2] == ORDER_CREATED
        if sequences != list(range(1, order.sequence + 1)) or created != 1 or not starts:
            law.deviate(
                f"order {order_id} is at event {order.sequence}, published are {sequences}, {created} of them created",
                checkout_id=order.checkout_id,
            )
    return law


def _partition_in(order_id: str) -> int | None:
    """The partition that tells of the order; None for an id that no order can have."""
    try:
        return place_in(order_id)[1]
    except ValueError:
        return None


def asked(book: Book) -> Law:
    """A command that another partition's writer is to decide is in its log, however often it was sent."""
    law = Law("commands-asked", "What a decision asks of another partition lies in that partition's log")
    sent: set[tuple[int, str]] = set()
    answers: set[tuple[str, str]] = set()
    for p, messages in book.command_messages.items():
        for message in messages.values():
            command = message.command
            if command is not None:
                sent.add((p, command.command_id))
                if isinstance(command, HoldAnswer):
                    answers.add((command.checkout_id, command.product_id))
    cut = {p for p, span in book.facts.commands_span.items() if span.first > 0}
    for row in book.facts.postgres.commands:
        for partition, command in row.asked:
            if partition in cut:
                law.skip(1, _CUT)
                continue
            law.checked += 1
            if command is None or (partition, command.command_id) not in sent:
                what = "something unreadable" if command is None else f"{command.__struct_config__.tag}"
                law.deviate(
                    f"asks {what} of partition {partition}, which is not in the log", place=where(row)
                )
    _unanswered(book, law, answers, cut)
    return law


def _unanswered(book: Book, law: Law, answers: set[tuple[str, str]], cut: set[int]) -> None:
    """Lines of whole checkouts whose answer was never sent to who gathers them."""
    for decision in book.facts.postgres.decisions:
        if not decision.whole or decision.kind not in FIRST:
            continue
        checkout_id = decision.checkout_id or ""
        if partition_of(checkout_id, book.facts.partitions) in cut:
            law.skip(1, _CUT)
            continue
        law.checked += 1
        if (checkout_id, decision.product_id) not in answers:
            law.deviate(
                f"{decision.kind}, but the answer to its checkout is not in the log",
                product_id=decision.product_id,
                checkout_id=checkout_id,
                place=where(decision),
            )
