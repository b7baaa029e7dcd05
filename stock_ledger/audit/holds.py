"""Laws of all-or-nothing checkouts: one answer for all lines, holds that follow it, and counts that are their sums."""

from collections import Counter
from decimal import Decimal

from contracts.commands import Abandon, HoldAnswer, Settle
from contracts.events import CHECKOUT_REFUSED, ORDER_CREATED
from contracts.keys import WHOLE
from contracts.messages import AMOUNT_MAX
from contracts.outcomes import OrderStatus
from contracts.slices import product_of
from contracts.topics import partition_of
from stock_ledger.audit.book import APPLIED, HELD, Book, by_command, where
from stock_ledger.audit.causes import CLOSED_STATUSES
from stock_ledger.audit.command_facts import CommandRow, GatheringRow, HoldRow
from stock_ledger.audit.facts import StockRow
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law

_STATES = ("held", "pending", "paid", "released")
_DECIDED = ("confirmed", "refused")


def gatherings(book: Book) -> Law:
    law = Law(
        "gatherings",
        "An all-or-nothing checkout gathers its lines' answers, and is decided once: an order of all, or nothing",
    )
    for gathering in book.facts.postgres.gatherings:
        if book.is_cut(gathering.checkout_id):
            law.skip(1, DROPPED)
            continue
        law.checked += 1
        if wrong := _wrong_gathering(book, gathering):
            law.deviate(
                wrong,
                checkout_id=gathering.checkout_id,
                place=(gathering.partition, gathering.decided_offset),
            )
    for checkout_id, rows in book.by_subject.items():
        answered = any(isinstance(r.command, HoldAnswer) and r.outcome == APPLIED for r in rows)
        if (
            answered
            and checkout_id not in book.gatherings
            and not book.history.is_near(rows[0].decided_at_ms)
        ):
            law.checked += 1
            law.deviate("answers were taken, but nothing gathers them", checkout_id=checkout_id)
    _overdue(book, law)
    return law


def _wrong_gathering(book: Book, g: GatheringRow) -> str:  # noqa: PLR0911 - one return per thing that may be wrong
    if g.partition != partition_of(g.checkout_id, book.facts.partitions):
        return f"it gathers in partition {g.partition}"
    rows = book.by_subject.get(g.checkout_id, [])
    taken = {r.command.product_id for r in rows if isinstance(r.command, HoldAnswer) and r.outcome == APPLIED}
    products = [a.product_id for a in g.answers]
    if len(set(products)) != len(products) or not taken.issuperset(products):
        return f"its answers are of {products}, taken were {sorted(taken)}"
    for answer in g.answers:
        held = (g.checkout_id, answer.product_id) in book.held
        if held == bool(answer.reason):
            return f"{answer.product_id} answered {answer.reason or 'held'!r}, its line was {'' if held else 'not '}held"
    if (g.state in _DECIDED) != (g.decided_offset is not None) or (g.state == "confirmed") != bool(
        g.order_id
    ):
        return f"it is {g.state}, decided at {g.decided_offset}, with the order {g.order_id}"
    if g.state not in _DECIDED:
        complete = bool(g.answers) and len(g.answers) >= g.answers[0].lines
        return "all its lines are answered, but it is not decided" if complete else ""
    cause = book.command((g.partition, g.decided_offset or 0))
    if (
        cause is None
        or cause.subject != g.checkout_id
        or cause.outcome != APPLIED
        or not isinstance(cause.command, HoldAnswer | Abandon)
    ):
        return f"it is decided at {g.decided_offset}, where no applied answer or end of it lies"
    if wrong := _ended_wrongly(g, cause):
        return wrong
    refusing = [a.product_id for a in g.answers if a.reason]
    if g.state == "confirmed" and (refusing or len(g.answers) != g.answers[0].lines):
        return f"confirmed with {len(g.answers)} of {g.answers[0].lines} answers, {refusing} refused"
    return _wrong_answer(book, g, cause)


def _ended_wrongly(g: GatheringRow, cause: CommandRow) -> str:
    """Whether it was ended before its time, or refused for nothing: only what cannot be paid is, if all is held."""
    if not g.answers:
        return f"{g.state} without an answer"
    if len(g.answers) < g.answers[0].lines:
        if not isinstance(cause.command, Abandon) or (g.decided_at_ms or 0) < g.deadline_ms:
            return f"{g.state} with {len(g.answers)} of {g.answers[0].lines} answers, before its deadline"
        return ""
    if g.state != "refused" or any(a.reason for a in g.answers):
        return ""
    total = sum((Decimal(a.price) * a.quantity for a in g.answers), Decimal(0))
    currencies = {a.currency for a in g.answers}
    if len(currencies) > 1 or total > AMOUNT_MAX:
        return ""
    return f"refused, but all its lines are held, for {total} {' '.join(currencies)}"


def _wrong_answer(book: Book, g: GatheringRow, cause: CommandRow) -> str:  # noqa: PLR0911 - as above
    """How the one answer that was told, and its event, differ from the gathering and its order; empty if they do not."""
    told = [r.document for r in cause.results if r.checkout_id == g.checkout_id and r.field == WHOLE]
    if len(told) != 1 or told[0] is None:
        return f"{len(told)} answers were told of it"
    document = told[0]
    order = book.orders.get(g.order_id or "")
    shown = (document.status, document.order_id, document.partition, document.offset, document.checkout_id)
    status = "created" if g.state == "confirmed" else "refused"
    true = (status, g.order_id or "", g.partition, g.decided_offset, g.checkout_id)
    if shown != true:
        return f"(status, order, partition, offset, checkout) told {shown}, decided {true}"
    lines = [(product_id, quantity) for product_id, quantity, _ in document.lines]
    answers = [(product_of(a.product_id), a.quantity) for a in sorted(g.answers, key=lambda a: a.line)]
    if lines != answers:
        return f"lines told are {lines}, its answers {answers}"
    own = {product_of(a.product_id): a.reason for a in g.answers}
    for product_id, _, reason in document.lines:
        if (status == "created" and reason) or (
            status == "refused" and (own[product_id] or reason) != reason
        ):
            return f"{product_id} was told {reason!r}, its own answer is {own[product_id]!r}"
        if status == "refused" and not reason:
            return f"{product_id} was refused without a reason"
    if order is not None and (str(order.total), order.currency) != (document.total, document.currency):
        return f"total told {document.total} {document.currency}, the order's {order.total} {order.currency}"
    events = [(event.type, event.key.decode(errors="replace"), event.sequence) for event in cause.events]
    due = (CHECKOUT_REFUSED, g.checkout_id, None) if g.order_id is None else (ORDER_CREATED, g.order_id, 1)
    return "" if events == [due] else f"its events (type, key, sequence) are {events}, expected {due}"


def _overdue(book: Book, law: Law) -> None:
    """What time ought to have ended. Who asks for that is a worker's timer: without one it waits, and nothing is wrong."""
    now = book.facts.postgres.read_at_ms
    why = "what is due by time and waits for a worker's timer"
    for gathering in book.facts.postgres.gatherings:
        if gathering.decided_offset is None and gathering.deadline_ms <= now:
            if book.facts.timed_out:
                law.deviate("open past its deadline", checkout_id=gathering.checkout_id)
            else:
                law.skip(1, why)
    for payment in book.facts.postgres.payments:
        order = book.orders.get(payment.order_id)
        if (
            order is not None
            and order.status == OrderStatus.PENDING_PAYMENT
            and 0 < payment.expires_at_ms <= now
        ):
            if book.facts.timed_out:
                law.deviate(
                    f"order {payment.order_id} waits for a payment that is late",
                    checkout_id=order.checkout_id,
                )
            else:
                law.skip(1, why)


def holds(book: Book) -> Law:
    law = Law(
        "holds",
        "A held line has one hold, in the state that its settlements bring and that its checkout or order asks for",
    )
    settled: dict[tuple[str, str], str] = {}
    for row in book.facts.postgres.commands:
        if isinstance(row.command, Settle) and row.outcome == APPLIED:
            settled[row.command.checkout_id, row.command.product_id] = row.command.to
    judged = {(hold.checkout_id, hold.product_id): hold for hold in book.judged_holds()}
    law.skip(len(book.holds) - len(judged), DROPPED)
    for key, decision in book.held.items():
        if key not in judged and (key in book.holds or book.history.is_near(decision.decided_at_ms)):
            continue
        law.checked += 1
        hold = book.holds.get(key)
        true = (decision.buyer_id, decision.quantity)
        if hold is None or (hold.buyer_id, hold.quantity) != true:
            law.deviate(
                "held, but there is no hold of its buyer and quantity",
                product_id=key[1],
                checkout_id=key[0],
                place=where(decision),
            )
    for key, hold in judged.items():
        law.checked += 1
        _judge(book, law, hold, settled.get(key, HELD))
    return law


def _judge(book: Book, law: Law, hold: HoldRow, settled: str) -> None:
    key = (hold.checkout_id, hold.product_id)
    wrong = "" if key in book.held else "a hold of no held line"
    if hold.state != settled:
        wrong = wrong or f"it is {hold.state}, its settlements make it {settled}"
    expected = _expected(book, hold)
    if hold.state not in expected and not wrong:
        if key in book.under_way or _is_unanswered(book, hold):
            law.skip(1, "holds whose settlement is under way")
            return
        wrong = f"it is {hold.state}, expected {' or '.join(expected)}"
    if wrong:
        law.deviate(wrong, product_id=hold.product_id, checkout_id=hold.checkout_id)


def _expected(book: Book, hold: HoldRow) -> tuple[str, ...]:
    """The states that the checkout's answer and its order, as they are now, leave the hold."""
    gathering = book.gatherings.get(hold.checkout_id)
    if gathering is None or gathering.state == "gathering":
        return (HELD,)
    if gathering.state != "confirmed" or hold.product_id not in {a.product_id for a in gathering.answers}:
        return ("released",)
    order = book.orders.get(gathering.order_id or "")
    if order is None:
        return _STATES  # judged by `orders`
    if order.status == OrderStatus.PENDING_PAYMENT:
        return ("pending",)
    return ("released",) if order.status in CLOSED_STATUSES else ("paid",)


def _is_unanswered(book: Book, hold: HoldRow) -> bool:
    """Whether the hold's checkout was not told of it yet: that is judged by `commands-asked` and `commands-drained`."""
    rows = book.by_subject.get(hold.checkout_id, ())
    return not any(
        isinstance(row.command, HoldAnswer) and row.command.product_id == hold.product_id for row in rows
    )


def counts(book: Book) -> Law:
    law = Law(
        "stock-counts", "Held, pending and paid units of a product are the sums over its holds and orders"
    )
    sums: dict[str, Counter[str]] = {state: Counter() for state in _STATES}
    for history in book.history.stock.values():
        sums["paid"][history.product_id] += history.paid
    for hold in book.facts.postgres.holds:
        sums.setdefault(hold.state, Counter())[hold.product_id] += hold.quantity
    for item in book.facts.postgres.items:
        order = book.orders.get(item.order_id)
        if order is None or by_command(item.order_id) or order.status in CLOSED_STATUSES:
            continue
        state = "pending" if order.status == OrderStatus.PENDING_PAYMENT else "paid"
        sums[state][item.product_id] += item.quantity
    for row in book.facts.postgres.stock:
        law.checked += 1
        true = tuple(sums[state][row.product_id] for state in _STATES[:3])
        if (row.held, row.pending, row.paid) != true:
            law.deviate(_counted(row, true), product_id=row.product_id)
    return law


def _counted(row: StockRow, true: tuple[int, ...]) -> str:
    return (
        f"(held, pending, paid) is {(row.held, row.pending, row.paid)}, its holds and orders come to {true}"
    )
