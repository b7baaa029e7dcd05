"""Laws of orders: a created decision or a confirmed checkout has one order with its items and payment, and nothing else."""

from decimal import Decimal

from contracts.outcomes import OrderStatus
from contracts.slices import product_of
from stock_ledger.audit.book import (
    BY_COMMAND,
    CREATED,
    HELD,
    TAKEN_BY_LINES,
    TAKING,
    Book,
    Place,
    grouped,
    place_in,
    where,
)
from stock_ledger.audit.catalogue import unchanged
from stock_ledger.audit.command_facts import GatheringRow
from stock_ledger.audit.facts import DecisionRow, ItemRow, LedgerRow, OrderRow, PaymentRow
from stock_ledger.audit.report import Law

# What an order's status allows its payment to be. An order in a status that is not here deviates.
_OPEN, _TAKEN = frozenset({"pending", "failed"}), frozenset({"paid"})
_ENDED = frozenset({"expired", "refund_due", "refunded"})
STATUSES: dict[str, frozenset[str]] = {
    OrderStatus.PENDING_PAYMENT: _OPEN,
    OrderStatus.PAID: _TAKEN,
    OrderStatus.PICKED: _TAKEN,
    OrderStatus.SHIPPED: _TAKEN,
    OrderStatus.COMPLETED: _TAKEN,
    OrderStatus.CLOSED_BY_USER: _ENDED,
    OrderStatus.CLOSED_BY_TIMEOUT: _ENDED,
    OrderStatus.CLOSED_BY_MERCHANT: _ENDED,
}
_ENTRY_OF = {CREATED: "order", HELD: "hold"}  # kinds of the ledger entries that decisions make


def orders(book: Book) -> Law:
    law = Law(
        "orders",
        "A created decision or a confirmed checkout has exactly one order, and every order one of them",
    )
    by_id = grouped((row.order_id, row) for row in book.facts.postgres.orders)
    owners: dict[str, DecisionRow] = {}
    for row in book.facts.postgres.decisions:
        if row.kind != CREATED and row.order_id is None:
            continue
        law.checked += 1
        if row.kind != CREATED:
            _deviate(law, row, f"{row.kind}, but has the order {row.order_id}")
        elif row.order_id is None:
            _deviate(law, row, "created without an order id")
        elif (other := owners.setdefault(row.order_id, row)) is not row:
            _deviate(law, row, f"shares the order {row.order_id} with {other.partition}:{other.offset}")
        else:
            found = by_id.get(row.order_id, [])
            made_of = (row.decided_at_ms, row.partition, row.offset)
            wrong = f"{len(found)} orders {row.order_id}"
            if len(found) == 1:
                wrong = _wrong_order(found[0], row.checkout_id, row.buyer_id, made_of)
            if wrong:
                _deviate(law, row, wrong)
    _orders_of_holds(book, law, by_id)
    _orders_without_cause(book, law)
    return law


def _orders_of_holds(book: Book, law: Law, by_id: dict[str, list[OrderRow]]) -> None:
    for order_id, gathering in book.confirmed.items():
        law.checked += 1
        found = by_id.get(order_id, [])
        offset = (gathering.decided_offset or 0) | BY_COMMAND
        made_of = (gathering.decided_at_ms or 0, gathering.partition, offset)
        buyer = {row.buyer_id for row in _holds_of(book, gathering)} or {""}
        wrong = f"{len(found)} orders {order_id}"
        if len(found) == 1:
            wrong = _wrong_order(found[0], gathering.checkout_id, min(buyer), made_of)
        if wrong:
            law.deviate(wrong, checkout_id=gathering.checkout_id, place=(gathering.partition, None))


def _holds_of(book: Book, gathering: GatheringRow) -> list[DecisionRow]:
    held = (book.held.get((gathering.checkout_id, answer.product_id)) for answer in gathering.answers)
    return [row for row in held if row is not None]


def _wrong_order(
    order: OrderRow, checkout_id: str | None, buyer_id: str, expected: tuple[int, int, int]
) -> str:
    if order.checkout_id != checkout_id or order.buyer_id != buyer_id:
        return f"order {order.order_id} is of checkout {order.checkout_id} and buyer {order.buyer_id}"
    if order.status not in STATUSES:
        return f"order {order.order_id} has the status {order.status}, which no order has now"
    try:
        made_of = place_in(order.order_id)
    except ValueError as error:
        return str(error)
    if made_of != expected:
        return (
            f"order {order.order_id} is made of (ms, partition, offset) {made_of}, its decision is {expected}"
        )
    return ""


def _orders_without_cause(book: Book, law: Law) -> None:
    at: dict[Place, str] = {}
    for order in book.facts.postgres.orders:
        try:
            place: Place | None = place_in(order.order_id)[1:]
        except ValueError:
            place = None
        other = order.order_id if place is None else at.setdefault(place, order.order_id)
        known = order.order_id in book.created_order or order.order_id in book.confirmed
        if known and other == order.order_id:
            continue
        law.checked += 1
        law.deviate(
            f"order {order.order_id} has no created decision and no confirmed checkout"
            if other == order.order_id
            else f"orders {other} and {order.order_id} are of one decision",
            checkout_id=order.checkout_id,
            place=place,
        )


def items(book: Book) -> Law:
    law = Law(
        "order-items",
        "An order has exactly the items that were decided: product, quantity, line, and the price where that never changed",
    )
    by_order = grouped((row.order_id, row) for row in book.facts.postgres.items)
    for order_id, row in book.created_order.items():
        law.checked += 1
        found = by_order.get(order_id, [])
        if len(found) != 1:
            _deviate(law, row, f"order {order_id} has {len(found)} items")
        elif not _is_item_of(found[0], row):
            item = found[0]
            _deviate(
                law,
                row,
                f"order {order_id} has {item.quantity} of {item.product_id} as line {item.line}, "
                f"decided were {row.quantity} of {row.product_id} as line {row.line}",
            )
    for order_id, gathering in book.confirmed.items():
        law.checked += 1
        kept = sorted((i.line, i.product_id, i.quantity) for i in by_order.get(order_id, []))
        answered = sorted((a.line, a.product_id, a.quantity) for a in gathering.answers)
        if kept != answered:
            law.deviate(
                f"order {order_id} has (line, product, quantity) {kept}, held were {answered}",
                checkout_id=gathering.checkout_id,
            )
    for order_id, found in by_order.items():
        if order_id not in book.created_order and order_id not in book.confirmed:
            law.checked += 1
            law.deviate(
                f"an item of order {order_id}, which has no created decision", product_id=found[0].product_id
            )
    _prices(book, law)
    return law


def _prices(book: Book, law: Law) -> None:
    """Where the catalogue's price never changed, it is that of every item."""
    products = {row.product_id: row for row in book.facts.postgres.products}
    constant = unchanged(book, "price", "sale_price")
    for item in book.facts.postgres.items:
        product, order = products.get(item.product_id), book.orders.get(item.order_id)
        if product is None or order is None or product_of(item.product_id) not in constant:
            continue
        sold, true = (item.price, order.currency), (product.sells_for(), product.currency)
        if sold != true:
            law.deviate(
                f"order {item.order_id} has it for {sold[0]} {sold[1]}, the catalogue for {true[0]} {true[1]}",
                product_id=item.product_id,
                checkout_id=order.checkout_id,
            )


def _is_item_of(item: ItemRow, row: DecisionRow) -> bool:
    return (item.product_id, item.quantity, item.line) == (row.product_id, row.quantity, row.line)


def payments(book: Book) -> Law:
    law = Law(
        "order-payments", "An order has exactly one payment, of its total: the sum of price times quantity"
    )
    postgres = book.facts.postgres
    by_order = grouped((row.order_id, row) for row in postgres.payments)
    items_of = grouped((row.order_id, row) for row in postgres.items)
    order_of = {row.order_id: row for row in postgres.orders}
    causes: dict[str, DecisionRow | GatheringRow] = {**book.created_order, **book.confirmed}
    for order_id, cause in causes.items():
        law.checked += 1
        found, order = by_order.get(order_id, []), order_of.get(order_id)
        wrong = "" if len(found) == 1 else f"order {order_id} has {len(found)} payments"
        if order is not None and not wrong:
            wrong = _wrong_payment(found[0], order, items_of.get(order_id, []))
        if wrong and isinstance(cause, DecisionRow):
            _deviate(law, cause, wrong)
        elif wrong:
            law.deviate(wrong, checkout_id=cause.checkout_id)
    for order_id in by_order:
        if order_id not in book.created_order and order_id not in book.confirmed:
            law.checked += 1
            law.deviate(f"a payment of order {order_id}, which has no created decision")
    return law


def _wrong_payment(payment: PaymentRow, order: OrderRow, of_order: list[ItemRow]) -> str:
    total = sum((item.price * item.quantity for item in of_order), Decimal(0))
    if not payment.amount == order.total == total:
        return f"order {order.order_id}: items come to {total}, its total is {order.total}, its payment {payment.amount}"
    if total <= 0:
        return f"order {order.order_id} has a total of {total}"
    if payment.currency != order.currency:
        return f"order {order.order_id} is in {order.currency}, its payment in {payment.currency}"
    if payment.status not in STATUSES.get(order.status, ()):
        return f"order {order.order_id} is {order.status}, its payment {payment.status}"
    return ""


def entries(book: Book) -> Law:
    law = Law(
        "order-entries",
        "A created or held decision has exactly one ledger entry, which takes its quantity from stock",
    )
    at: dict[Place, list[LedgerRow]] = {}
    for entry in book.facts.postgres.ledger:
        if entry.kind not in TAKEN_BY_LINES:
            continue
        decision = None
        if entry.partition is not None and entry.offset is not None:
            place = (entry.partition, entry.offset)
            at.setdefault(place, []).append(entry)
            decision = book.decision(place)
        if decision is None or _ENTRY_OF.get(decision.kind) != entry.kind:
            law.checked += 1
            law.deviate(
                f"ledger entry {entry.seq} is of {entry.partition}:{entry.offset}, which is no decision of that kind",
                product_id=entry.product_id,
                place=None if entry.partition is None else (entry.partition, entry.offset),
            )
    for row in book.facts.postgres.decisions:
        if row.kind not in TAKING:
            continue
        law.checked += 1
        found = at.get(where(row), [])
        if len(found) != 1:
            _deviate(law, row, f"{len(found)} ledger entries")
            continue
        entry = found[0]
        if (entry.product_id, entry.delta, entry.order_id) != (row.product_id, -row.quantity, row.order_id):
            _deviate(
                law,
                row,
                f"ledger entry {entry.seq} of {entry.product_id} is {entry.delta} for order {entry.order_id}, "
                f"expected {-row.quantity} of {row.product_id} for order {row.order_id}",
            )
    return law


def _deviate(law: Law, row: DecisionRow, detail: str) -> None:
    law.deviate(detail, product_id=row.product_id, checkout_id=row.checkout_id, place=where(row))
