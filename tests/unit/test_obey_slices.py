"""Deciding about products with slices: entries and units that travel through the log, and who is told of what."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from contracts.commands import (
    Adjust,
    Command,
    Move,
    PatchProduct,
    PutProduct,
    Restock,
    SetStock,
    TakeIn,
)
from contracts.outcomes import Kind, Outcome, Reason, Refusal
from contracts.slices import slice_of_buyer, stock_ids
from stock_ledger.batch import Stock
from tests.desk import PARTITIONS, Desk, asked, order_from, run, step_of, whole_order
from tests.harness import NOON, line_of, product_in, product_of

A = product_in(0, PARTITIONS)
B = product_in(1, PARTITIONS)
NEW = product_in(0, PARTITIONS, 1)
WHOLE: dict[str, Any] = {"product_id": NEW, "name": "New", "price": "12.50", "currency": "EUR"}


@pytest.fixture
def desk() -> Desk:
    """A has 11 units in one slice."""
    desk = Desk()
    desk.put(product_of(A, buyer_limit=5), 11)
    return desk


def split(desk: Desk, slices: int) -> None:
    desk.obey(asked(PatchProduct, product_id=A, slices=slices))
    desk.deliver()


def available(desk: Desk, product_id: str = A) -> list[int]:
    slices = desk.ledger.catalogue[product_id].slices
    return [desk.ledger.stock[i].available for i in stock_ids(product_id, slices)]


def buyer(number: int, slices: int) -> str:
    """One that belongs to this slice."""
    return next(name for name in (f"b{n}" for n in range(99)) if slice_of_buyer(name, slices) == number)


def refusal_of(desk: Desk, command: Command) -> Refusal | None:
    before = dict(desk.ledger.stock), dict(desk.ledger.catalogue)
    (decision,) = desk.obey(command)
    assert decision.outcome is Outcome.REFUSED
    assert (desk.ledger.stock, desk.ledger.catalogue) == before
    assert not desk.asked
    return decision.reason


def test_a_product_is_split_into_equal_parts(desk: Desk) -> None:
    split(desk, 3)
    assert available(desk) == [5, 3, 3]
    entries = [desk.ledger.catalogue[i] for i in stock_ids(A, 3)]
    assert entries == [product_of(i, name=f"Name of {A}", cover=f"https://img.example/{A}.jpg", buyer_limit=5, version=3,
                                  slices=3) for i in stock_ids(A, 3)]  # fmt: skip
    assert desk.entries[A] == [("initial", 11), ("move", -6)]
    assert desk.entries[f"{A}~1"] == desk.entries[f"{A}~2"] == [("initial", 0), ("move", 3)]
    assert desk.ledger.partitions[f"{A}~2"] == asked(TakeIn, product_id=f"{A}~2", units=1).partition(
        PARTITIONS
    )
    told = [
        (t["product_id"], t["slice"], t["kind"], t["units"], t["available"])
        for t in desk.data("stock.changed")
    ]
    assert told == [(A, 0, "move", -6, 5), (A, 1, "move", 3, 3), (A, 2, "move", 3, 3)]
    changed = [
        (t["product_id"], t["version"], t["slices"], t["slices_open"]) for t in desk.data("product.changed")
    ]
    assert changed == [(A, 2, 3, False), (A, 3, 3, True)]
    assert {key for key, _, _ in desk.events} == {A.encode()}


def test_a_product_put_or_patched_keeps_its_slices_and_all_have_its_entry(desk: Desk) -> None:
    split(desk, 3)
    desk.obey(asked(PatchProduct, product_id=A, sale_price="99.50", buyer_limit=None, slices=3))
    desk.deliver()
    desk.obey(asked(PutProduct, product_id=A, name="Other", price="1", currency="USD"))
    desk.deliver()
    entries = [desk.ledger.catalogue[i] for i in stock_ids(A, 3)]
    assert {(e.name, e.price, e.sale_price, e.version, e.slices) for e in entries} == {
        ("Other", Decimal(1), None, 5, 3)
    }
    assert available(desk) == [5, 3, 3]


def test_an_older_entry_leaves_the_newer_one_and_its_units_arrive(desk: Desk) -> None:
    """Two commands after each other whose messages come the other way round."""
    split(desk, 3)
    desk.obey(asked(Restock, product_id=A, units=9))
    old = [desk.asked.popleft(), desk.asked.popleft()]
    desk.obey(asked(PatchProduct, product_id=A, on_shelf=False))
    desk.deliver()
    desk.obey(*old)
    assert not desk.asked
    assert available(desk) == [8, 6, 6]
    assert {desk.ledger.catalogue[i].on_shelf for i in stock_ids(A, 3)} == {False}


@pytest.mark.parametrize(
    ("command", "units", "price"),
    [
        (asked(PatchProduct, product_id=A, price="99.50"), [5, 3, 3], "99.50"),
        (asked(Restock, product_id=A, units=9), [8, 3, 6], "129.00"),
    ],
)
def test_a_slice_whose_writer_is_away_keeps_nothing_from_the_others(
    desk: Desk, command: Command, units: list[int], price: str
) -> None:
    split(desk, 3)
    desk.obey(command)
    (to_second,) = (one for one in desk.asked if one.subject() == f"{A}~1")
    desk.asked.remove(to_second)
    desk.deliver()
    assert available(desk) == units
    assert desk.ledger.catalogue[f"{A}~2"].price == Decimal(price)
    desk.obey(to_second)
    assert not desk.asked
    assert len({(e.version, e.price) for i in stock_ids(A, 3) if (e := desk.ledger.catalogue[i])}) == 1
    assert sum(available(desk)) == (20 if isinstance(command, Restock) else 11)


def test_what_slices_are_told_comes_twice_and_has_one_effect(desk: Desk) -> None:
    desk.obey(asked(PatchProduct, product_id=A, slices=3))
    (first,) = desk.asked
    desk.deliver()
    (decision,) = desk.obey(first)
    assert decision.outcome is Outcome.REPEATED
    assert not desk.asked
    assert available(desk) == [5, 3, 3]


def test_a_restock_is_shared_out(desk: Desk) -> None:
    split(desk, 3)
    desk.obey(asked(Restock, product_id=A, units=11, why="delivery"))
    assert desk.entries[A][-2:] == [("restock", 11), ("move", -6)]
    desk.deliver()
    assert available(desk) == [10, 6, 6]
    desk.obey(asked(Restock, product_id=A, units=2))
    assert desk.entries[A][-1] == ("restock", 2)
    assert not desk.asked
    assert available(desk) == [12, 6, 6]


def test_units_are_moved_between_two_slices(desk: Desk) -> None:
    split(desk, 3)
    move = asked(Move, product_id=A, slice=2, to=0, units=2, why="sells faster")
    desk.obey(move)
    assert available(desk) == [5, 3, 1]
    (sent,) = desk.asked
    assert isinstance(sent, TakeIn)
    desk.deliver()
    assert available(desk) == [7, 3, 1]
    assert [desk.entries[f"{A}~2"][-1], desk.entries[A][-1]] == [("move", -2), ("move", 2)]
    last = desk.data("stock.changed")[-2:]
    assert [(t["slice"], t["units"], t["why"], t["actor"]) for t in last] == [
        (2, -2, "sells faster", "merchant:m"), (0, 2, "sells faster", "sluiceway")
    ]  # fmt: skip
    assert {desk.obey(c)[0].outcome for c in (move, sent)} == {Outcome.REPEATED}
    assert available(desk) == [7, 3, 1]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"slice": 1, "to": 1, "units": 1}, Refusal.SLICES_NOT_ALLOWED),
        ({"slice": 1, "to": 2, "units": 1}, Refusal.SLICES_NOT_ALLOWED),
        ({"slice": 2, "to": 0, "units": 1}, Refusal.SLICES_NOT_ALLOWED),
        ({"slice": 1, "to": 0, "units": 6}, Refusal.BELOW_COMMITTED),
        ({"slice": 0, "to": 1, "units": 7}, Refusal.BELOW_COMMITTED),
        ({"product_id": NEW, "slice": 0, "to": 1, "units": 1}, Refusal.UNKNOWN_PRODUCT),
    ],
)
def test_units_that_cannot_be_moved(desk: Desk, fields: dict[str, Any], reason: Refusal) -> None:
    split(desk, 2)
    assert refusal_of(desk, asked(Move, **{"product_id": A, **fields})) is reason


@pytest.mark.parametrize(
    ("there", "command"),
    [
        (2, asked(PatchProduct, product_id=A, slices=1)),
        (2, asked(PatchProduct, product_id=A, slices=3)),
        (2, asked(PutProduct, product_id=A, name="A", price="1", currency="CNY", slices=4)),
        (3, asked(PutProduct, product_id=A, name="A", price="1", currency="CNY", slices=2)),
        (1, asked(PatchProduct, product_id=A, slices=PARTITIONS + 1)),
        (1, asked(PutProduct, **WHOLE, slices=PARTITIONS + 1)),
        (1, asked(PutProduct, **WHOLE, slices=2, stock_source="refuse")),
        (1, asked(PatchProduct, product_id=A, slices=2, stock_source="refuse")),
        (2, asked(PatchProduct, product_id=A, stock_source="trust_local")),
        (2, asked(PutProduct, product_id=A, name="A", price="1", currency="CNY", stock_source="refuse")),
        (2, asked(SetStock, product_id=A, total=50)),
    ],
)
def test_slices_that_a_product_cannot_have(desk: Desk, there: int, command: Command) -> None:
    split(desk, there)
    assert refusal_of(desk, command) is Refusal.SLICES_NOT_ALLOWED


def test_a_product_with_a_stock_source_gets_no_slices() -> None:
    desk = Desk()
    desk.put(product_of(A, stock_source="refuse"))
    assert refusal_of(desk, asked(PatchProduct, product_id=A, slices=2)) is Refusal.SLICES_NOT_ALLOWED
    desk.obey(asked(PatchProduct, product_id=A, slices=2, stock_source=None))
    assert desk.ledger.catalogue[A].slices == 2


def test_a_correction_is_of_the_first_slice(desk: Desk) -> None:
    split(desk, 2)
    assert refusal_of(desk, asked(Adjust, product_id=A, units=-7, why="broken")) is Refusal.BELOW_COMMITTED
    desk.obey(asked(Adjust, product_id=A, units=-6, why="broken"))
    assert available(desk) == [0, 5]


def test_an_order_of_a_slice_is_told_as_one_of_its_product_and_gives_its_units_back_there(desk: Desk) -> None:
    split(desk, 2)
    who = buyer(1, 2)
    order = order_from(desk, line_of(1, A, 2, buyer_id=who, slice=1), "pay")
    assert available(desk) == [6, 3]
    assert desk.ledger.purchases == {(A, who): 2}
    desk.obey(step_of(order, "cancel"))
    assert available(desk) == [6, 5]
    assert desk.ledger.purchases == {(A, who): 0}
    assert {
        item["product_id"]
        for kind in ("paid", "closed")
        for t in desk.data(f"order.{kind}")
        for item in t["items"]
    } == {A}
    (created,) = desk.data("order.created")
    assert created["product_id"] == A


def test_a_buyers_limit_counts_over_all_slices(desk: Desk) -> None:
    split(desk, 2)
    who = buyer(1, 2)
    desk.sell(line_of(1, A, 5, buyer_id=who, slice=1))
    (second,) = desk.sell(line_of(2, A, 1, buyer_id=who, slice=1, forwarded=True))
    assert second.reason is Reason.BUYER_LIMIT
    (third,) = desk.sell(line_of(3, A, 1, buyer_id=who))
    assert third.kind is Kind.FORWARDED


def test_a_hold_of_a_slice_becomes_an_order_and_is_given_back_there(desk: Desk) -> None:
    split(desk, 2)
    desk.put(product_of(B), 3)
    who = buyer(1, 2)
    for product_id in (A, B):
        desk.ledger.carts.catalogue[product_id] = (product_of(product_id), Stock(9, 1))
        run(desk.ledger.carts.put(who, product_id, 2, NOON, lines_max=9))
    lines = [line_of(1, A, 2, slice=1, from_cart=True), line_of(1, B, 1)]
    order = whole_order(desk, [msgspec.structs.replace(line, buyer_id=who) for line in lines])
    assert [line.product_id for line in run(desk.ledger.carts.lines(who))] == [B]
    assert [item.product_id for item in order.items] == [f"{A}~1", B]
    assert desk.stock(f"{A}~1") == (3, 0, 2, 0)
    (created,) = desk.data("order.created")
    assert (
        [i["product_id"] for i in created["items"]] == [i["product_id"] for i in created["lines"]] == [A, B]
    )
    ((_, _, shown),) = desk.results
    assert [line["product_id"] for line in shown["lines"]] == [A, B]
    desk.obey(step_of(order, "cancel"))
    desk.deliver()
    assert desk.stock(f"{A}~1") == (5, 0, 0, 0)
    assert desk.ledger.purchases == {(A, who): 0}


def test_a_line_that_is_forwarded_is_answered_from_where_it_is_held(desk: Desk) -> None:
    split(desk, 2)
    who = buyer(0, 2)
    desk.ledger.stock[A] = Stock(0, desk.ledger.stock[A].seq)
    desk.put(product_of(B), 3)
    order = whole_order(desk, [line_of(1, A, 4, buyer_id=who), line_of(1, B, 1, buyer_id=who)])
    assert [item.product_id for item in order.items] == [f"{A}~1", B]


def test_of_a_product_with_one_slice_no_others_are_told_and_nothing_is_told_anew(desk: Desk) -> None:
    desk.obey(asked(PatchProduct, product_id=A, slices=1), asked(Restock, product_id=A, units=4))
    assert not desk.asked
    assert desk.entries[A] == [("initial", 11), ("restock", 4)]
    assert {"slices", "slices_open"}.isdisjoint(desk.data("product.changed")[0])
    assert "slice" not in desk.data("stock.changed")[0]
