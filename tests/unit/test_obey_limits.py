"""What a buyer may have of a product, over holds and orders that are open or paid; and products that change meanwhile."""

from typing import Any

import pytest

from contracts.commands import PatchProduct
from contracts.messages import CheckoutLine
from contracts.outcomes import Kind, OrderStatus, Reason
from contracts.outcomes import PaymentStatus as P
from stock_ledger.commands.book import OrderState
from tests.desk import PARTITIONS, Desk, asked, order_from, step_of
from tests.harness import line_of, product_in, product_of

A, B = (product_in(p, PARTITIONS) for p in range(2))
ANN = "ann"
LIMIT = 3


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.put(product_of(A, buyer_limit=LIMIT))
    desk.put(product_of(B))
    return desk


def lines_of_both(checkout: int, units_of_a: int, **fields: Any) -> tuple[CheckoutLine, CheckoutLine]:
    """Ann wants so many units of A and one of B, or nothing."""
    whole: dict[str, Any] = {"buyer_id": ANN, "policy": "all_or_nothing", "lines": 2, **fields}
    return line_of(checkout, A, units_of_a, line=0, **whole), line_of(checkout, B, 1, line=1, **whole)


def hold(desk: Desk, *lines: CheckoutLine) -> list[tuple[Kind, Reason | None]]:
    decisions = [desk.sell(line)[0] for line in lines]
    return [(d.kind, d.reason) for d in decisions]


def orders_of_both(desk: Desk) -> list[OrderState]:
    return [order for order in desk.orders() if len(order.items) == 2]


def one_more(desk: Desk, checkout: int) -> Reason | None:
    """Why Ann does not get one more unit of A. If she does, it is given back."""
    (decision,) = desk.sell(line_of(checkout, A, buyer_id=ANN))
    if decision.order is not None:
        desk.obey(step_of(desk.order(decision.order.order_id), "cancel"))
    return decision.reason


def test_two_checkouts_of_a_buyer_hold_a_product_each_for_itself(desk: Desk) -> None:
    """Neither knows of the other but by the stock and the limit: what is held counts at once."""
    assert hold(desk, *lines_of_both(1, 2)) == [(Kind.HELD, None)] * 2
    assert hold(desk, *lines_of_both(2, 2)) == [(Kind.REFUSED, Reason.BUYER_LIMIT), (Kind.HELD, None)]
    assert hold(desk, *lines_of_both(3, 1)) == [(Kind.HELD, None)] * 2
    assert desk.stock(A) == (7, 3, 0, 0)
    desk.deliver()
    assert sorted(order.items[0].quantity for order in orders_of_both(desk)) == [1, 2]
    assert (desk.stock(A), desk.stock(B)) == ((7, 0, 3, 0), (8, 0, 2, 0))
    assert desk.ledger.purchases == {(A, ANN): 3}
    (first,) = (order for order in orders_of_both(desk) if order.items[0].quantity == 2)
    desk.obey(step_of(first, "cancel"))
    desk.deliver()
    assert (desk.stock(A), desk.stock(B)) == ((9, 0, 1, 0), (9, 0, 1, 0))
    assert desk.ledger.purchases == {(A, ANN): 1}


def test_a_limit_counts_what_is_held_open_and_paid_and_nothing_that_was_given_back(desk: Desk) -> None:
    open_one = order_from(desk, line_of(1, A, buyer_id=ANN))
    paid_one = order_from(desk, line_of(2, A, buyer_id=ANN), "pay")
    assert hold(desk, lines_of_both(3, 1)[0]) == [(Kind.HELD, None)]
    assert one_more(desk, 4) is Reason.BUYER_LIMIT
    desk.obey(step_of(open_one, "cancel"))
    assert one_more(desk, 5) is None
    order_from(desk, line_of(6, A, buyer_id=ANN), "pay", "pick", "ship", "complete")
    assert one_more(desk, 7) is Reason.BUYER_LIMIT
    desk.obey(step_of(desk.order(paid_one.order_id), "close"))
    assert desk.order(paid_one.order_id).payment is P.REFUND_DUE
    assert one_more(desk, 8) is None
    assert order_from(desk, line_of(9, A, LIMIT, buyer_id="bob")).status is OrderStatus.PENDING_PAYMENT
    assert desk.ledger.purchases == {(A, ANN): 2, (A, "bob"): LIMIT}


@pytest.mark.parametrize("change", [{"on_shelf": False}, {"sale_price": "1.00"}, {"buyer_limit": 1}])
def test_what_is_held_is_ordered_as_it_was_held_whatever_becomes_of_the_product(
    desk: Desk, change: dict[str, Any]
) -> None:
    """The product changes when one line is held, and the other is not asked for yet."""
    of_a, of_b = lines_of_both(1, 2)
    assert hold(desk, of_a) == [(Kind.HELD, None)]
    desk.obey(asked(PatchProduct, product_id=A, **change))
    assert hold(desk, of_b) == [(Kind.HELD, None)]
    desk.deliver()
    (order,) = orders_of_both(desk)
    assert [(i.product_id, i.quantity, str(i.price)) for i in order.items] == [
        (A, 2, "129.00"),
        (B, 1, "129.00"),
    ]
    assert (desk.stock(A), desk.stock(B)) == ((8, 0, 2, 0), (9, 0, 1, 0))
    wanted = {"on_shelf": Reason.OFF_SHELF, "sale_price": None, "buyer_limit": Reason.BUYER_LIMIT}
    (later,) = desk.sell(lines_of_both(2, 1)[0])
    assert later.reason is wanted[next(iter(change))]


def test_a_product_off_the_shelf_before_its_line_is_held_refuses_all(desk: Desk) -> None:
    of_a, of_b = lines_of_both(1, 2)
    assert hold(desk, of_b) == [(Kind.HELD, None)]
    desk.obey(asked(PatchProduct, product_id=A, on_shelf=False))
    assert hold(desk, of_a) == [(Kind.REFUSED, Reason.OFF_SHELF)]
    desk.deliver()
    assert desk.orders() == []
    assert (desk.stock(A), desk.stock(B)) == ((10, 0, 0, 0), (10, 0, 0, 0))
