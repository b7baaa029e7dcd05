"""The checker of what time ends: orders not paid, checkouts not answered as a whole, figures that lag behind. Pure."""

from collections.abc import Iterator

from contracts.outcomes import OrderStatus
from deploy.chaos.operations import Violation
from stock_ledger.audit.facts import Facts


def never_ended(facts: Facts) -> Iterator[Violation]:
    """What still waits for a timer or to be counted, some time after the last buyer has an answer."""
    for partition, span in sorted(facts.events_span.items()):
        counted = facts.postgres.figure_states.get(partition, 0)
        if counted < span.end:
            what = f"figures of partition {partition} end at event {counted}, the events at {span.end}"
            yield Violation("never ended", what)
    for gathering in facts.postgres.gatherings:
        if gathering.decided_offset is None:
            overdue_s = (facts.postgres.read_at_ms - gathering.deadline_ms) / 1000
            what = f"{len(gathering.answers)} of its lines are answered, {overdue_s:.0f} s past its deadline"
            yield Violation("never ended", what, gathering.checkout_id)
    unpaid = {o.order_id: o for o in facts.postgres.orders if o.status == OrderStatus.PENDING_PAYMENT}
    for payment in facts.postgres.payments:
        order = unpaid.get(payment.order_id)
        if order is not None and payment.expires_at_ms:
            overdue_s = (facts.postgres.read_at_ms - payment.expires_at_ms) / 1000
            what = f"order {order.order_id} waits for a payment that is {overdue_s:.0f} s late"
            yield Violation("never ended", what, order.checkout_id)
