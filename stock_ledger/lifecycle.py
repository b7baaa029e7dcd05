"""The life of an order: one table of what may follow what."""

from contracts.outcomes import OrderStatus as S

# (status, action) -> status. What is not here is refused. `docs/reference/orders.md` draws it.
TRANSITIONS: dict[tuple[S, str], S] = {
    (S.PENDING_PAYMENT, "pay"): S.PAID,
    (S.PENDING_PAYMENT, "cancel"): S.CLOSED_BY_USER,
    (S.PENDING_PAYMENT, "close"): S.CLOSED_BY_MERCHANT,
    (S.PENDING_PAYMENT, "expire"): S.CLOSED_BY_TIMEOUT,
    (S.PAID, "pick"): S.PICKED,
    (S.PAID, "cancel"): S.CLOSED_BY_USER,  # the payment is due back
    (S.PAID, "close"): S.CLOSED_BY_MERCHANT,  # likewise
    (S.PICKED, "close"): S.CLOSED_BY_MERCHANT,  # likewise
    (S.PICKED, "ship"): S.SHIPPED,
    (S.SHIPPED, "complete"): S.COMPLETED,
    (
        S.CLOSED_BY_TIMEOUT,
        "pay",
    ): S.PAID,  # late, and only if there is stock left; else the payment is due back
}
CLOSED = frozenset({S.CLOSED_BY_USER, S.CLOSED_BY_TIMEOUT, S.CLOSED_BY_MERCHANT})
ACTIONS = tuple(dict.fromkeys(action for _, action in TRANSITIONS))


def after(status: S, action: str) -> S | None:
    """The status that follows, or None where the action is not allowed."""
    return TRANSITIONS.get((status, action))


def allowed(status: S) -> list[str]:
    """The actions that are allowed, in the order of the table."""
    return [action for (before, action) in TRANSITIONS if before is status]
