"""Slices: each line is decided once, wherever its copies come to, and the last unit is sold wherever it lies."""

from collections import deque

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import CheckoutLine, read_checkout_line
from contracts.outcomes import FIRST, Kind, Reason
from contracts.slices import others, slice_of_buyer, stock_id
from stock_ledger.batch import Decided, Loaded, Received, Stock
from stock_ledger.decide import decide
from tests.harness import NOON, line_of, product_of

P = "p"


class Slices:
    """A product's slices, each with a log that is decided line by line.

    What it sees of the others' decisions is only what it has to: those that they made when they were the only one.
    """

    def __init__(self, units: list[int], known: int | None = None, limit: int | None = None) -> None:
        self.limit = limit
        self.known = [known or len(units)] * len(units)  # how many there are, by what each slice knows
        self.stock = {stock_id(P, n): Stock(available, 0) for n, available in enumerate(units)}
        self.logs: list[deque[CheckoutLine]] = [deque() for _ in units]
        self.offsets = [0] * len(units)
        self.decided: dict[tuple[str, str], int] = {}
        self.forwarded: dict[tuple[str, str], int] = {}
        self.settled: dict[tuple[str, str], str] = {}
        self.alone: set[tuple[str, str]] = set()  # of these, what was decided before the split
        self.kinds: list[tuple[int, str, Kind]] = []  # slice, checkout, what it became
        self.refused: list[Reason | None] = []
        self.bought: dict[tuple[str, str], int] = {}

    def come(self, line: CheckoutLine) -> None:
        self.logs[line.slice].append(line)

    def step(self, number: int) -> None:
        """The slice decides its next line, if it has one."""
        if not self.logs[number]:
            return
        own, line = stock_id(P, number), self.logs[number].popleft()
        decided = self._decide(own, number, line)
        decision = decided.decisions[0]
        self.kinds.append((number, line.checkout_id, decision.kind))
        if decision.kind is Kind.FORWARDED:
            self.forwarded[line.checkout_id, own] = self.offsets[number]
            self.come(read_checkout_line(decision.detail))
        elif decision.kind in FIRST:
            assert (line.checkout_id, P) not in self.settled, "decided twice"
            self.decided[line.checkout_id, own] = self.offsets[number]
            self.settled[line.checkout_id, P] = own
            if self.known[number] == 1:
                self.alone.add((line.checkout_id, P))
        if decision.kind is Kind.REFUSED:
            self.refused.append(decision.reason)
        self.offsets[number] += 1
        self.stock |= decided.stock
        for pair, units in decided.bought.items():
            self.bought[pair] = self.bought.get(pair, 0) + units

    def _decide(self, own: str, number: int, line: CheckoutLine) -> Decided:
        product = product_of(own, slices=self.known[number], buyer_limit=self.limit)
        loaded = Loaded(
            products={own: product},
            stock={own: self.stock[own]},
            bought=dict(self.bought),
            addresses={},
            decided={
                (checkout_id, at): offset
                for (checkout_id, at), offset in self.decided.items()
                if at == own or (checkout_id, P) in self.alone
            },
            hashes={},
            forwarded=dict(self.forwarded),
            elsewhere={other: self.stock[other].available for other in others(own, self.known[number])},
        )
        return decide([Received(number, self.offsets[number], line)], loaded, NOON)

    def drain(self) -> None:
        while any(self.logs):
            for number in range(len(self.logs)):
                self.step(number)

    def counts(self, kind: Kind) -> int:
        return sum(k is kind for _, _, k in self.kinds)


def buyers_of(number: int, slices: int, count: int) -> list[str]:
    """Buyers that belong to a slice."""
    names = (f"b{n}" for n in range(10_000))
    fitting = (name for name in names if slice_of_buyer(name, slices) == number)
    return [next(fitting) for _ in range(count)]


def test_what_runs_out_is_forwarded_to_all_that_have_enough() -> None:
    """Not to the one with the most alone: its writer may be away."""
    lines = [Received(0, n, line_of(n, P, buyer_id=buyer)) for n, buyer in enumerate(buyers_of(0, 4, 40))]
    left = {"p~1": 1, "p~2": 1000, "p~3": 100}
    loaded = Loaded({P: product_of(P, slices=4)}, {P: Stock(0, 0)}, {}, {}, {}, {}, elsewhere=left)
    sent = [read_checkout_line(d.detail).slice for d in decide(lines, loaded, NOON).decisions]
    assert sent.count(1) == 1
    assert min(sent.count(2), sent.count(3)) >= 10


def test_a_slice_that_runs_out_forwards_to_those_that_have_some() -> None:
    slices = Slices([1, 1, 2])
    for n, buyer in enumerate(buyers_of(0, 3, 6)):
        slices.come(line_of(n, P, buyer_id=buyer))
    slices.drain()
    assert {i: s.available for i, s in slices.stock.items()} == {"p": 0, "p~1": 0, "p~2": 0}
    assert (slices.counts(Kind.CREATED), slices.counts(Kind.REFUSED)) == (4, 2)
    assert slices.refused == [Reason.SOLD_OUT] * 2


def test_a_line_is_forwarded_for_stock_once() -> None:
    slices = Slices([0, 1])
    slices.come(line_of("late", P, buyer_id=buyers_of(0, 2, 1)[0]))
    slices.step(0)
    slices.stock["p~1"], slices.stock["p"] = Stock(0, 1), Stock(1, 1)  # it went the other way meanwhile
    slices.drain()
    assert [(n, k) for n, _, k in slices.kinds] == [(0, Kind.FORWARDED), (1, Kind.REFUSED)]


def test_a_batch_forwards_no_more_than_the_others_have() -> None:
    buyers = buyers_of(0, 2, 5)
    lines = [Received(0, n, line_of(n, P, 2, buyer_id=buyer)) for n, buyer in enumerate(buyers)]
    entry = product_of(P, slices=2)
    loaded = Loaded({P: entry}, {P: Stock(3, 0)}, {}, {}, {}, {}, elsewhere={"p~1": 5})
    decided = decide(lines, loaded, NOON)
    kinds = [d.kind for d in decided.decisions]
    assert kinds == [Kind.CREATED, Kind.FORWARDED, Kind.FORWARDED, Kind.REFUSED, Kind.REFUSED]
    assert decided.decisions[3].reason is Reason.INSUFFICIENT_STOCK
    assert loaded.elsewhere == {"p~1": 5}, "what was loaded is not used up"


def test_a_buyer_of_a_higher_slice_is_passed_on_and_not_counted_as_forwarded() -> None:
    slices = Slices([5, 5])
    buyer = buyers_of(1, 2, 1)[0]
    slices.come(line_of("a", P, buyer_id=buyer))
    slices.step(0)
    assert slices.logs[1] == deque([line_of("a", P, buyer_id=buyer, slice=1)])


def test_a_repeat_after_forwarding_is_a_repeat_where_it_comes_first() -> None:
    slices = Slices([0, 1])
    line = line_of("a", P, buyer_id=buyers_of(0, 2, 1)[0])
    slices.come(line)
    slices.step(0)
    slices.come(line)
    slices.drain()
    assert sorted((n, k) for n, _, k in slices.kinds) == [
        (0, Kind.FORWARDED), (0, Kind.REPEATED), (1, Kind.CREATED),
    ]  # fmt: skip


def test_a_copy_that_was_decided_before_the_split_is_a_repeat_there() -> None:
    slices = Slices([3, 3], known=1)
    line = line_of("a", P, buyer_id=buyers_of(1, 2, 1)[0])
    slices.come(line)
    slices.step(0)
    slices.known = [2, 2]
    slices.come(msgspec.structs.replace(line, slice=1))
    slices.drain()
    assert [(n, k) for n, _, k in slices.kinds] == [
        (0, Kind.CREATED), (1, Kind.FORWARDED), (0, Kind.REPEATED),
    ]  # fmt: skip


def test_another_payload_conflicts_where_it_comes() -> None:
    line = line_of("a", P, buyer_id=buyers_of(0, 2, 1)[0])
    other = msgspec.structs.replace(line, payload_hash="f" * 32)
    loaded = Loaded({P: product_of(P, slices=2)}, {P: Stock(0, 0)}, {}, {}, {}, {}, elsewhere={"p~1": 1})
    decided = decide([Received(0, 0, line), Received(0, 1, other)], loaded, NOON)
    assert [d.kind for d in decided.decisions] == [Kind.FORWARDED, Kind.CONFLICT]


@given(
    units=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    lines=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=40),
    turns=st.lists(st.integers(0, 3), max_size=60),
    splits_at=st.integers(0, 40),
    limit=st.none() | st.integers(1, 2),
)
def test_whatever_comes_when_all_is_sold_once(
    units: list[int], lines: list[tuple[int, int]], turns: list[int], splits_at: int, limit: int | None
) -> None:
    """Copies come to any slice up to where their buyer belongs; the product is split, slice after slice, on the way."""
    slices = Slices(units, known=1, limit=limit)
    count, active = len(units), 1
    order = iter(turns)
    for n, (checkout, at) in enumerate(lines):
        if n >= splits_at and active < count:  # each slice learns it after the one below
            slices.known[active - 1] = count
            active += 1
            if active == count:
                slices.known[active - 1] = count
        belongs = slice_of_buyer(f"b{checkout}", count)
        shown = count if active == count and slices.known[-1] == count else 1
        slices.come(line_of(checkout, P, buyer_id=f"b{checkout}", slice=min(at, belongs) if shown > 1 else 0))
        slices.step(next(order, 0) % count)
    slices.drain()
    sold = sum(units) - sum(stock.available for stock in slices.stock.values())
    assert sold == slices.counts(Kind.CREATED)
    assert all(stock.available >= 0 for stock in slices.stock.values())
    assert len(slices.settled) == len({checkout for checkout, _ in lines})
    if limit is not None:
        assert all(units <= limit for units in slices.bought.values())
    left = sum(units) - sold
    if slices.known[0] == slices.known[-1] == count:
        slices.come(line_of("last", P, buyer_id="last"))
        slices.drain()
        assert slices.kinds[-1][2] is (Kind.CREATED if left else Kind.REFUSED), "whatever slice it lies in"
