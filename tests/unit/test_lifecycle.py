"""The table of an order's life: what it allows, and nothing else."""

from itertools import product

import pytest

from contracts.outcomes import OrderStatus as S
from stock_ledger.lifecycle import ACTIONS, CLOSED, TRANSITIONS, after, allowed

LIFE: dict[S, dict[str, S]] = {
    S.PENDING_PAYMENT: {
        "pay": S.PAID,
        "cancel": S.CLOSED_BY_USER,
        "close": S.CLOSED_BY_MERCHANT,
        "expire": S.CLOSED_BY_TIMEOUT,
    },
    S.PAID: {"pick": S.PICKED, "cancel": S.CLOSED_BY_USER, "close": S.CLOSED_BY_MERCHANT},
    S.PICKED: {"close": S.CLOSED_BY_MERCHANT, "ship": S.SHIPPED},
    S.SHIPPED: {"complete": S.COMPLETED},
    S.COMPLETED: {},
    S.CLOSED_BY_USER: {},
    S.CLOSED_BY_TIMEOUT: {"pay": S.PAID},
    S.CLOSED_BY_MERCHANT: {},
}


@pytest.mark.parametrize(("status", "action"), list(product(S, [*ACTIONS, "refund"])))
def test_what_follows(status: S, action: str) -> None:
    assert after(status, action) is LIFE[status].get(action)


@pytest.mark.parametrize("status", S)
def test_what_is_allowed(status: S) -> None:
    assert sorted(allowed(status)) == sorted(LIFE[status])


def test_every_action_is_of_the_table() -> None:
    assert set(ACTIONS) == {"pay", "cancel", "close", "expire", "pick", "ship", "complete"}
    assert sorted(ACTIONS) == sorted({action for _, action in TRANSITIONS})


def test_every_status_is_reached_and_closed_ones_are_told_by_their_name() -> None:
    assert set(TRANSITIONS.values()) == set(S) - {S.PENDING_PAYMENT}
    assert {status for status in S if status.value.startswith("closed")} == CLOSED
