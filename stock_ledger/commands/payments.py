"""A provider's notice about a payment: taken, failed or given back."""

import msgspec

from contracts.commands import Pay
from contracts.decisions import made_by_command
from contracts.outcomes import OrderStatus, PaymentStatus, Refusal
from stock_ledger.commands.book import OrderState, Refund
from stock_ledger.commands.orders import refund_due, settle_items
from stock_ledger.commands.work import Work
from stock_ledger.lifecycle import after


def pay(work: Work, notice: Pay) -> Refusal | None:
    order = work.book.orders.get(notice.order_id)
    if order is None:
        return Refusal.UNKNOWN_ORDER
    if notice.outcome == "failed":
        return _failed(work, order, notice)
    if notice.amount.decimal() != order.total or notice.amount.currency != order.currency:
        work.order_event(
            "payment.amount_mismatch", order, reference=notice.reference, outcome=notice.outcome,
            noticed=msgspec.structs.asdict(notice.amount),
        )  # fmt: skip
        return Refusal.AMOUNT_MISMATCH
    if notice.outcome == "refunded":
        return _refunded(work, order, notice)
    return _paid(work, order, notice)


def _paid(work: Work, order: OrderState, notice: Pay) -> Refusal | None:
    """Take the payment. One that cannot be taken, because the order is closed or paid already, is due back."""
    if notice.reference == order.reference or order.refund(notice.reference) is not None:
        return None  # the provider tells the same payment again
    status = after(order.status, "pay")
    late = order.status is OrderStatus.CLOSED_BY_TIMEOUT
    if status is None or (late and not _take_again(work, order)):
        if order.payment is PaymentStatus.EXPIRED:
            order = msgspec.structs.replace(
                order,
                payment=PaymentStatus.REFUND_DUE,
                reference=notice.reference,
                provider=notice.provider,
            )
        refund_due(work, order, notice.reference, notice.provider)
        return None
    if not late:
        _mark_paid(work, order)
    paid = msgspec.structs.replace(
        order,
        status=status,
        payment=PaymentStatus.PAID,
        reference=notice.reference,
        provider=notice.provider,
    )
    work.order_event("order.paid", paid, reference=notice.reference, late=late)
    return None


def _mark_paid(work: Work, order: OrderState) -> None:
    if made_by_command(order.order_id):
        settle_items(work, order, "paid")
        return
    for item in order.items:
        work.move(item.product_id, "paid", order.order_id, pending=-item.quantity, paid=item.quantity)


def _take_again(work: Work, order: OrderState) -> bool:
    """Take the units of an order that timed out once more, if they are left, whatever its buyer's limit is by now.

    The items of an order of several products lie with other writers, and those with a second stock source would have to
    be asked for there: a late payment of such an order is always due back.
    """
    if made_by_command(order.order_id) or any(_has_source(work, item.product_id) for item in order.items):
        return False
    if any(work.book.stock[i.product_id].available < i.quantity for i in order.items):
        return False
    for item in order.items:
        work.move(
            item.product_id, "late_payment", order.order_id, available=-item.quantity, paid=item.quantity
        )
        if item.counted:
            work.count_purchase(item.product_id, order.buyer_id, item.quantity)
    return True


def _has_source(work: Work, product_id: str) -> bool:
    return work.book.products[product_id].stock_source is not None


def _failed(work: Work, order: OrderState, notice: Pay) -> Refusal | None:
    """The try failed; another may still succeed until the order expires."""
    if order.status is OrderStatus.PENDING_PAYMENT:
        order = msgspec.structs.replace(order, payment=PaymentStatus.FAILED)
    work.order_event("payment.failed", order, reference=notice.reference)
    return None


def _refunded(work: Work, order: OrderState, notice: Pay) -> Refusal | None:
    """What was due back is back, once. A refund of a second payment of the same order leaves the first one's status."""
    known = order.refund(notice.reference)
    if known is not None and known.refunded:
        return Refusal.NOT_ALLOWED
    if notice.reference == order.reference:
        if order.payment is not PaymentStatus.REFUND_DUE:
            return Refusal.NOT_ALLOWED
        order = msgspec.structs.replace(order, payment=PaymentStatus.REFUNDED)
    refund = Refund(notice.reference, notice.provider, work.now) if known is None else known
    order = order.with_refund(msgspec.structs.replace(refund, refunded=True))
    work.order_event("payment.refunded", order, reference=notice.reference)
    return None
