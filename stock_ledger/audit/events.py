"""Laws of what was published: one event per decision that has one, telling what was decided; figures folded from them."""

from collections.abc import Iterator
from decimal import Decimal

from contracts.events import CHECKOUT_REFUSED, ORDER_CREATED
from stock_ledger.audit.book import CONFLICT, CREATED, REFUSED, Book, Place, command_place_of, place_of, where
from stock_ledger.audit.facts import DecisionRow, EventCount, EventFact
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law
from stock_ledger.audit.view import told_wrong

TYPES = {CREATED: ORDER_CREATED, REFUSED: CHECKOUT_REFUSED, CONFLICT: CHECKOUT_REFUSED}


def events(book: Book) -> Law:
    law = Law("events", "Every decision that has an event has exactly one, however often it was delivered")
    _redelivered(book, law)
    published: set[Place] = set()
    for event, place in book.events:
        row = None if place is None else book.decision(place)
        if place is not None and row is None and book.history.decided(*place):
            law.skip(1, DROPPED)
            continue
        law.checked += 1
        if place is not None:
            published.add(place)
            if book.is_later(place):
                continue
        if row is None or not has_event(row):
            law.deviate(
                f"event {event.event_id!r} at {event.partition}:{event.offset} has no decision"
                if row is None
                else f"an event of a decision that is {row.kind}",
                place=place,
            )
        elif TYPES[row.kind] != event.type:
            law.deviate(
                f"{row.kind}, but its event is {event.type!r}", place=place, checkout_id=row.checkout_id
            )
    _missing(book, law, published)
    return law


def _redelivered(book: Book, law: Law) -> None:
    """An event may come again, but as it was."""
    if len(book.events) + len(book.command_events) == len(book.facts.events):
        return
    first: dict[str, tuple[EventFact, Place | None]] = {
        event.event_id: (event, place[:2]) for event, place in book.command_events
    }
    first |= {event.event_id: (event, place) for event, place in book.events}
    for event in book.facts.events:
        known, place = first[event.event_id]
        if known is event:
            continue
        law.checked += 1
        if (known.value_hash, known.type, known.key) != (event.value_hash, event.type, event.key):
            law.deviate(
                f"event {event.event_id} came with other data at {known.partition}:{known.offset} "
                f"and {event.partition}:{event.offset}",
                place=place,
            )


def _missing(book: Book, law: Law, published: set[Place]) -> None:
    """Decisions without their event. Where retention cut the topic, those before the oldest left are not known."""
    oldest = _oldest_known(book, published)
    for row in announced(book):
        place = where(row)
        if place in published:
            continue
        if row.offset < oldest.get(row.partition, 0):
            law.skip(1, "retention removed the beginning of the events topic")
            continue
        law.checked += 1
        law.deviate(
            f"{row.kind}, but no event {TYPES[row.kind]} was published",
            product_id=row.product_id,
            checkout_id=row.checkout_id,
            place=place,
        )


def _oldest_known(book: Book, published: set[Place]) -> dict[int, int]:
    cut = {p for p, span in book.facts.events_span.items() if span.first > 0}
    oldest = {p: book.facts.postgres.next_offset(p) for p in cut}
    for p, offset in published:
        if p in cut:
            oldest[p] = min(oldest[p], offset)
    return oldest


def announced(book: Book) -> Iterator[DecisionRow]:
    """Decisions that have an event."""
    return (row for row in book.facts.postgres.decisions if has_event(row))


def has_event(row: DecisionRow) -> bool:
    """Lines of all-or-nothing checkouts have none: the checkout's one event is told by a command."""
    return row.kind in TYPES and not row.whole


def event_data(book: Book) -> Law:
    law = Law("event-data", "An event tells what was decided, and is keyed by its order or checkout")
    order_of = {row.order_id: row for row in book.facts.postgres.orders}
    for event, place in book.events:
        row = None if place is None else book.decision(place)
        if row is None or not has_event(row):
            continue  # judged by `events`
        law.checked += 1
        document = event.document
        if document is None:
            law.deviate("its event's data is not readable", product_id=row.product_id, place=place)
            continue
        wrong = told_wrong(document, row, erased=row.buyer_id in book.history.pseudonyms)
        order = order_of.get(row.order_id or "")
        if order is not None and (order.total, order.currency) != (document.total, document.currency):
            wrong += f" total told {document.total} {document.currency}, the order's {order.total} {order.currency}"
        key = row.order_id or row.checkout_id or ""
        if event.key != key.encode():
            wrong += f" its key is {event.key!r}, expected {key}"
        if wrong:
            law.deviate(wrong.strip(), product_id=row.product_id, checkout_id=row.checkout_id, place=place)
    return law


def event_envelope(book: Book) -> Law:
    law = Law(
        "event-envelope", "An event has the CloudEvents headers and lies in the partition of its decision"
    )
    for event in book.facts.events:
        law.checked += 1
        of_command = command_place_of(event.event_id)
        place = place_of(event.event_id) if of_command is None else of_command[:2]
        wrong = [f"lacks {event.lacking}"] if event.lacking else []
        if place is not None and place[0] != event.partition:
            wrong.append(f"lies in partition {event.partition}")
        if wrong:
            law.deviate(
                f"event {event.event_id!r} at {event.partition}:{event.offset} {' and '.join(wrong)}",
                place=place,
            )
    return law


Cell = tuple[int, str, str, str]  # partition, product, outcome, currency


def figures(book: Book) -> Law:
    """Judged up to the event each partition was folded to, so that a consumer that lags deviates in nothing."""
    law = Law("figures", "Live figures are the sums over the events, each counted once")
    folded = book.facts.postgres.figure_states
    judged = set()
    for p, span in sorted(book.facts.events_span.items()):
        if span.first > 0:
            law.skip(1, "retention removed the beginning of the events topic")
        elif p not in folded and span.end > 0:
            law.skip(1, "partitions that no one has folded yet")
        elif folded.get(p, 0) > span.end:
            law.checked += 1
            law.deviate(f"folded to event {folded[p]}, but the topic ends at {span.end}", place=(p, None))
        else:
            judged.add(p)
    expected = _sums(book, {p: folded.get(p, 0) for p in judged})
    kept: dict[Cell, tuple[int, int, Decimal]] = {
        row[:4]: row[4:] for row in book.facts.postgres.figures if row.partition in judged
    }
    nothing = (0, 0, Decimal(0))
    for cell in sorted(expected.keys() | kept.keys()):
        law.checked += 1
        if kept.get(cell, nothing) != expected.get(cell, nothing):
            law.deviate(
                f"{cell[2]} {cell[3]}: (lines, units, amount) kept {_told(kept.get(cell, nothing))}, "
                f"of the events {_told(expected.get(cell, nothing))}",
                product_id=cell[1],
                place=(cell[0], None),
            )
    return law


def _sums(book: Book, ends: dict[int, int]) -> dict[Cell, tuple[int, int, Decimal]]:
    """The sums over the events below `ends`, by partition."""
    sums: dict[Cell, tuple[int, int, Decimal]] = {}

    def add(event: EventFact, count: EventCount) -> None:
        if event.offset < ends.get(event.partition, 0):
            cell = (event.partition, count.product_id, count.outcome, count.currency)
            lines, units, amount = sums.get(cell, (0, 0, Decimal(0)))
            sums[cell] = (lines + 1, units + count.units, amount + count.amount)

    for event, _ in book.events:
        if (told := event.document) is not None:
            outcome = told.reason or told.status
            add(event, EventCount(told.product_id, outcome, told.currency, told.quantity, told.total))
    for event, _ in book.command_events:
        for count in event.counts:
            add(event, count)
    return sums


def _told(sums: tuple[int, int, Decimal]) -> str:
    return f"({sums[0]}, {sums[1]}, {sums[2]})"
