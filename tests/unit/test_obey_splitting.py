"""A product that is being split: its first slice sells alone until the last one is there, and opens them then."""

from decimal import Decimal

import msgspec
import pytest

from contracts.commands import (
    Adjust,
    Command,
    Move,
    OpenSlices,
    PatchProduct,
    PutProduct,
    Restock,
    TakeOver,
)
from contracts.outcomes import Kind, Outcome, Reason, Refusal
from contracts.slices import stock_ids
from tests.desk import Desk, asked
from tests.harness import line_of
from tests.unit.test_obey_slices import NEW, WHOLE, A, available, buyer, desk, refusal_of

__all__ = ["desk"]


def begin_to_split(desk: Desk, slices: int, *, there: int) -> Command:
    """So many slices have the entry, the first included. Gives the command that goes on with the split."""
    desk.obey(asked(PatchProduct, product_id=A, slices=slices))
    for _ in range(there - 1):
        desk.obey(desk.asked.popleft())
    assert [i in desk.ledger.catalogue for i in stock_ids(A, slices)] == [n < there for n in range(slices)]
    return desk.asked.popleft()


@pytest.mark.parametrize("there", [1, 2, 3])
def test_until_the_last_slice_is_there_the_first_one_sells_alone(desk: Desk, there: int) -> None:
    """Also what its others' buyers ask for, and what it cannot serve: there is nobody else to decide."""
    going_on = begin_to_split(desk, 3, there=there)
    assert isinstance(going_on, OpenSlices if there == 3 else TakeOver)
    lines = [line_of(n, A, units, buyer_id=buyer(n, 3)) for n, units in enumerate((2, 2, 5))]
    assert [d.kind for d in desk.sell(*lines)] == [Kind.CREATED] * 3
    (refused,) = desk.sell(line_of(3, A, 3, buyer_id=buyer(1, 3)))
    assert refused.reason is Reason.INSUFFICIENT_STOCK
    assert not desk.sent_on
    desk.obey(going_on)
    desk.deliver()
    assert available(desk) == [2, 0, 0]
    kinds = [d.kind for d in desk.sell(*(line_of(4 + n, A, buyer_id=buyer(n, 3)) for n in range(3)))]
    assert kinds == [Kind.CREATED, Kind.FORWARDED, Kind.FORWARDED]


@pytest.mark.parametrize("there", [1, 2, 3])
def test_units_that_come_before_slices_are_open_stay_together_until_then(desk: Desk, there: int) -> None:
    going_on = begin_to_split(desk, 3, there=there)
    desk.obey(asked(Restock, product_id=A, units=9))
    assert not desk.asked
    assert desk.entries[A] == [("initial", 11), ("restock", 9)]
    assert refusal_of(desk, asked(Move, product_id=A, slice=0, to=1, units=1)) is Refusal.SLICES_NOT_ALLOWED
    desk.obey(going_on)
    desk.deliver()
    assert available(desk) == [8, 6, 6]


def test_a_change_of_before_slices_are_open_arrives_after_them_and_is_not_kept(desk: Desk) -> None:
    """It is handed on from slice to slice, and what opens them comes directly."""
    opening = begin_to_split(desk, 3, there=3)
    desk.obey(asked(PatchProduct, product_id=A, on_shelf=False))
    (handed_on,) = desk.asked
    desk.asked.clear()
    desk.obey(asked(PatchProduct, product_id=A, on_shelf=True), opening)
    desk.deliver()
    desk.obey(handed_on)
    assert [one.subject() for one in desk.asked] == [f"{A}~2"]
    desk.deliver()
    entries = [desk.ledger.catalogue[i] for i in stock_ids(A, 3)]
    assert {(e.on_shelf, e.version) for e in entries} == {(True, 5)}
    assert available(desk) == [5, 3, 3]


@pytest.mark.parametrize("there", [1, 2, 3])
def test_what_is_changed_before_slices_are_open_reaches_all_of_them(desk: Desk, there: int) -> None:
    """Whichever comes first: the change, or what goes on with the split."""
    going_on = begin_to_split(desk, 3, there=there)
    desk.obey(asked(PatchProduct, product_id=A, price="99.50", slices=3))
    assert not desk.ledger.catalogue[A].slices_open
    desk.deliver()
    desk.obey(going_on)
    desk.deliver()
    entries = [desk.ledger.catalogue[i] for i in stock_ids(A, 3)]
    assert {(e.price, e.version, e.slices, e.slices_open) for e in entries} == {
        (Decimal("99.50"), 4, 3, True)
    }
    assert available(desk) == [5, 3, 3]


def test_slices_are_opened_once(desk: Desk) -> None:
    opening = begin_to_split(desk, 3, there=3)
    assert isinstance(opening, OpenSlices)
    assert opening.product_id == A
    desk.obey(opening)
    desk.deliver()
    desk.obey(asked(Adjust, product_id=A, units=4, why="found"))
    again = msgspec.structs.replace(opening, command_id=asked(OpenSlices, product_id=A).command_id)
    decisions = desk.obey(opening, again)
    assert [d.outcome for d in decisions] == [Outcome.REPEATED, Outcome.APPLIED]
    assert not desk.asked
    assert available(desk) == [9, 3, 3]
    assert desk.ledger.catalogue[A].version == 3


@pytest.mark.parametrize(
    ("product_id", "reason"), [(A, Refusal.SLICES_NOT_ALLOWED), (NEW, Refusal.UNKNOWN_PRODUCT)]
)
def test_there_are_no_slices_to_open(desk: Desk, product_id: str, reason: Refusal) -> None:
    assert refusal_of(desk, asked(OpenSlices, product_id=product_id)) is reason


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_a_product_that_is_being_split_keeps_its_number(desk: Desk, slices: int) -> None:
    going_on = begin_to_split(desk, 3, there=1)
    refused = asked(PatchProduct, product_id=A, slices=slices)
    assert refusal_of(desk, refused) is Refusal.SLICES_NOT_ALLOWED
    desk.obey(going_on)
    desk.deliver()
    assert available(desk) == [5, 3, 3]


def test_a_new_product_begins_with_slices(desk: Desk) -> None:
    desk.obey(asked(PutProduct, **WHOLE, stock=10, slices=3))
    assert not desk.ledger.catalogue[NEW].slices_open
    desk.obey(asked(PutProduct, **WHOLE, stock=99))
    assert not desk.ledger.catalogue[NEW].slices_open
    desk.deliver()
    assert available(desk, NEW) == [4, 3, 3]
    assert desk.entries[NEW] == [("initial", 10), ("move", -6)]
