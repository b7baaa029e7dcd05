"""Deviations of what is open with others: refunds at payment providers, units at the second stock source."""

from stock_ledger.audit.command_facts import RefundRow, SourceOpenRow, SourceRequestRow
from stock_ledger.audit.facts import Facts
from tests.harness import uuid_of
from tests.unit.audit_commands_sale import A, B, order_of
from tests.unit.audit_sale import Plants, change, drop

plants = Plants()


@plants.breaks("refunds")
def due_back_without_a_refund(facts: Facts) -> None:
    drop(facts.postgres.refunds, lambda r: r.reference == "a second one")


@plants.breaks("refunds")
def refund_of_what_is_not_due_back(facts: Facts) -> None:
    facts.postgres.refunds.append(RefundRow(order_of(facts, "together"), "ref together", "wechat", False))


@plants.breaks("refunds")
def refund_of_no_order(facts: Facts) -> None:
    facts.postgres.refunds.append(RefundRow(uuid_of("no order"), "ref", "wechat", False))


@plants.breaks("refunds")
def refund_there_twice(facts: Facts) -> None:
    facts.postgres.refunds.append(facts.postgres.refunds[0])


@plants.breaks("refunds")
def refund_done_and_not_told(facts: Facts) -> None:
    change(facts.postgres.refunds, lambda r: r.reference == "a second one", refunded=True)


@plants.breaks("refunds")
def refund_told_and_to_be_sent_again(facts: Facts) -> None:
    change(facts.postgres.refunds, lambda r: r.reference == "ref closed", refunded=False)


@plants.breaks("refunds")
def refund_by_another_provider(facts: Facts) -> None:
    change(facts.postgres.refunds, lambda r: r.reference == "ref closed", provider="stripe")


def _request(facts: Facts, ahead: int, product_id: str = A, units: int = 1) -> SourceRequestRow:
    """Of partition 0, for a batch that begins so far from what is decided next."""
    offset = facts.postgres.next_offset(0) + ahead
    return SourceRequestRow(0, offset, product_id, f"0-{offset}", units)


@plants.breaks("stock-source")
def asked_for_before_its_turn(facts: Facts) -> None:
    facts.postgres.source_requests.append(_request(facts, 1))


@plants.breaks("stock-source")
def asked_for_and_not_in_the_log(facts: Facts) -> None:
    facts.postgres.source_requests.append(_request(facts, 0))


@plants.breaks("stock-source")
def asked_for_by_another_partition(facts: Facts) -> None:
    facts.postgres.source_requests.append(_request(facts, -1, product_id=B))


@plants.breaks("stock-source")
def asked_for_nothing(facts: Facts) -> None:
    facts.postgres.source_requests.append(_request(facts, -1, units=0))


@plants.breaks("stock-source")
def more_sold_than_was_asked_for(facts: Facts) -> None:
    facts.postgres.source_open.append(SourceOpenRow("request", A, "0-0", 1, 2))


@plants.breaks("stock-source")
def more_sold_than_was_decided(facts: Facts) -> None:
    facts.postgres.source_open.append(SourceOpenRow("request", A, "0-0-more", 99, 99))


@plants.breaks("stock-source")
def left_open_by_a_batch_to_come(facts: Facts) -> None:
    cause = f"unused-0-{facts.postgres.next_offset(0)}"
    facts.postgres.source_open.append(SourceOpenRow("return", A, cause, 1, 0))


@plants.breaks("stock-source")
def return_without_a_cause(facts: Facts) -> None:
    facts.postgres.source_open.append(SourceOpenRow("return", A, "surplus", 1, 0))


@plants.breaks("stock-source")
def return_of_more_than_came_back(facts: Facts) -> None:
    entry = next(e for e in facts.postgres.ledger if e.kind == "cancel" and e.product_id == A)
    cause = f"command-{entry.partition}-{entry.offset}"
    facts.postgres.source_open.append(SourceOpenRow("return", A, cause, entry.delta + 1, 0))
