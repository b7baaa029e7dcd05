"""What is asked of a second stock source, and what comes of its answers and its silence. Pure."""

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import CheckoutLine
from stock_ledger.batch import Loaded, Received, Stock
from stock_ledger.upstream.agree import Finding, differences
from stock_ledger.upstream.fakes import MemoryStockSource
from stock_ledger.upstream.settle import Settled, Short, make_good, settle
from stock_ledger.upstream.source import (
    GiveBack,
    Granted,
    Outstanding,
    Reserve,
    Unanswered,
    Unsettled,
    WhenDown,
    Why,
    granted_or_policy,
    outstanding,
    requests_of,
)
from tests.harness import line_of, product_of, uuid_of

SOURCED = {"p": WhenDown.REFUSE, "q": WhenDown.TRUST_LOCAL}
SILENCE = [why for why in Why if why is not Why.REJECTED]


def loaded(**available: int) -> Loaded:
    return Loaded(
        {name: product_of(name) for name in available},
        {name: Stock(units, 1) for name, units in available.items()},
        {},
        {},
        {},
        {},
    )


def batch(*lines: CheckoutLine | None, partition: int = 3, first: int = 40) -> list[Received]:
    return [
        Received(partition, offset, line, "" if line else "broken")
        for offset, line in enumerate(lines, first)
    ]


def test_new_lines_of_a_product_are_asked_for_in_one_request_named_by_the_batch() -> None:
    lines = batch(None, line_of(1, "q", 2), line_of(2, "local", 1), line_of(3, "p", 1), line_of(4, "q", 3))
    lines += batch(line_of(5, "p2", 1), partition=4, first=7)
    sourced = {**SOURCED, "p2": WhenDown.REFUSE}
    assert requests_of(lines, loaded(p=9, q=9, p2=9, local=9), sourced) == [
        Reserve("p", "3-40", 1),
        Reserve("p2", "4-7", 1),
        Reserve("q", "3-40", 5),
    ]


def test_no_more_is_asked_for_than_there_is_locally() -> None:
    lines = batch(line_of(1, "p", 5), line_of(2, "q", 1), line_of(3, "q", 1))
    assert requests_of(lines, loaded(p=3, q=0), SOURCED) == [Reserve("p", "3-40", 3)]
    assert requests_of(lines, loaded(), SOURCED) == []


def test_lines_that_are_decided_or_conflict_are_not_asked_for() -> None:
    state = loaded(p=99)
    state.decided[uuid_of(1), "p"] = 12
    state.hashes |= {(uuid_of(1), "p"): "0" * 32, (uuid_of(2), "p"): "f" * 32}
    lines = batch(
        line_of(1, "p", 1), line_of(2, "p", 2), line_of(3, "p", 4), line_of(3, "p", 4), line_of(4, "p", 8)
    )
    assert requests_of(lines, state, SOURCED) == [Reserve("p", "3-40", 12)]


def test_what_is_granted_may_be_sold_and_the_rest_goes_back() -> None:
    requests = [Reserve("p", "3-40", 5), Reserve("q", "3-40", 5)]
    allowance = granted_or_policy(requests, {"p": Granted(5), "q": Granted(2)}, SOURCED)
    assert (allowance.units, allowance.down, allowance.unknown) == ({"p": 5, "q": 2}, frozenset(), [])
    left = outstanding(requests, allowance, {"p": 1, "q": 2})
    assert (left.give_back, left.unsettled) == ([GiveBack("p", "unused-3-40", 4)], [])
    assert outstanding(requests, allowance, {}).give_back == [
        GiveBack("p", "unused-3-40", 5),
        GiveBack("q", "unused-3-40", 2),
    ]


@pytest.mark.parametrize("why", list(Why))
def test_a_product_whose_source_is_down_is_refused_or_sold_as_its_policy_says(why: Why) -> None:
    requests = [Reserve("p", "3-40", 5), Reserve("q", "3-40", 5)]
    silent = Unanswered(why)
    allowance = granted_or_policy(requests, {"p": silent, "q": silent}, SOURCED)
    assert (allowance.units, sorted(allowance.down)) == ({"p": 0, "q": 5}, ["p"])
    left = outstanding(requests, allowance, {"q": 3})
    assert left.give_back == []
    of_q = Unsettled(requests[1], 3)
    of_p = Unsettled(requests[0], 0)
    nothing_was_done = why in {Why.REJECTED, Why.CIRCUIT_OPEN}
    assert left.unsettled == ([of_q] if nothing_was_done else [of_p, of_q])


@pytest.mark.parametrize(
    ("answer", "settled"),
    [
        (Granted(5), Settled(GiveBack("q", "unused-3-40", 2))),
        (Granted(3), Settled()),
        (Granted(1), Settled(missing=2)),
        (Unanswered(Why.REJECTED), Settled(missing=3)),
        *((Unanswered(why), None) for why in SILENCE),
    ],
)
def test_a_request_is_settled_once_it_is_answered(
    answer: Granted | Unanswered, settled: Settled | None
) -> None:
    assert settle(Unsettled(Reserve("q", "3-40", 5), 3), answer) == settled


def test_keys_tell_batches_products_and_causes_apart() -> None:
    keys = {
        Reserve("p", "3-40", 1).key(),
        Reserve("q", "3-40", 1).key(),
        Reserve("p", "3-41", 1).key(),
        GiveBack("p", "unused-3-40", 1).key(),
        GiveBack("p", "order-1", 1).key(),
    }
    assert len(keys) == 5
    assert Reserve("p", "3-40", 1).key() == Reserve("p", "3-40", 2).key()


def test_differences_are_told_with_their_size_and_what_to_do() -> None:
    local = {"a": 5, "b": 5, "c": 5, "d": 5}
    told: dict[str, int | Unanswered] = {"a": 5, "b": 3, "c": 9, "d": Unanswered(Why.DEADLINE, "late")}
    less, more, silent = differences(local, told)
    assert (less.product_id, less.finding, less.units) == ("b", Finding.SOURCE_HAS_LESS, 2)
    assert (more.product_id, more.finding, more.units) == ("c", Finding.SOURCE_HAS_MORE, 4)
    assert (silent.product_id, silent.finding, silent.source) == ("d", Finding.NOT_TOLD, None)
    assert "late" in silent.detail
    assert len({d.advice for d in (less, more, silent)}) == 3


@pytest.mark.parametrize(("source", "units"), [(2, 1), (3, 0), (7, 0), (8, 1)])
def test_what_is_on_its_way_leaves_a_range(source: int, units: int) -> None:
    """5 here; 4 asked for of which 2 are sold, and the outcome unknown: 3 to 7. What is of others counts nothing."""
    unsettled = [Unsettled(Reserve("p", "3-40", 4), 2), Unsettled(Reserve("x", "3-40", 4), 2)]
    found = differences({"p": 5}, {"p": source}, unsettled, [GiveBack("x", "order-1", 9)])
    assert [difference.units for difference in found] == ([units] if units else [])
    found = differences({"p": 5}, {"p": source - 2}, (), [GiveBack("p", "order-1", 2)])
    assert bool(found) == (not 3 <= source - 2 <= 5)


@dataclass
class Shop:
    """Local stock of one product, its source, and what is between them."""

    policy: WhenDown
    source: MemoryStockSource
    local: int
    outstanding: Outstanding = field(default_factory=lambda: Outstanding([], []))
    short: list[Short] = field(default_factory=list)

    async def sell(self, number: int, wanted: int, could_be_sold: int) -> None:
        requests = [Reserve("p", f"0-{number}", min(wanted, self.local))] if self.local else []
        allowance = granted_or_policy(requests, await self.source.reserve(requests), {"p": self.policy})
        sold = min(could_be_sold, allowance.units.get("p", 0))
        left = outstanding(requests, allowance, {"p": sold})
        self.local -= sold
        before = self.outstanding
        self.outstanding = Outstanding(before.give_back + left.give_back, before.unsettled + left.unsettled)

    async def make_good(self, *, crashes: bool = False) -> None:
        made = await make_good(self.source, self.outstanding)
        if crashes:  # before what was done could be written down
            made = await make_good(self.source, self.outstanding)
        self.outstanding = made.outstanding
        self.short += made.short

    async def findings(self) -> list[str]:
        told = {"p": self.source.stock["p"]}
        left = self.outstanding
        return [d.finding for d in differences({"p": self.local}, told, left.unsettled, left.give_back)]


Faults = st.sampled_from(["", "before", "after", "open"])
Batches = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 6), Faults, Faults, st.booleans()), max_size=12
)


@given(st.sampled_from(WhenDown), st.integers(0, 20), Batches)
def test_both_sides_agree_whatever_is_lost_and_nothing_is_sold_twice(
    policy: WhenDown, stock: int, batches: list[tuple[int, int, str, str, bool]]
) -> None:
    async def run() -> None:
        shop = Shop(policy, MemoryStockSource({"p": stock}), stock)
        for number, (wanted, could_be_sold, selling, making_good, crashes) in enumerate(batches):
            lose(shop.source, selling)
            await shop.sell(number, wanted, could_be_sold)
            assert await shop.findings() == []
            lose(shop.source, making_good)
            await shop.make_good(crashes=crashes)
            assert await shop.findings() == []
        lose(shop.source, "")
        await shop.make_good()
        assert (shop.outstanding, shop.short) == (Outstanding([], []), [])
        assert shop.source.stock["p"] == shop.local >= 0

    asyncio.run(run())


def lose(source: MemoryStockSource, what: str) -> None:
    lost = {"before": Why.UNREACHABLE, "after": Why.DEADLINE, "open": Why.CIRCUIT_OPEN}.get(what)
    answer = None if lost is None else Unanswered(lost)
    source.lost_before = lambda _: None if what == "after" else answer
    source.lost_after = lambda _: answer if what == "after" else None


@given(st.integers(1, 20), st.integers(1, 20))
def test_what_others_take_from_the_source_is_found(stock: int, taken: int) -> None:
    async def run() -> None:
        shop = Shop(WhenDown.TRUST_LOCAL, MemoryStockSource({"p": stock}), stock)
        shop.source.stock["p"] -= min(taken, stock)
        lose(shop.source, "open")
        await shop.sell(0, stock, stock)
        lose(shop.source, "")
        await shop.make_good()
        expected = [Short("p", "0-0", min(taken, stock))]
        assert shop.short == expected, "so many were sold that the source does not have"
        assert await shop.findings() == []

    asyncio.run(run())
