"""A batch of decisions as the columns that one statement makes all rows of: see `sql.PERSIST`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from contracts.decisions import Decision, Order
from stock_ledger.batch import Stock


class _Terms(NamedTuple):
    """What orders of the same product and quantity have alike in one batch."""

    number: int
    name: str
    cover: str
    price: Decimal
    total: Decimal
    currency: str
    expires_at: datetime
    counted: bool


def columns_of(decisions: Sequence[Decision], stock: Mapping[str, Stock]) -> list[Sequence[Any]]:
    """The arguments of `sql.PERSIST` after the first: an array per column, first those of the lines, then of the terms.

    `stock` is as it was before the batch. A line that takes nothing has no seq; one that is no order has no terms.
    """
    left = dict(stock)
    terms: dict[tuple[str, int], _Terms] = {}
    lines = []
    for d in decisions:
        seq = available = number = order_id = contact_name = phone = address = note = method = None
        order = d.order
        stock_id = d.stock_id
        if order is not None or d.hold is not None:
            before = left[stock_id]
            seq, available = before.seq + 1, before.available - d.quantity
            left[stock_id] = Stock(available, seq)
        if order is not None:
            alike = (stock_id, d.quantity)
            if alike not in terms:
                terms[alike] = _terms_of(order, len(terms))
            number, to = terms[alike].number, order.shipping
            contact_name, phone, address = to.contact_name, to.phone, to.address
            order_id, note, method = order.order_id, order.note, order.payment_method
        lines.append(
            (
                d.partition, d.offset, d.kind, d.checkout_id, d.buyer_id, stock_id, d.quantity,
                d.payload_hash, d.line, d.lines, d.reason, d.detail,
                d.first_offset, d.accepted_at, d.whole, seq, available,
                order_id, contact_name, phone, address, note, method, number,
            )
        )  # fmt: skip
    of_terms = zip(*terms.values(), strict=True) if terms else [()] * len(_Terms._fields)
    return [*zip(*lines, strict=True), *of_terms]


def _terms_of(order: Order, number: int) -> _Terms:
    return _Terms(
        number,
        order.name,
        order.cover,
        order.price,
        order.total,
        order.currency,
        order.expires_at,
        order.counted,
    )
