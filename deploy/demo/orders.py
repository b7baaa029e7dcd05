"""Orders as their buyers know them, from the answers to their checkouts."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal

import msgspec

from contracts.payments import Charge
from contracts.requests import CheckoutStatus, CreatedLine


class Bought(msgspec.Struct, frozen=True):
    """An order and whose it is. `units` is by product; `total` is in the main unit of `currency`."""

    order_id: str
    buyer_id: str
    number: str
    total: Decimal
    currency: str
    method: str
    expires_at: datetime
    units: dict[str, int]

    def charge(self) -> Charge:
        """What is to be paid of it."""
        return Charge.of_order(self.order_id, self.total, self.currency, self.method, self.expires_at)


def orders_in(answer: CheckoutStatus, buyer_id: str) -> Iterator[Bought]:
    """The orders that a checkout became: one for each line, or one for all."""
    by_order: dict[str, list[CreatedLine]] = {}
    for line in answer.lines:
        if isinstance(line, CreatedLine):
            by_order.setdefault(line.order.order_id, []).append(line)
    for order_id, lines in by_order.items():
        order = lines[0].order
        yield Bought(
            order_id=order_id,
            buyer_id=buyer_id,
            number=order.number,
            total=Decimal(order.total.amount),
            currency=order.total.currency,
            method=order.payment.method,
            expires_at=order.payment.expires_at,
            units={line.product_id: line.quantity for line in lines},
        )
