"""Any sequence of lines and commands: every unit is in one place, given back once, and no checkout is left open."""

from collections import Counter
from typing import Any, Literal

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contracts.commands import (
    Abandon,
    Adjust,
    Command,
    Move,
    PatchProduct,
    Restock,
    SetStock,
    TakeIn,
    TakeOver,
)
from contracts.messages import CheckoutLine
from contracts.outcomes import FIRST, Outcome, Reason
from contracts.slices import product_of as product_of_slice
from contracts.slices import slice_of_buyer, stock_ids
from contracts.times import to_ms
from stock_ledger.commands.book import OrderState, Told
from stock_ledger.lifecycle import ACTIONS, CLOSED
from tests.desk import PARTITIONS, Desk, asked, notice_of, step_of
from tests.harness import line_of, product_in, product_of

SPLIT = product_in(2, PARTITIONS)  # may get slices
PRODUCTS = [product_in(0, PARTITIONS), product_in(1, PARTITIONS), product_in(1, PARTITIONS, 1), SPLIT]
LIMIT = 6
OPENING = {"initial", "restock", "adjust", "set_stock", "move"}
product_ids = st.sampled_from(PRODUCTS)
units = st.integers(1, 4)
buyers = st.sampled_from(["ann", "bob", "cem"])


class Sale(RuleBasedStateMachine):
    """Lines and commands as they come; what is asked of other partitions waits, and may come late or twice."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.checkouts = 0
        self.sent: list[Command] = []
        self.missing: list[CheckoutLine] = []  # of all-or-nothing checkouts
        self.came: list[CheckoutLine] = []
        for product_id in PRODUCTS:
            self.desk.put(product_of(product_id, buyer_limit=LIMIT), 8)

    @initialize(slices=st.integers(1, 3), is_split=st.booleans())
    def begin(self, slices: int, *, is_split: bool) -> None:
        self.split(slices)
        if is_split:
            self.desk.deliver()

    def obey(self, *commands: Command) -> None:
        self.sent += commands
        self.desk.obey(*commands)

    def some_order(self, data: st.DataObject) -> OrderState:
        return data.draw(st.sampled_from(self.desk.orders()))

    def come(self, line: CheckoutLine, known: int = 1) -> None:
        """A line, to the slice of its buyer as the edge knows it."""
        line = msgspec.structs.replace(line, slice=slice_of_buyer(line.buyer_id, known))
        self.came.append(line)
        self.desk.sell(line)

    def shown(self, product_id: str, data: st.DataObject) -> int:
        """How many slices the edge knows: all, once they are open, or one, since it looked before."""
        product = self.desk.ledger.catalogue[product_id]
        return data.draw(st.sampled_from([1, product.slices])) if product.slices_open else 1

    @rule(product_id=product_ids, quantity=units, buyer=buyers, data=st.data())
    def buy(self, product_id: str, quantity: int, buyer: str, data: st.DataObject) -> None:
        self.checkouts += 1
        self.come(line_of(self.checkouts, product_id, quantity, buyer_id=buyer), self.shown(product_id, data))

    @precondition(lambda self: self.came)
    @rule(data=st.data())
    def buy_again(self, data: st.DataObject) -> None:
        """What was sent twice is bought once, wherever its second copy comes to."""
        line = data.draw(st.sampled_from(self.came))
        self.come(line, self.shown(line.product_id, data))

    @precondition(lambda self: self.desk.sent_on)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        """A line that was sent on comes to its slice."""
        line = data.draw(st.sampled_from(self.desk.sent_on))
        self.desk.sent_on.remove(line)
        self.desk.sell(line)

    @rule(slices=st.integers(1, PARTITIONS + 1))
    def split(self, slices: int) -> None:
        before = self.desk.ledger.catalogue[SPLIT].slices
        self.obey(asked(PatchProduct, product_id=SPLIT, slices=slices))
        may_be = slices <= PARTITIONS and before in (1, slices)
        assert self.desk.ledger.catalogue[SPLIT].slices == (slices if may_be else before)

    @rule(origin=st.integers(0, 2), to=st.integers(0, 2), units=units)
    def move(self, origin: int, to: int, units: int) -> None:
        self.obey(asked(Move, product_id=SPLIT, slice=origin, to=to, units=units))

    @rule(quantities=st.dictionaries(product_ids, units, min_size=2), buyer=buyers, data=st.data())
    def buy_all_or_nothing(self, quantities: dict[str, int], buyer: str, data: st.DataObject) -> None:
        """Sometimes not all of its lines come into the log at once."""
        self.checkouts += 1
        lines = [
            line_of(
                self.checkouts, *one, buyer_id=buyer, policy="all_or_nothing", line=n, lines=len(quantities)
            )
            for n, one in enumerate(quantities.items())
        ]
        come = data.draw(st.integers(1, len(lines)) | st.just(len(lines)))
        for line in lines[:come]:
            self.come(line)
        self.missing += lines[come:]

    @precondition(lambda self: self.missing)
    @rule()
    def a_missing_line_comes(self) -> None:
        self.come(self.missing.pop(0))

    @precondition(lambda self: self.desk.asked)
    @rule(data=st.data())
    def pass_on(self, data: st.DataObject) -> None:
        """The next command for one of the partitions: each partition's come in order."""
        waiting = {c.partition(PARTITIONS): c for c in reversed(self.desk.asked)}
        command = waiting[data.draw(st.sampled_from(sorted(waiting)))]
        self.desk.asked.remove(command)
        self.obey(command)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        command = data.draw(st.sampled_from(self.sent))
        (decision,) = self.desk.obey(command)
        assert decision.outcome is Outcome.REPEATED
        assert decision.told == Told([], [], [])

    @precondition(lambda self: self.desk.ledger.orders)
    @rule(action=st.sampled_from(ACTIONS), data=st.data())
    def step(self, action: str, data: st.DataObject) -> None:
        self.obey(step_of(self.some_order(data), action))

    @precondition(lambda self: self.desk.ledger.orders)
    @rule(
        outcome=st.sampled_from(["paid", "failed", "refunded"]),
        reference=st.sampled_from(["pay-1", "pay-2"]),
        data=st.data(),
    )
    def notice(
        self, outcome: Literal["paid", "failed", "refunded"], reference: str, data: st.DataObject
    ) -> None:
        self.obey(notice_of(self.some_order(data), outcome, reference))

    @rule(
        product_id=product_ids, change=st.integers(-6, 6), kind=st.sampled_from(["restock", "adjust", "set"])
    )
    def change_stock(self, product_id: str, change: int, kind: str) -> None:
        if kind == "restock":
            self.obey(asked(Restock, product_id=product_id, units=abs(change) + 1))
        elif kind == "adjust":
            self.obey(asked(Adjust, product_id=product_id, units=change, why="counted"))
        else:
            self.obey(asked(SetStock, product_id=product_id, total=max(0, 8 + change)))

    @rule(
        product_id=product_ids, limit=st.sampled_from([None, LIMIT]), price=st.sampled_from(["1.00", "2.50"])
    )
    def patch(self, product_id: str, limit: int | None, price: str) -> None:
        self.obey(asked(PatchProduct, product_id=product_id, buyer_limit=limit, sale_price=price))

    @rule(seconds=st.sampled_from([1, 20, 40]))
    def wait(self, seconds: int) -> None:
        self.desk.tick(seconds)

    @rule()
    def abandon_what_is_late(self) -> None:
        for g in list(self.desk.commands.gatherings.values()):
            if g.decided_at is None and g.deadline <= self.desk.now:
                asked_at = to_ms(self.desk.now)
                self.obey(asked(Abandon, checkout_id=g.checkout_id, asked_at_ms=asked_at))
                assert self.desk.commands.gatherings[g.checkout_id].decided_at is not None

    @invariant()
    def every_unit_is_in_one_place(self) -> None:
        for product_id in self.desk.ledger.stock:
            places = self.desk.stock(product_id)
            assert min(places) >= 0
            entries = self.desk.entries[product_id]
            assert sum(delta for kind, delta in entries if kind in OPENING) == sum(places)
            assert sum(delta for _, delta in entries) == places[0]
            assert self.desk.ledger.stock[product_id].seq == len(entries)

    @invariant()
    def units_between_slices_are_on_their_way(self) -> None:
        moved = sum(
            delta for entries in self.desk.entries.values() for kind, delta in entries if kind == "move"
        )
        on_their_way = sum(c.units for c in self.desk.asked if isinstance(c, TakeOver | TakeIn))
        assert moved == -on_their_way

    @invariant()
    def slices_open_when_all_are_there(self) -> None:
        """So no line ever comes to one that is not there."""
        product = self.desk.ledger.catalogue[SPLIT]
        if product.slices_open:
            assert self.desk.ledger.stock.keys() >= set(stock_ids(SPLIT, product.slices))
        assert Reason.UNKNOWN_PRODUCT not in {d.reason for d in self.desk.ledger.decided.values()}

    @invariant()
    def a_line_is_decided_once(self) -> None:
        decided = Counter(
            (d.checkout_id, d.product_id) for d in self.desk.ledger.decided.values() if d.kind in FIRST
        )
        assert set(decided.values()) <= {1}

    @invariant()
    def counts_are_those_of_orders_and_holds(self) -> None:
        there: dict[str, Counter[str]] = {i: Counter() for i in self.desk.ledger.stock}
        bought: Counter[tuple[str, str]] = Counter()
        for order in self.desk.orders():
            if order.order_id in self.whole_orders() or order.status in CLOSED:
                continue
            (item,) = order.items
            there[item.product_id]["pending" if order.status == "pending_payment" else "paid"] += (
                item.quantity
            )
            bought[product_of_slice(item.product_id), order.buyer_id] += item.quantity * item.counted
        for (_, product_id), hold in self.desk.ledger.holds.items():
            if hold.state != "released":
                there[product_id][hold.state] += hold.quantity
                bought[product_of_slice(product_id), hold.buyer_id] += hold.quantity * hold.counted
        for product_id, counter in there.items():
            states = (counter["held"], counter["pending"], counter["paid"])
            assert self.desk.stock(product_id)[1:] == states
        purchases = self.desk.ledger.purchases
        assert {pair: n for pair, n in purchases.items() if n} == {pair: n for pair, n in bought.items() if n}

    def whole_orders(self) -> set[str | None]:
        return {g.order_id for g in self.desk.commands.gatherings.values()}

    @invariant()
    def events_of_an_order_have_no_gap(self) -> None:
        for order in self.desk.orders():
            sequences = [sequence for _, sequence in self.desk.told(order.order_id)]
            assert sequences == list(range(1, order.sequence + 1))

    def slices_are_open_and_alike(self) -> None:
        """In the end: the last change has come to each of them."""
        product = self.desk.ledger.catalogue[SPLIT]
        assert product.slices_open
        for name in stock_ids(SPLIT, product.slices):
            assert self.desk.ledger.catalogue[name] == msgspec.structs.replace(product, product_id=name)

    def teardown(self) -> None:
        """In the end, with every deadline over and everything passed on, each checkout has its one answer."""
        self.desk.deliver()
        self.desk.tick(60)
        self.abandon_what_is_late()
        while self.missing:  # too late
            self.a_missing_line_comes()
        self.desk.deliver()
        self.every_unit_is_in_one_place()
        self.units_between_slices_are_on_their_way()
        self.slices_are_open_and_alike()
        self.a_line_is_decided_once()
        for checkout in {(line.checkout_id, line.product_id) for line in self.came}:
            assert checkout in {
                (d.checkout_id, d.product_id) for d in self.desk.ledger.decided.values() if d.kind in FIRST
            }
        self.counts_are_those_of_orders_and_holds()
        answers: Counter[Any] = Counter(checkout_id for checkout_id, _, _ in self.desk.results)
        for g in self.desk.commands.gatherings.values():
            assert g.decided_at is not None
            assert answers[g.checkout_id] == 1
        for (checkout_id, _), hold in self.desk.ledger.holds.items():
            order_id = self.desk.commands.gatherings[checkout_id].order_id
            status = None if order_id is None else self.desk.order(order_id).status
            waiting = status == "pending_payment"
            expected = (
                "released" if status is None or status in CLOSED else "pending" if waiting else "paid"
            )  # fmt: skip
            assert hold.state == expected


TestSale = Sale.TestCase
TestSale.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
