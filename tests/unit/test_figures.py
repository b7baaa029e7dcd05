"""Folding events into live figures."""

from decimal import Decimal
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from stock_ledger.figures import Seen, fold, fresh_events


def event(offset: int, **fields: Any) -> bytes:
    data: dict[str, Any] = {
        "offset": offset,
        "product_id": "p",
        "quantity": 2,
        "status": "refused",
        "reason": "sold_out",
    }
    return orjson.dumps(data | fields)


def created(offset: int, amount: str) -> bytes:
    order = {"total": {"amount": amount, "currency": "CNY"}}
    return orjson.dumps(
        {"offset": offset, "product_id": "p", "quantity": 1, "status": "created", "order": order}
    )


def test_sums_by_product_outcome_and_currency() -> None:
    documents = [created(0, "1.50"), created(1, "2.25"), event(2), event(3, product_id="q")]
    events, seen = fresh_events(documents, Seen())
    assert seen == Seen(next_decision=4)
    assert fold(events) == {
        ("p", "created", "CNY"): (2, 2, Decimal("3.75")),
        ("p", "sold_out", ""): (1, 2, Decimal(0)),
        ("q", "sold_out", ""): (1, 2, Decimal(0)),
    }


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(0, 30))
def test_each_decision_counts_once_whatever_is_published_again(
    restarts: list[int], next_decision: int
) -> None:
    """A writer that publishes again goes back to an offset that it had reached, and on from there."""
    published: list[int] = []
    reached = 0
    for restart in restarts:
        start = min(restart, reached)
        published += range(start, start + 5)
        reached = max(reached, start + 5)
    fresh, seen = fresh_events([event(offset) for offset in published], Seen(next_decision))
    assert seen == Seen(max(reached, next_decision))
    assert [e.offset for e in fresh] == list(range(next_decision, reached))


def of_command(offset: int, kind: str, status: str, **fields: Any) -> bytes:
    data: dict[str, Any] = {
        "command_offset": offset,
        "type": kind,
        "status": status,
        "total": {"amount": "3.00", "currency": "CNY"},
        "items": [{"product_id": "p", "quantity": 2, "price": "1.50"}],
    }
    return orjson.dumps(data | fields)


def test_what_commands_cause_counts_once_and_payments_do_not_count() -> None:
    paid = of_command(0, "order.paid", "paid")
    closed = [
        of_command(1, "order.closed", "closed_by_user"),
        of_command(1, "payment.refund_due", "closed_by_user"),
    ]
    price = {"amount": "1.50", "currency": "CNY"}
    line = {"product_id": "p", "quantity": 2, "price": price}
    whole = of_command(2, "order.created", "pending_payment", lines=[line, line | {"product_id": "q"}])
    refused = of_command(
        3, "checkout.refused", "refused", lines=[line | {"reason": "sold_out", "price": {}}], total=None
    )
    published = [paid, *closed, paid, *closed, whole, refused, whole, refused]
    events, seen = fresh_events(published, Seen())
    assert seen == Seen(next_command=4)
    assert fold(events) == {
        ("p", "paid", "CNY"): (1, 2, Decimal("3.00")),
        ("p", "closed_by_user", "CNY"): (1, 2, Decimal("3.00")),
        ("p", "created", "CNY"): (1, 2, Decimal("3.00")),
        ("q", "created", "CNY"): (1, 2, Decimal("3.00")),
        ("p", "sold_out", ""): (1, 2, Decimal(0)),
    }
