"""What commands must come to, from outside: a second simple model, beside that of the lines, that shares its stock."""

from collections import defaultdict
from typing import Any

import msgspec
import orjson

from contracts.outcomes import Outcome, Refusal
from deploy.simulation.model import Model

_NEXT = {
    "pending_payment": {"cancel": "closed_by_user", "close": "closed_by_merchant", "expire": "closed_by_timeout"},
    "paid": {"cancel": "closed_by_user", "close": "closed_by_merchant", "pick": "picked"},
    "picked": {"close": "closed_by_merchant", "ship": "shipped"},
    "shipped": {"complete": "completed"},
}  # fmt: skip
_HOLD_NEXT = {
    "held": ("pending", "released"),
    "pending": ("paid", "released"),
    "paid": ("released",),
    "released": (),
}
Expected = tuple[Outcome, Refusal | None]
APPLIED: Expected = (Outcome.APPLIED, None)


class Order(msgspec.Struct):
    """An order as the model knows it: who bought what, where it is in its life, and under which payment."""

    buyer_id: str
    total: str
    expires_at_ms: int
    items: list[tuple[str, int]]  # product, units
    whole: str = ""  # the all-or-nothing checkout it comes from: its units lie in holds
    status: str = "pending_payment"
    payment: str = "pending"
    reference: str = ""
    due_back: set[str] = set()  # references of payments that could not be taken
    given_back: set[str] = set()
    events: int = 1


class Hold(msgspec.Struct):
    """Units kept for a line of an all-or-nothing checkout."""

    buyer_id: str
    units: int
    state: str = "held"


class Gathering(msgspec.Struct):
    """The answers to an all-or-nothing checkout."""

    since_ms: int
    answers: list[dict[str, Any]] = []
    state: str = "gathering"


class Life:
    """Commands decided one by one, in the order in which they and the lines are persisted."""

    def __init__(self, model: Model, hold_ttl_s: float) -> None:
        self._hold_ttl_ms = round(hold_ttl_s * 1000)
        self.orders: dict[str, Order] = {}
        self.holds: dict[tuple[str, str], Hold] = {}  # (checkout, product)
        self.gatherings: dict[str, Gathering] = {}
        self.put_in: dict[str, int] = defaultdict(int)  # units of products, after what there was at first
        self._model = model
        self._known: set[str] = set()  # command ids

    def decide(self, value: bytes, at_ms: int) -> Expected:
        """The decision that this command must get."""
        command = orjson.loads(value)
        if command["command_id"] in self._known:
            return Outcome.REPEATED, None
        self._known.add(command["command_id"])
        handlers = {
            "pay": self._pay,
            "restock": self._stock,
            "adjust": self._stock,
            "patch_product": self._shelve,
            "hold_answer": self._answer,
            "abandon": self._abandon,
            "settle": self._settle,
        }
        return handlers.get(command["action"], self._step)(command, at_ms)

    def _shelve(self, command: dict[str, Any], _: int) -> Expected:
        goods = self._model.goods.get(command["product_id"])
        if goods is None:
            return _refused(Refusal.UNKNOWN_PRODUCT)
        self._model.goods[goods.product_id] = msgspec.structs.replace(goods, on_shelf=command["on_shelf"])
        return APPLIED

    def _step(self, command: dict[str, Any], _: int) -> Expected:
        order = self.orders.get(command["order_id"])
        action = command["action"]
        if order is None or (action == "cancel" and command["buyer_id"] != order.buyer_id):
            return _refused(Refusal.UNKNOWN_ORDER)
        if action == "expire" and command["expires_at_ms"] != order.expires_at_ms:
            return _refused(Refusal.NOT_DUE)
        status = _NEXT.get(order.status, {}).get(action)
        if status is None:
            return _refused(Refusal.NOT_ALLOWED)
        order.status = status
        order.events += 1
        if status.startswith("closed"):
            order.events += order.payment == "paid"
            order.payment = "refund_due" if order.payment == "paid" else "expired"
            for product_id, units in order.items if not order.whole else ():
                self._move(product_id, units)
                self._buys(order.buyer_id, product_id, -units)
        return APPLIED

    def _answer(self, command: dict[str, Any], at_ms: int) -> Expected:
        """All held is an order; anything else is none, whatever came first."""
        gathering = self.gatherings.setdefault(command["checkout_id"], Gathering(at_ms, []))
        known = gathering.answers
        if gathering.state != "gathering" or (known and known[0]["payload_hash"] != command["payload_hash"]):
            return APPLIED
        known.append(command)
        if len(known) == command["lines"]:
            gathering.state = "refused" if any(a.get("reason") for a in known) else "confirmed"
        return APPLIED

    def _abandon(self, command: dict[str, Any], at_ms: int) -> Expected:
        gathering = self.gatherings.get(command["checkout_id"])
        if gathering is None:
            return _refused(Refusal.UNKNOWN_CHECKOUT)
        if gathering.state != "gathering":
            return _refused(Refusal.NOT_ALLOWED)
        if at_ms < gathering.since_ms + self._hold_ttl_ms:
            return _refused(Refusal.NOT_DUE)
        gathering.state = "refused"
        return APPLIED

    def _settle(self, command: dict[str, Any], _: int) -> Expected:
        hold = self.holds.get((command["checkout_id"], command["product_id"]))
        if hold is None:
            return _refused(Refusal.UNKNOWN_HOLD)
        if command["to"] not in _HOLD_NEXT[hold.state]:
            return _refused(Refusal.NOT_ALLOWED)
        hold.state = command["to"]
        back = hold.units if hold.state == "released" else 0
        self._move(command["product_id"], back)
        self._buys(hold.buyer_id, command["product_id"], -back)
        return APPLIED

    def _pay(self, command: dict[str, Any], _: int) -> Expected:
        order = self.orders.get(command["order_id"])
        if order is None:
            return _refused(Refusal.UNKNOWN_ORDER)
        if command["outcome"] == "failed":
            order.events += 1
            if order.status == "pending_payment":
                order.payment = "failed"
            return APPLIED
        if command["amount"]["amount"] != order.total:
            order.events += 1
            return _refused(Refusal.AMOUNT_MISMATCH)
        reference = command["reference"]
        again = reference == order.reference
        if command["outcome"] == "refunded":
            return self._refund(order, again, reference)
        return self._take(order, again or reference in order.due_back | order.given_back, reference)

    def _refund(self, order: Order, again: bool, reference: str) -> Expected:
        if reference in order.given_back or (again and order.payment != "refund_due"):
            return _refused(Refusal.NOT_ALLOWED)
        order.given_back.add(reference)
        order.events += 1
        order.payment = "refunded" if again else order.payment
        return APPLIED

    def _take(self, order: Order, again: bool, reference: str) -> Expected:
        if again:
            return APPLIED
        order.events += 1
        late = order.status == "closed_by_timeout"
        if order.status == "pending_payment" or (late and self._is_there(order)):
            for product_id, units in order.items if not order.whole else ():
                self._move(product_id, -units if late else 0)
                self._buys(order.buyer_id, product_id, units if late else 0)
            order.status, order.payment, order.reference = "paid", "paid", reference
            return APPLIED
        order.due_back.add(reference)
        if order.payment == "expired":
            order.payment, order.reference = "refund_due", reference
        return APPLIED

    def _stock(self, command: dict[str, Any], _: int) -> Expected:
        product_id = command["product_id"]
        if product_id not in self._model.available:
            return _refused(Refusal.UNKNOWN_PRODUCT)
        if self._model.available[product_id][-1] + command["units"] < 0:
            return _refused(Refusal.BELOW_COMMITTED)
        self._move(product_id, command["units"])
        self.put_in[product_id] += command["units"]
        return APPLIED

    def _is_there(self, order: Order) -> bool:
        return not order.whole and all(self._model.available[p][-1] >= units for p, units in order.items)

    def _move(self, product_id: str, units: int) -> None:
        by_seq = self._model.available[product_id]
        by_seq.append(by_seq[-1] + units)

    def _buys(self, buyer_id: str, product_id: str, units: int) -> None:
        self._model.bought[product_id, buyer_id] += units


def _refused(reason: Refusal) -> Expected:
    return Outcome.REFUSED, reason
