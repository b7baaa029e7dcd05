"""The funnel of a sale, as clients were told it and as the audit reads it; where the two differ. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from contracts.commands import Pay
from deploy.demo.life import Told
from deploy.demo.orders import Bought
from stock_ledger.audit.facts import Facts

_TAKEN = ("order", "hold", "late_payment")
_GIVEN = ("initial", "restock", "adjust", "set_stock")
_HAS_MONEY = ("paid", "picked", "shipped", "completed")
_BACK = ("refund_due", "refunded")
_SHOWN_MAX = 20


class Funnel(msgspec.Struct, frozen=True):
    """What became of orders. `statuses` and `payments` count orders by their last status and that of their payment;
    `paid` had a payment taken, at whatever time; `closed` is by why.
    """

    orders: int
    paid: int
    statuses: dict[str, int]
    payments: dict[str, int]

    @property
    def closed(self) -> dict[str, int]:
        return {status: n for status, n in self.statuses.items() if status.startswith("closed")}


class HotStock(msgspec.Struct, frozen=True):
    """Units of the hot product. `sold_again` were sold beyond all that were ever there, so they had come back."""

    given: int
    taken: int
    returned: int
    sold_again: int
    available: int


def funnel_told(told: Told) -> Funnel:
    """By what buyers saw at the end. One that is closed had its payment taken if that went back, or is to, and not of a
    payment that came after the closing.
    """
    orders = told.orders.values()
    paid = sum(
        order.status in _HAS_MONEY
        or (order.status in ("closed_by_user", "closed_by_merchant") and order.payment.status in _BACK)
        for order in orders
    )
    return _funnel(paid, [(order.status, order.payment.status) for order in orders])


def funnel_read(facts: Facts) -> Funnel:
    """By Postgres: paid is what a command has made so."""
    payments = {row.order_id: row.status for row in facts.postgres.payments}
    paid = {
        row.subject
        for row in facts.postgres.commands
        if row.action == "pay" and any(event.type == "order.paid" for event in row.events)
    }
    return _funnel(
        len(paid), [(order.status, payments.get(order.order_id, "")) for order in facts.postgres.orders]
    )


def _funnel(paid: int, ends: list[tuple[str, str]]) -> Funnel:
    statuses, payments = Counter(s for s, _ in ends), Counter(p for _, p in ends)
    return Funnel(len(ends), paid, dict(sorted(statuses.items())), dict(sorted(payments.items())))


def hot_stock(facts: Facts, product_id: str) -> HotStock:
    """By the product's ledger."""
    entries = [row for row in facts.postgres.ledger if row.product_id == product_id]
    given = sum(row.delta for row in entries if row.kind in _GIVEN)
    taken = -sum(row.delta for row in entries if row.kind in _TAKEN)
    returned = sum(row.delta for row in entries if row.kind not in _GIVEN and row.delta > 0)
    available = entries[-1].available if entries else 0
    return HotStock(given, taken, returned, max(taken - given, 0), available)


def disagreements(bought: Iterable[Bought], told: Told, facts: Facts, product_id: str) -> list[str]:
    """Where what clients were told is not what the audit has read; the first few."""
    found: list[str] = []
    for each in (
        _of_orders({order.order_id: order for order in bought}, told, facts),
        _of_funnels(funnel_told(told), funnel_read(facts)),
        _of_commands(told, facts),
        _of_stock(told, hot_stock(facts, product_id), product_id),
    ):
        found += each
    return found[:_SHOWN_MAX]


def _of_orders(bought: dict[str, Bought], told: Told, facts: Facts) -> Iterator[str]:
    """The same orders, with the same items, in the same status."""
    stored = {order.order_id: order for order in facts.postgres.orders}
    if unknown := stored.keys() - bought.keys():
        yield f"{len(unknown)} orders were made that no buyer was told of, such as {min(unknown)}"
    items: dict[str, dict[str, int]] = {}
    for item in facts.postgres.items:
        items.setdefault(item.order_id, {})[item.product_id] = item.quantity
    payments = {row.order_id: row.status for row in facts.postgres.payments}
    for order_id, order in bought.items():
        row, seen = stored.get(order_id), told.orders.get(order_id)
        if row is None or seen is None:
            yield f"order {order.number} was told to {order.buyer_id} and is gone"
        elif order.units != items.get(order_id):
            yield f"order {order.number} was told as {order.units}, it is {items.get(order_id)}"
        elif (seen.status, seen.payment.status) != (row.status, payments.get(order_id)):
            yield (
                f"order {order.number} was told {seen.status}, {seen.payment.status}; "
                f"it is {row.status}, {payments.get(order_id)}"
            )


def _of_funnels(told: Funnel, read: Funnel) -> Iterator[str]:
    if told != read:
        yield f"clients were told {told}, the audit read {read}"


def _of_commands(told: Told, facts: Facts) -> Iterator[str]:
    """Every command ended as was told, and every payment that was acknowledged was decided."""
    ends = {
        row.command_id: row.outcome
        for row in facts.postgres.commands
        if row.outcome in ("applied", "refused") and row.command_id is not None
    }
    for command_id, status in told.commands.items():
        if ends.get(command_id) != status.status:
            yield f"{status.action} {command_id} was told {status.status}, it is {ends.get(command_id)}"
    decided = {row.subject for row in facts.postgres.commands if isinstance(row.command, Pay)}
    if missing := told.paid - decided:
        yield f"{len(missing)} payments were acknowledged and never decided, such as of {min(missing)}"


def _of_stock(told: Told, read: HotStock, product_id: str) -> Iterator[str]:
    """What the merchant sees is what is left of what there was, after what the buyers have."""
    stock = told.stock
    if stock is None:
        yield f"the merchant was told nothing of the stock of {product_id}"
        return
    sold = sum(
        item.quantity
        for order in told.orders.values()
        for item in order.items
        if item.product_id == product_id and order.status in _HAS_MONEY
    )
    seen = (stock.available, stock.paid, stock.pending_payment, stock.held)
    for what, expected in (
        ("the ledger", (read.available, read.given - read.available, 0, 0)),
        ("the buyers' orders", (read.given - sold, sold, 0, 0)),
    ):
        if seen != expected:
            yield f"{product_id}: (available, paid, pending, held) {seen} told, {expected} by {what}"
