"""What commands must come to, from outside: a second simple model, beside that of the lines, that shares its stock."""

from collections import defaultdict
from typing import Any

import msgspec
import orjson

from contracts.outcomes import Outcome, Refusal
from contracts.slices import others, product_of, slice_of, stock_id
from deploy.simulation.model import Goods, Model, Violation

_NEXT = {
    "pending_payment": {"cancel": "closed_by_user", "close": "closed_by_merchant", "expire": "closed_by_timeout"},
    "paid": {"cancel": "closed_by_user", "close": "closed_by_merchant", "pick": "picked"},
    "picked": {"close": "closed_by_merchant", "ship": "shipped"},
    "shipped": {"complete": "completed"},
}  # fmt: skip
_MOMENT_MS = 2000  # no batch takes longer to be decided
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

    def __init__(self, model: Model, hold_ttl_s: float, partitions: int) -> None:
        self._partitions = partitions
        self._hold_ttl_ms = round(hold_ttl_s * 1000)
        self.orders: dict[str, Order] = {}
        self.holds: dict[tuple[str, str], Hold] = {}  # (checkout, product)
        self.gatherings: dict[str, Gathering] = {}
        self.put_in: dict[str, int] = defaultdict(int)  # units of products, after what there was at first
        self._opened_ms: dict[str, int] = {}  # when slices were opened that were not there from the start
        self._due: dict[str, int] = {}  # slices that the command decided now must tell, and of how many units
        self._opens = False  # whether it must tell the first one that all are there
        self.moving: dict[str, int] = {}  # by command id, units on their way to another slice
        self._model = model
        self._known: set[str] = set()  # command ids

    def decide(
        self, value: bytes, at_ms: int, told: list[dict[str, Any]], actual: Refusal | None
    ) -> Expected:
        """The decision that this command must get, given what slices are `told` if it is that.

        Where another slice's writer may have changed what it goes by while it was decided, the `actual` one may be right.
        """
        command = orjson.loads(value)
        if command["command_id"] in self._known:
            return Outcome.REPEATED, None
        self._known.add(command["command_id"])
        handlers = {
            "pay": self._pay,
            "restock": self._stock,
            "adjust": self._stock,
            "patch_product": self._patch,
            "take_over": self._take_over,
            "open_slices": self._open_slices,
            "move": self._move_on,
            "take_in": self._take_in,
            "hold_answer": self._answer,
            "abandon": self._abandon,
            "settle": self._settle,
        }
        self._due, self._opens = {}, False
        expected = handlers.get(command["action"], self._step)(command, at_ms)
        if actual is Refusal.SLICES_NOT_ALLOWED and self._is_just_opened(command, at_ms):
            return _refused(actual)
        if expected == APPLIED:
            self._tell(command, told)
        return expected

    def _patch(self, command: dict[str, Any], _: int) -> Expected:
        goods = self._model.goods.get(command["product_id"])
        if goods is None:
            return _refused(Refusal.UNKNOWN_PRODUCT)
        slices = command.get("slices", goods.slices)
        if slices != goods.slices and (goods.slices > 1 or slices > self._partitions):
            return _refused(Refusal.SLICES_NOT_ALLOWED)
        changes = {"slices": slices, "is_open": goods.is_open and slices == goods.slices}
        if "on_shelf" in command:
            changes["on_shelf"] = command["on_shelf"]
        self._model.goods[goods.product_id] = msgspec.structs.replace(
            goods, **changes, version=goods.version + 1
        )
        self._due = self._to_others(goods.product_id, 0)
        return APPLIED

    def _open_slices(self, command: dict[str, Any], _: int) -> Expected:
        """All slices have the entry, and get their part of what the first one has."""
        goods = self._model.goods[command["product_id"]]
        if not goods.is_open:
            self._model.goods[goods.product_id] = msgspec.structs.replace(
                goods, is_open=True, version=goods.version + 1
            )
            self._due = self._to_others(
                goods.product_id, self._model.available[goods.product_id][-1] // goods.slices
            )
        return APPLIED

    def _to_others(self, product_id: str, units: int) -> dict[str, int]:
        """All other slices, once they are there; until then the next one."""
        goods = self._model.goods[product_id]
        stocks = list(others(product_id, goods.slices))
        return dict.fromkeys(stocks if goods.is_open else stocks[:1], units)

    def _is_just_opened(self, command: dict[str, Any], at_ms: int) -> bool:
        """Whether the slice that units are moved to may not have been there a moment ago."""
        if command["action"] != "move" or command["slice"] == command["to"]:
            return False
        opened_ms = self._opened_ms.get(stock_id(command["product_id"], command["to"]))
        return opened_ms is not None and at_ms - opened_ms < _MOMENT_MS

    def _take_over(self, command: dict[str, Any], at_ms: int) -> Expected:
        """What slice 0 is like comes to the slice, and units with it; until all are there it tells the next one."""
        stock = command["product_id"]
        known = self._model.goods.get(stock)
        if known is None or known.version < command["version"]:
            names = ("product_id", "on_shelf", "slices", "version")
            limit = command.get("buyer_limit")
            self._model.goods[stock] = Goods(**{n: command[n] for n in names}, units=0, buyer_limit=limit)
        number, is_last = slice_of(stock), slice_of(stock) + 1 == command["slices"]
        if stock not in self._model.available:
            self._opened_ms[stock] = at_ms
            self._model.available[stock] = [0, 0]
            self._opens = is_last
        if command.get("hand_on") and not is_last:
            self._due = {stock_id(product_of(stock), number + 1): 0}
        return self._take_in(command, 0)

    def _take_in(self, command: dict[str, Any], _: int) -> Expected:
        if self.moving.pop(command["command_id"], None) != units_of(command):
            raise Violation(f"units came that are not on their way: {command}")
        if units := units_of(command):
            self._move(command["product_id"], units)
        return APPLIED

    def _move_on(self, command: dict[str, Any], _: int) -> Expected:
        known = self._model.available
        if command["product_id"] not in known:
            return _refused(Refusal.UNKNOWN_PRODUCT)
        giver, taker = (stock_id(command["product_id"], command[name]) for name in ("slice", "to"))
        if giver == taker or not {giver, taker} <= known.keys() or not self._model.goods[giver].is_open:
            return _refused(Refusal.SLICES_NOT_ALLOWED)
        if known[giver][-1] < command["units"]:
            return _refused(Refusal.BELOW_COMMITTED)
        self._due = {taker: command["units"]}
        return APPLIED

    def _tell(self, command: dict[str, Any], told: list[dict[str, Any]]) -> None:
        """What the slice tells others is what it must be, and the units that go with it leave its stock."""
        opening = [one for one in told if one["action"] == "open_slices"]
        to_others = [one for one in told if one["action"] in ("take_over", "take_in")]
        gone = {one["product_id"]: units_of(one) for one in to_others}
        if gone != self._due or len(to_others) != len(gone) or len(opening) != self._opens:
            raise Violation(f"{gone} (units by slice) are told, must be {self._due}: {command}, {told}")
        for one in to_others:
            if one["command_id"] in self.moving:
                raise Violation(f"asked twice: {one}")
            self.moving[one["command_id"]] = units_of(one)
        if units := sum(gone.values()):
            self._move(stock_id(command["product_id"], command.get("slice", 0)), -units)

    def _step(self, command: dict[str, Any], at_ms: int) -> Expected:
        order = self.orders.get(command["order_id"])
        action = command["action"]
        if order is None or (action == "cancel" and command["buyer_id"] != order.buyer_id):
            return _refused(Refusal.UNKNOWN_ORDER)
        status = _NEXT.get(order.status, {}).get(action)
        if status is None:
            return _refused(Refusal.NOT_ALLOWED)
        due_ms = order.expires_at_ms
        if action == "expire" and (command["expires_at_ms"] != due_ms or at_ms < due_ms):
            return _refused(Refusal.NOT_DUE)
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
        goods = self._model.goods[product_id]
        share = command["units"] // goods.slices
        if command["action"] == "restock" and share and goods.is_open:
            self._due = self._to_others(product_id, share)
        return APPLIED

    def _is_there(self, order: Order) -> bool:
        return not order.whole and all(self._model.available[p][-1] >= units for p, units in order.items)

    def _move(self, product_id: str, units: int) -> None:
        by_seq = self._model.available[product_id]
        if by_seq[-1] + units < 0:
            raise Violation(f"{units:+} units of {product_id}, but there are {by_seq[-1]}")
        by_seq.append(by_seq[-1] + units)

    def _buys(self, buyer_id: str, product_id: str, units: int) -> None:
        self._model.bought.add(product_id, buyer_id, units)


def units_of(command: dict[str, Any]) -> int:
    """Units that come with a command from another slice."""
    units: int = command.get("units", 0)
    return units


def _refused(reason: Refusal) -> Expected:
    return Outcome.REFUSED, reason
