"""Deciding what providers tell: taken once, whole and in time; everything else is due back."""

import pytest

from contracts.messages import Money
from contracts.outcomes import OrderStatus as S
from contracts.outcomes import Outcome, Refusal
from contracts.outcomes import PaymentStatus as P
from tests.desk import PARTITIONS, Desk, notice_of, order_from, step_of, whole_order
from tests.harness import line_of, product_in, product_of

A, B = product_in(0, PARTITIONS), product_in(1, PARTITIONS)


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.put(product_of(A, buyer_limit=5))
    desk.put(product_of(B))
    return desk


def test_paid(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3))
    assert desk.obey(notice_of(order))[0].outcome is Outcome.APPLIED
    paid = desk.order(order.order_id)
    assert (paid.status, paid.payment, paid.reference) == (S.PAID, P.PAID, "pay-1")
    (data,) = desk.data("order.paid")
    assert (data["reference"], data["late"], data["total"]) == (
        "pay-1",
        False,
        {"amount": "387.00", "currency": "CNY"},
    )
    assert data["items"] == [{"product_id": A, "quantity": 3, "price": "129.00"}]


def test_failed_and_then_paid(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3))
    assert desk.obey(notice_of(order, "failed"))[0].outcome is Outcome.APPLIED
    failed = desk.order(order.order_id)
    assert (failed.status, failed.payment, failed.reference) == (S.PENDING_PAYMENT, P.FAILED, "")
    desk.obey(notice_of(order, reference="pay-2"))
    paid = desk.order(order.order_id)
    assert (paid.status, paid.payment, paid.reference) == (S.PAID, P.PAID, "pay-2")
    assert desk.told(order.order_id) == [("order.created", 1), ("payment.failed", 2), ("order.paid", 3)]
    assert desk.stock(A) == (7, 0, 0, 3)


def test_failed_and_then_expired(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3))
    desk.obey(notice_of(order, "failed"))
    desk.step(order, "expire")
    assert desk.order(order.order_id).payment is P.EXPIRED
    assert desk.stock(A) == (10, 0, 0, 0)


@pytest.mark.parametrize("steps", [("pay",), ("expire",), ("cancel",)])
def test_a_failure_told_late_changes_nothing(desk: Desk, steps: tuple[str, ...]) -> None:
    order = order_from(desk, line_of(1, A, 3), *steps)
    desk.obey(notice_of(order, "failed", "pay-0"))
    after = desk.order(order.order_id)
    assert (after.status, after.payment) == (order.status, order.payment)
    assert desk.told(order.order_id)[-1] == ("payment.failed", order.sequence + 1)


@pytest.mark.parametrize(
    "amount",
    [Money("386.99", "CNY"), Money("387.01", "CNY"), Money("387.00", "USD"), Money("0", "CNY"), Money("38700", "CNY")],
)  # fmt: skip
@pytest.mark.parametrize("steps", [(), ("expire",), ("pay",)])
def test_another_amount_or_currency_is_never_taken(desk: Desk, amount: Money, steps: tuple[str, ...]) -> None:
    order = order_from(desk, line_of(1, A, 3), *steps)
    before = desk.stock(A)
    (decision,) = desk.obey(notice_of(order, reference="pay-9", amount=amount))
    assert (decision.outcome, decision.reason) == (Outcome.REFUSED, Refusal.AMOUNT_MISMATCH)
    after = desk.order(order.order_id)
    assert (after.status, after.payment, after.reference) == (order.status, order.payment, order.reference)
    assert desk.stock(A) == before
    assert desk.told(order.order_id)[-1] == ("payment.amount_mismatch", order.sequence + 1)
    (data,) = desk.data("payment.amount_mismatch")
    assert data["noticed"] == {"amount": amount.amount, "currency": amount.currency}
    assert (data["reference"], data["outcome"]) == ("pay-9", "paid")


def test_the_same_amount_written_otherwise_is_taken(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3))
    desk.obey(notice_of(order, amount=Money("387.0000", "CNY")))
    assert desk.order(order.order_id).status is S.PAID


def test_told_twice_it_is_taken_once(desk: Desk) -> None:
    """Another notice, with an id of its own, about the same payment."""
    order = order_from(desk, line_of(1, A, 3), "pay")
    told = desk.told(order.order_id)
    assert desk.obey(notice_of(order))[0].outcome is Outcome.APPLIED
    assert desk.order(order.order_id) == order
    assert desk.told(order.order_id) == told


@pytest.mark.parametrize("more", [(), ("pick",), ("pick", "ship"), ("pick", "ship", "complete")])
def test_paid_twice_the_second_is_due_back(desk: Desk, more: tuple[str, ...]) -> None:
    order = order_from(desk, line_of(1, A, 3), "pay", *more)
    desk.obey(notice_of(order, reference="pay-2"))
    after = desk.order(order.order_id)
    assert (after.status, after.payment, after.reference) == (order.status, P.PAID, "pay-1")
    assert [data["reference"] for data in desk.data("payment.refund_due")] == ["pay-2"]
    assert desk.stock(A) == (7, 0, 0, 3)
    desk.obey(notice_of(order, "refunded", "pay-2"))
    assert desk.order(order.order_id).payment is P.PAID
    assert desk.told(order.order_id)[-2:] == [
        ("payment.refund_due", order.sequence + 1),
        ("payment.refunded", order.sequence + 2),
    ]


def test_a_second_payment_told_again_under_a_new_id_is_due_back_once(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3), "pay")
    desk.obey(notice_of(order, reference="pay-2"), notice_of(order, reference="pay-2"))
    desk.obey(notice_of(order, reference="pay-2"))
    after = desk.order(order.order_id)
    assert [(r.reference, r.provider, r.refunded) for r in after.refunds] == [("pay-2", "wechat", False)]
    assert len(desk.data("payment.refund_due")) == 1
    first, second = desk.obey(notice_of(order, "refunded", "pay-2"), notice_of(order, "refunded", "pay-2"))
    assert (first.outcome, second.reason) == (Outcome.APPLIED, Refusal.NOT_ALLOWED)
    desk.obey(notice_of(order, reference="pay-2"))
    assert len(desk.data("payment.refund_due")) == len(desk.data("payment.refunded")) == 1


def test_both_payments_of_an_order_that_is_closed_are_due_back(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3), "pay")
    desk.obey(notice_of(order, reference="pay-2", provider="stripe"), step_of(order, "cancel"))
    after = desk.order(order.order_id)
    assert [(r.reference, r.provider) for r in after.refunds] == [("pay-1", "wechat"), ("pay-2", "stripe")]
    desk.obey(notice_of(order, "refunded", "pay-2"))
    assert desk.order(order.order_id).payment is P.REFUND_DUE
    desk.obey(notice_of(order, "refunded"))
    assert desk.order(order.order_id).payment is P.REFUNDED


def test_a_late_payment_taken_after_one_that_was_due_back(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3), "expire")
    desk.sell(line_of(2, A, 5), line_of(3, A, 3))
    desk.obey(notice_of(order))
    desk.obey(*(step_of(o, "cancel") for o in desk.orders() if o.order_id != order.order_id))
    desk.obey(notice_of(order, reference="pay-2"))
    taken = desk.order(order.order_id)
    assert (taken.status, taken.payment, taken.reference) == (S.PAID, P.PAID, "pay-2")
    desk.obey(notice_of(order), notice_of(order, "refunded"))
    assert desk.order(order.order_id).payment is P.PAID
    assert [data["reference"] for data in desk.data("payment.refund_due")] == ["pay-1"]
    assert [data["reference"] for data in desk.data("payment.refunded")] == ["pay-1"]


def test_late_it_is_taken_if_the_units_are_left(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3), "expire")
    order_from(desk, line_of(2, A, 5))
    desk.sell(line_of(3, A, 2, buyer_id=order.buyer_id))  # up to nothing left of the buyer's limit but 3
    assert desk.stock(A) == (3, 0, 7, 0)
    desk.obey(notice_of(order))
    paid = desk.order(order.order_id)
    assert (paid.status, paid.payment) == (S.PAID, P.PAID)
    assert desk.stock(A) == (0, 0, 7, 3)
    assert desk.ledger.purchases[A, order.buyer_id] == 5
    assert desk.entries[A][-1] == ("late_payment", -3)
    assert [data["late"] for data in desk.data("order.paid")] == [True]
    desk.obey(step_of(paid, "cancel"))
    assert desk.stock(A) == (3, 0, 7, 0)
    assert desk.ledger.purchases[A, order.buyer_id] == 2


def test_late_and_nothing_left_it_is_due_back(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3), "expire")
    for buyer in (2, 3):
        desk.sell(line_of(buyer, A, 4))
    assert desk.stock(A) == (2, 0, 8, 0)
    assert desk.obey(notice_of(order))[0].outcome is Outcome.APPLIED
    after = desk.order(order.order_id)
    assert (after.status, after.payment, after.reference) == (S.CLOSED_BY_TIMEOUT, P.REFUND_DUE, "pay-1")
    assert desk.stock(A) == (2, 0, 8, 0)
    assert desk.told(order.order_id)[-1] == ("payment.refund_due", 3)
    desk.obey(notice_of(order))
    assert desk.order(order.order_id) == after, "the same payment, told again"
    desk.obey(notice_of(order, "refunded"))
    assert desk.order(order.order_id).payment is P.REFUNDED


def test_late_for_an_order_of_several_products_it_is_due_back(desk: Desk) -> None:
    """Its units lie with other writers, who may have sold them."""
    order = whole_order(desk, [line_of(1, A, 2), line_of(1, B, 3)], "expire", "pay")
    assert (order.status, order.payment) == (S.CLOSED_BY_TIMEOUT, P.REFUND_DUE)
    assert (desk.stock(A), desk.stock(B)) == ((10, 0, 0, 0), (10, 0, 0, 0))


@pytest.mark.parametrize("step", ["cancel", "close"])
def test_after_the_order_was_closed_it_is_due_back(desk: Desk, step: str) -> None:
    order = order_from(desk, line_of(1, A, 3), step)
    desk.obey(notice_of(order))
    after = desk.order(order.order_id)
    assert (after.status, after.payment, after.reference) == (order.status, P.REFUND_DUE, "pay-1")
    assert desk.stock(A) == (10, 0, 0, 0)
    assert desk.data("payment.refund_due")[0]["reference"] == "pay-1"


@pytest.mark.parametrize(
    "steps", [("pay", "cancel"), ("pay", "close"), ("pay", "pick", "close"), ("cancel", "pay")]
)
def test_refunded(desk: Desk, steps: tuple[str, ...]) -> None:
    order = order_from(desk, line_of(1, A, 3), *steps)
    assert order.payment is P.REFUND_DUE
    desk.obey(notice_of(order, "refunded"))
    after = desk.order(order.order_id)
    assert (after.status, after.payment) == (order.status, P.REFUNDED)
    assert desk.told(order.order_id)[-1] == ("payment.refunded", order.sequence + 1)
    (again,) = desk.obey(notice_of(order, "refunded"))
    assert (again.outcome, again.reason) == (Outcome.REFUSED, Refusal.NOT_ALLOWED)
    assert desk.order(order.order_id) == after
    desk.obey(notice_of(order))
    assert desk.order(order.order_id) == after, "the payment that was given back, told again"


def test_what_is_not_due_back_is_not_refunded(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3), "pay")
    (decision,) = desk.obey(notice_of(order, "refunded"))
    assert (decision.outcome, decision.reason) == (Outcome.REFUSED, Refusal.NOT_ALLOWED)
    assert desk.order(order.order_id) == order


def test_a_part_of_what_is_due_back_is_not_all_of_it(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3), "pay", "cancel")
    (decision,) = desk.obey(notice_of(order, "refunded", amount=Money("1.00", "CNY")))
    assert decision.reason is Refusal.AMOUNT_MISMATCH
    assert desk.order(order.order_id).payment is P.REFUND_DUE
