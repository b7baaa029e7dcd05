"""Cancel, close, expire, pick, ship, complete: an order's steps, by the one table of the lifecycle."""

import uuid
from typing import Literal

import msgspec

from contracts.commands import Cancel, Close, Complete, Expire, Pick, Settle, Ship
from contracts.decisions import made_by_command
from contracts.outcomes import OrderStatus, PaymentStatus, Refusal
from contracts.times import to_ms
from stock_ledger.commands.book import OrderState, Refund
from stock_ledger.commands.work import Work
from stock_ledger.lifecycle import CLOSED, after

_SETTLEMENTS = uuid.UUID("0b6f6d5e-8f0e-5a86-9d53-6d2f5f2f8a11")


def cancel(work: Work, command: Cancel) -> Refusal | None:
    order = work.book.orders.get(command.order_id)
    if order is None or order.buyer_id != command.buyer_id:
        return Refusal.UNKNOWN_ORDER
    return _advance(work, order, "cancel")


def close(work: Work, command: Close) -> Refusal | None:
    return _advance(work, work.book.orders.get(command.order_id), "close", why=command.why)


def expire(work: Work, command: Expire) -> Refusal | None:
    """By the writer's time: whoever asks may have a clock that is ahead."""
    order = work.book.orders.get(command.order_id)
    if order is not None and after(order.status, "expire") is not None:
        moved = to_ms(order.expires_at) != command.expires_at_ms
        if moved or work.now < order.expires_at:
            return Refusal.NOT_DUE
    return _advance(work, order, "expire")


def ship(work: Work, command: Ship) -> Refusal | None:
    return _advance(
        work,
        work.book.orders.get(command.order_id),
        "ship",
        carrier=command.carrier,
        tracking=command.tracking,
    )


def step(work: Work, command: Pick | Complete) -> Refusal | None:
    return _advance(
        work, work.book.orders.get(command.order_id), "pick" if isinstance(command, Pick) else "complete"
    )


def _advance(work: Work, order: OrderState | None, action: str, **more: str) -> Refusal | None:
    if order is None:
        return Refusal.UNKNOWN_ORDER
    status = after(order.status, action)
    if status is None:
        return Refusal.NOT_ALLOWED
    payment = order.payment
    if status in CLOSED:
        give_back(work, order, action)
        payment = PaymentStatus.REFUND_DUE if payment is PaymentStatus.PAID else PaymentStatus.EXPIRED
    told = work.order_event(
        f"order.{'closed' if status in CLOSED else status.value}",
        msgspec.structs.replace(order, status=status, payment=payment),
        **more,
    )
    if payment is PaymentStatus.REFUND_DUE and order.payment is PaymentStatus.PAID:
        refund_due(work, told, order.reference, order.provider)
    return None


def refund_due(work: Work, order: OrderState, reference: str, provider: str) -> None:
    """What was paid under `reference` is to be given back by the provider that took it."""
    order = order.with_refund(Refund(reference, provider, work.now))
    work.order_event("payment.refund_due", order, reference=reference)


def give_back(work: Work, order: OrderState, action: str) -> None:
    """Every item's units are available again: here, or by the writers of the products that hold them."""
    if made_by_command(order.order_id):
        settle_items(work, order, "released")
        return
    paid = order.status is not OrderStatus.PENDING_PAYMENT
    for item in order.items:
        units = item.quantity
        work.move(
            item.product_id, action, order.order_id, available=units,
            pending=0 if paid else -units, paid=-units if paid else 0,
        )  # fmt: skip
        work.give_back(item.product_id, units)
        if item.counted:
            work.count_purchase(item.product_id, order.buyer_id, -units)


def settle_items(work: Work, order: OrderState, to: Literal["pending", "paid", "released"]) -> None:
    """Ask the writers of the order's products to bring its holds to another state."""
    for item in order.items:
        ask_to_settle(work, order.checkout_id, item.product_id, to, order.order_id)


def ask_to_settle(
    work: Work, checkout_id: str, product_id: str, to: Literal["pending", "paid", "released"], order_id: str | None
) -> None:  # fmt: skip
    """A hold comes to each state once, so the command's id follows from the state."""
    work.ask(
        Settle(
            command_id=str(uuid.uuid5(_SETTLEMENTS, f"{checkout_id} {product_id} {to}")),
            actor="sluiceway",
            asked_at_ms=to_ms(work.now),
            product_id=product_id,
            checkout_id=checkout_id,
            to=to,
            order_id=order_id,
        )
    )
