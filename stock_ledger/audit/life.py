"""Orders lived through again: their commands in the order of the log, by the one table of the lifecycle."""

from collections.abc import Iterator
from typing import NamedTuple

from contracts.commands import Cancel, Close, Complete, Expire, Pay, Pick, Settle, Ship
from contracts.outcomes import OrderStatus
from stock_ledger.audit.book import APPLIED, REFUSED, Book, Place, by_command, grouped, place_in, where
from stock_ledger.audit.command_facts import CommandRow
from stock_ledger.audit.facts import ItemRow, OrderRow, PaymentRow
from stock_ledger.audit.report import Law
from stock_ledger.lifecycle import CLOSED, TRANSITIONS

OfOrder = (Cancel, Close, Pick, Ship, Complete, Expire, Pay)


class Entry(NamedTuple):
    """A ledger entry that a command must have made. `delta` None: whatever it came to."""

    product_id: str
    kind: str
    delta: int | None
    order_id: str | None


class Life:
    """An order as it must be after the commands so far, and what each of them must have told, moved and asked."""

    def __init__(self, order: OrderRow, items: list[ItemRow], payment: PaymentRow | None) -> None:
        self.order = order
        self.payment_due_ms = 0 if payment is None else payment.expires_at_ms
        self.status, self.payment, self.reference = OrderStatus.PENDING_PAYMENT, "pending", ""
        self.due_back: set[str] = set()  # references of payments
        self.given_back: set[str] = set()
        self.whole = by_command(order.order_id)
        self._items = items

    def take(self, row: CommandRow, took_again: bool) -> tuple[str, list[str], list[Entry], str]:
        """Live through one command: (what is wrong, types of events, entries, what holds are asked to become)."""
        if isinstance(row.command, Pay):
            return self._notice(row.command, row, took_again)
        after = TRANSITIONS.get((self.status, row.action))
        if row.outcome == REFUSED:
            wrong = self._wrongly_unknown(row)
            if after is not None and row.reason == "not_allowed":
                wrong = f"refused, but {self.status} allows it"
            return wrong, [], [], ""
        if after is None:
            return f"{row.action} was applied to an order that is {self.status}", [], [], ""
        if wrong := self._not_entitled(row):
            return wrong, [], [], ""
        self.status = after
        if after not in CLOSED:
            return "", [f"order.{after}"], [], ""
        told = ["order.closed"]
        if self.payment == "paid":
            told.append("payment.refund_due")
            self.due_back.add(self.reference)
        self.payment = "refund_due" if self.payment == "paid" else "expired"
        return "", told, self._entries(row.action, 1), "released" if self.whole else ""

    def _wrongly_unknown(self, row: CommandRow) -> str:
        """An order is known to everyone but other buyers, from when it was made on: its id has the time of that."""
        command = row.command
        of_another = isinstance(command, Cancel) and command.buyer_id != self.order.buyer_id
        if row.reason != "unknown_order" or of_another or not _made_before(self.order.order_id, row):
            return ""
        return f"{row.action} was refused as of an unknown order"

    def _not_entitled(self, row: CommandRow) -> str:
        command = row.command
        if isinstance(command, Expire) and command.expires_at_ms != self.payment_due_ms:
            return "expired for a deadline that is not its payment's"
        if isinstance(command, Expire) and row.decided_at_ms < self.payment_due_ms:
            return "expired before its payment was late"
        if isinstance(command, Cancel) and command.buyer_id != self.order.buyer_id:
            return f"cancelled by {command.buyer_id}, who is not its buyer"
        return ""

    def _notice(
        self, notice: Pay, row: CommandRow, took_again: bool
    ) -> tuple[str, list[str], list[Entry], str]:
        amount = (notice.amount.decimal(), notice.amount.currency)
        is_right = amount == (self.order.total, self.order.currency)
        if row.outcome == REFUSED and row.reason == "amount_mismatch":
            wrong = is_right or notice.outcome == "failed"
            what = f"{notice.outcome} for {amount[0]} {amount[1]} was refused for its amount" if wrong else ""
            return what, ["payment.amount_mismatch"], [], ""
        if row.outcome == REFUSED:
            return self._wrongly_unknown(row) or self._wrongly_forbidden(notice, row), [], [], ""
        if notice.outcome == "failed":
            self.payment = "failed" if self.status is OrderStatus.PENDING_PAYMENT else self.payment
            return "", ["payment.failed"], [], ""
        if not is_right:
            return f"a notice of {amount[0]} {amount[1]} was applied", [], [], ""
        if notice.outcome == "refunded":
            return self._refunded(notice), ["payment.refunded"], [], ""
        return self._pay(notice, took_again)

    def _wrongly_forbidden(self, notice: Pay, row: CommandRow) -> str:
        """Nothing is not allowed but to give back what is back already, or what is not due back."""
        is_of_payment = notice.reference == self.reference
        may_refuse = notice.outcome == "refunded" and (
            notice.reference in self.given_back or (is_of_payment and self.payment != "refund_due")
        )
        if row.reason != "not_allowed" or may_refuse:
            return ""
        return f"{notice.outcome} was refused, but the payment was {self.payment}"

    def _refunded(self, notice: Pay) -> str:
        wrong = "refunded a second time" if notice.reference in self.given_back else ""
        self.given_back.add(notice.reference)
        if notice.reference == self.reference:
            if self.payment != "refund_due":
                wrong = f"refunded, but the payment was {self.payment}"
            self.payment = "refunded"
        return wrong

    def _pay(self, notice: Pay, took_again: bool) -> tuple[str, list[str], list[Entry], str]:
        if notice.reference == self.reference or notice.reference in self.due_back | self.given_back:
            return "", [], [], ""
        late = self.status is OrderStatus.CLOSED_BY_TIMEOUT
        after = TRANSITIONS.get((self.status, "pay"))
        if after is None or (late and not took_again):
            if self.payment == "expired":
                self.payment, self.reference = "refund_due", notice.reference
            self.due_back.add(notice.reference)
            return "", ["payment.refund_due"], [], ""
        self.status, self.payment, self.reference = after, "paid", notice.reference
        entries = self._entries("late_payment", -1) if late else self._entries("paid", 0)
        return "", ["order.paid"], entries, "paid" if self.whole else ""

    def _entries(self, kind: str, sign: int) -> list[Entry]:
        """Of an order made of a line; those of one made of holds are made by the holds' writers."""
        if self.whole:
            return []
        order_id = self.order.order_id
        return [Entry(item.product_id, kind, sign * item.quantity, order_id) for item in self._items]


def _made_before(order_id: str, row: CommandRow) -> bool:
    try:
        return place_in(order_id)[0] < row.decided_at_ms
    except ValueError:
        return False  # no order has such an id: judged by `orders`


class Lived(NamedTuple):
    """An order lived through, and for each of its commands what must have come of it."""

    life: Life
    steps: list[tuple[CommandRow, str, list[str], list[Entry], str]]


def lives(book: Book, *, commanded: bool = False) -> Iterator[Lived]:
    """Every order; with `commanded` those alone that commands were about."""
    items = grouped((row.order_id, row) for row in book.facts.postgres.items)
    payments = {row.order_id: row for row in book.facts.postgres.payments}
    for order_id, order in book.orders.items():
        if commanded and order_id not in book.by_subject:
            continue
        life = Life(order, items.get(order_id, []), payments.get(order_id))
        steps = []
        for row in book.by_subject.get(order_id, ()):
            if row.outcome in (APPLIED, REFUSED) and isinstance(row.command, OfOrder):
                took = any(e.kind == "late_payment" for e in book.command_entries.get(where(row), ()))
                steps.append((row, *life.take(row, took)))
        yield Lived(life, steps)


def order_life(book: Book) -> Law:
    law = Law(
        "order-life",
        "An order's status, payment and events follow from its applied commands by the lifecycle's table",
    )
    payments = {row.order_id: row for row in book.facts.postgres.payments}
    for life, steps in lives(book):
        order, payment = life.order, payments.get(life.order.order_id)
        law.checked += 1
        place: Place | None = None
        told = 1  # it was created
        for row, wrong, types, _, asked in steps:
            law.checked += 1
            place = where(row)
            found = [e.type for e in row.events if e.key == order.order_id.encode()]
            told += len(found)
            what = wrong or ("" if found == types else f"{row.action} told {found}, expected {types}")
            if what := what or _not_asked(row, asked):
                law.deviate(f"order {order.order_id}: {what}", checkout_id=order.checkout_id, place=place)
        now = (life.status.value, life.payment, life.reference, told)
        kept = (
            order.status,
            life.payment if payment is None else payment.status,
            life.reference if payment is None else payment.reference,
            order.sequence,
        )
        if kept != now:
            law.deviate(
                f"order {order.order_id} is (status, payment, reference, sequence) {kept}, its commands make it {now}",
                checkout_id=order.checkout_id,
                place=place,
            )
    return law


def _not_asked(row: CommandRow, to: str) -> str:
    if not to:
        return ""
    found = [c for _, c in row.asked if isinstance(c, Settle)]
    wrong = not found or any(c.to != to for c in found)
    return f"{row.action} asked its holds to become {[c.to for c in found]}, expected {to}" if wrong else ""
