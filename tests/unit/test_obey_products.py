"""Deciding what merchants ask: stock up, down and counted anew, never below what is held or sold; products as told."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from contracts.commands import Adjust, Command, PatchProduct, PutProduct, Restock, SetStock
from contracts.outcomes import Kind, Outcome, Reason, Refusal
from stock_ledger.batch import Product
from tests.desk import PARTITIONS, Desk, asked, order_from, step_of
from tests.harness import NOON, line_of, product_in, product_of

A = product_in(0, PARTITIONS)
NEW = product_in(0, PARTITIONS, 1)
LATER, LAST = datetime(2026, 11, 12, tzinfo=UTC), datetime(2026, 11, 13, tzinfo=UTC)


@pytest.fixture
def desk() -> Desk:
    """10 units: 2 held, 1 of an order that waits, 3 of one that is paid, 4 available."""
    desk = Desk()
    desk.put(product_of(A))
    desk.sell(line_of("held", A, 2, policy="all_or_nothing", lines=2))
    order_from(desk, line_of("waiting", A, 1))
    order_from(desk, line_of("paid", A, 3), "pay")
    assert desk.stock(A) == (4, 2, 1, 3)
    return desk


@pytest.mark.parametrize(
    ("command", "available", "delta"),
    [
        (asked(Restock, product_id=A, units=5), 9, 5),
        (asked(Adjust, product_id=A, units=3, why="found"), 7, 3),
        (asked(Adjust, product_id=A, units=-4, why="broken"), 0, -4),
        (asked(Adjust, product_id=A, units=0, why="as it is"), 4, 0),
        (asked(SetStock, product_id=A, total=6), 0, -4),
        (asked(SetStock, product_id=A, total=10), 4, 0),
        (asked(SetStock, product_id=A, total=25, why="counted"), 19, 15),
    ],
)
def test_stock_is_changed(
    desk: Desk, command: Restock | Adjust | SetStock, available: int, delta: int
) -> None:
    seq = desk.ledger.stock[A].seq
    assert desk.obey(command)[0].outcome is Outcome.APPLIED
    assert desk.stock(A) == (available, 2, 1, 3)
    kind = {Restock: "restock", Adjust: "adjust", SetStock: "set_stock"}[type(command)]
    entry = desk.commands.entries[-1]
    assert (entry.kind, entry.delta, entry.available, entry.seq) == (kind, delta, available, seq + 1)
    (told,) = desk.data("stock.changed")
    assert told.items() >= {
        "product_id": A, "kind": kind, "units": delta, "why": command.why, "actor": "merchant:m",
        "available": available, "held": 2, "pending": 1, "paid": 3,
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        asked(Adjust, product_id=A, units=-5, why="broken"),
        asked(Adjust, product_id=A, units=-(10**12), why="broken"),
        asked(SetStock, product_id=A, total=5),
        asked(SetStock, product_id=A, total=0),
    ],
)
def test_stock_never_falls_below_what_is_held_or_sold(desk: Desk, command: Command) -> None:
    before, entries = desk.ledger.stock[A], list(desk.commands.entries)
    (decision,) = desk.obey(command)
    assert (decision.outcome, decision.reason) == (Outcome.REFUSED, Refusal.BELOW_COMMITTED)
    assert desk.ledger.stock[A] == before
    assert desk.commands.entries == entries
    assert desk.data("stock.changed") == []


@pytest.mark.parametrize(
    "command",
    [
        asked(Restock, product_id=NEW, units=5),
        asked(Adjust, product_id=NEW, units=5, why="found"),
        asked(SetStock, product_id=NEW, total=5),
        asked(PatchProduct, product_id=NEW, name="Name"),
    ],
)
def test_a_product_that_is_not_there(desk: Desk, command: Command) -> None:
    (decision,) = desk.obey(command)
    assert (decision.outcome, decision.reason) == (Outcome.REFUSED, Refusal.UNKNOWN_PRODUCT)
    assert NEW not in desk.ledger.stock


def test_a_new_product_opens_its_stock(desk: Desk) -> None:
    put = asked(
        PutProduct, product_id=NEW, name="New", price="12.50", currency="EUR", cover="https://img.example/n.jpg",
        sale_price="9.99", buyer_limit=2, payment_ttl_s=60, sale_from=NOON, sale_to=datetime(2026, 11, 12, tzinfo=UTC),
        stock=7,
    )  # fmt: skip
    desk.obey(put)
    assert desk.ledger.catalogue[NEW] == Product(
        NEW, "New", "https://img.example/n.jpg", Decimal("12.50"), "EUR", on_shelf=True, buyer_limit=2,
        payment_ttl_s=60, version=1, sale_price=Decimal("9.99"), sale_from=NOON,
        sale_to=datetime(2026, 11, 12, tzinfo=UTC),
    )  # fmt: skip
    assert desk.stock(NEW) == (7, 0, 0, 0)
    assert desk.ledger.stock[NEW].seq == 1
    assert desk.entries[NEW] == [("initial", 7)]
    (told,) = desk.data("product.changed")
    assert (told["price"], told["sale_price"], told["sale_from"], told["version"]) == (
        "12.50", "9.99", "2026-11-11T12:00:00Z", 1
    )  # fmt: skip
    created, refused = desk.sell(line_of(1, NEW, 2), line_of(1, NEW, 2, checkout_id=line_of(9).checkout_id))
    assert created.order is not None
    assert created.order.total == Decimal("19.98")
    assert (refused.kind, refused.reason) == (Kind.REFUSED, Reason.BUYER_LIMIT)


def test_a_product_put_again_is_as_told_and_keeps_its_stock(desk: Desk) -> None:
    desk.obey(asked(PatchProduct, product_id=A, sale_price="1.00", buyer_limit=3))
    desk.obey(
        asked(PutProduct, product_id=A, name="Other", price="1", currency="USD", on_shelf=False, stock=500)
    )
    assert desk.ledger.catalogue[A] == Product(
        A, "Other", "", Decimal(1), "USD", on_shelf=False, buyer_limit=None, payment_ttl_s=900, version=3
    )
    assert desk.stock(A) == (4, 2, 1, 3)
    assert desk.sell(line_of(7, A))[0].reason is Reason.OFF_SHELF


def test_a_patch_may_not_end_the_sale_before_it_begins(desk: Desk) -> None:
    """Whoever asked for either end, when the other one was not there yet."""
    desk.obey(asked(PatchProduct, product_id=A, sale_from=LAST))
    before = desk.ledger.catalogue[A]
    for sale_to in (LATER, LAST):
        [refused] = desk.obey(asked(PatchProduct, product_id=A, sale_to=sale_to))
        assert (refused.outcome, refused.reason) == (Outcome.REFUSED, Refusal.WINDOW_NOT_ALLOWED)
    assert desk.ledger.catalogue[A] == before


def test_what_has_such_a_sale_already_can_be_patched(desk: Desk) -> None:
    desk.put(product_of(A, sale_from=LAST, sale_to=LATER))
    desk.obey(asked(PatchProduct, product_id=A, name="Other"))
    assert desk.ledger.catalogue[A].name == "Other"
    desk.obey(asked(PatchProduct, product_id=A, sale_from=None))
    assert desk.ledger.catalogue[A].sale_from is None


def test_what_is_not_patched_stays_and_null_clears(desk: Desk) -> None:
    before = desk.ledger.catalogue[A]
    desk.obey(
        asked(PatchProduct, product_id=A, sale_price="99.00", buyer_limit=1, sale_from=LATER, sale_to=LAST)
    )
    patched = desk.ledger.catalogue[A]
    assert (patched.sale_price, patched.buyer_limit, patched.sale_from) == (Decimal("99.00"), 1, LATER)
    assert (patched.name, patched.price, patched.version) == (before.name, before.price, 2)
    assert desk.sell(line_of(7, A))[0].reason is Reason.NOT_ON_SALE
    desk.obey(
        asked(PatchProduct, product_id=A, sale_price=None, buyer_limit=None, sale_from=None, sale_to=None)
    )
    cleared = desk.ledger.catalogue[A]
    assert (cleared.sale_price, cleared.buyer_limit, cleared.sale_from, cleared.sale_to) == (None,) * 4
    assert cleared.version == 3
    assert desk.sell(line_of(8, A))[0].kind is Kind.CREATED


@pytest.mark.parametrize(
    ("field", "value", "becomes"),
    [
        ("name", "Other", "Other"),
        ("price", "1.5", Decimal("1.5")),
        ("cover", "", ""),
        ("sale_price", "2.0000", Decimal("2.0000")),
        ("on_shelf", False, False),
        ("buyer_limit", 4, 4),
        ("payment_ttl_s", 60, 60),
        ("sale_from", NOON, NOON),
        ("sale_to", NOON, NOON),
        ("stock_source", "trust_local", "trust_local"),
    ],
)
def test_one_field_is_patched(desk: Desk, field: str, value: object, becomes: object) -> None:
    before = desk.ledger.catalogue[A]
    desk.obey(asked(PatchProduct, product_id=A, **{field: value}))
    after = desk.ledger.catalogue[A]
    changed = {
        name for name in Product.__struct_fields__ if getattr(before, name) != getattr(after, name)
    }  # fmt: skip
    assert changed == {field, "version"}
    assert getattr(after, field) == becomes


def test_a_limit_that_comes_later_does_not_count_what_came_before(desk: Desk) -> None:
    early = order_from(desk, line_of("early", A, 2, buyer_id="b"))
    desk.obey(asked(PatchProduct, product_id=A, buyer_limit=2))
    desk.obey(step_of(early, "cancel"))
    assert desk.ledger.purchases == {}
    late = order_from(desk, line_of("late", A, 2, buyer_id="b"))
    assert desk.ledger.purchases == {(A, "b"): 2}
    desk.obey(asked(PatchProduct, product_id=A, buyer_limit=None), step_of(late, "cancel"))
    assert desk.ledger.purchases == {(A, "b"): 0}
