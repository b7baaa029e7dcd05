"""Folding events into live figures."""

from decimal import Decimal
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from stock_ledger.figures import fold, fresh_events


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
    events = fresh_events([created(0, "1.50"), created(1, "2.25"), event(2), event(3, product_id="q")], 0)
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
    fresh = [e.offset for e in fresh_events([event(offset) for offset in published], next_decision)]
    assert fresh == list(range(next_decision, reached))
