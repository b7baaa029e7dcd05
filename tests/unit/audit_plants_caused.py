"""Deviations of what commands cause and tell, planted in a clean sale with commands."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from contracts.commands import Expire, Pay
from contracts.messages import Money
from stock_ledger.audit.facts import Facts, LedgerRow
from tests.harness import uuid_of
from tests.unit.audit_commands_sale import PRICE, A, B, change_row, order_of, row_of
from tests.unit.audit_sale import Plants, change, drop, of_product, place

plants = Plants()


def _entry(kind: str, product_id: str) -> Callable[[Any], bool]:
    return lambda row: bool(row.kind == kind and row.product_id == product_id)


def _hold(name: str, product_id: str) -> Callable[[Any], bool]:
    return lambda row: bool(row.checkout_id == uuid_of(name) and row.product_id == product_id)


def _of(facts: Facts, name: str) -> Callable[[Any], bool]:
    order_id = order_of(facts, name)
    return lambda row: bool(row.order_id == order_id)


@plants.breaks("orders", "order-items", "order-payments", "gatherings", "holds")
def order_of_holds_without_its_gathering(facts: Facts) -> None:
    change(
        facts.postgres.gatherings,
        lambda g: g.checkout_id == uuid_of("together"),
        order_id=None,
        state="refused",
    )


@plants.breaks("order-items", "order-payments")
def order_lacks_an_item_that_was_held(facts: Facts) -> None:
    mine = _of(facts, "together")
    drop(facts.postgres.items, lambda i: mine(i) and i.product_id == B)


@plants.breaks("order-life", "stock-counts", "given-back", "order-payments", "purchases")
def order_open_though_cancelled(facts: Facts) -> None:
    change(facts.postgres.orders, _of(facts, "cancelled"), status="pending_payment")


@plants.breaks("order-life")
def payment_not_as_noticed(facts: Facts) -> None:
    change(facts.postgres.payments, _of(facts, "completed"), reference="another")


@plants.breaks("order-life", "order-events")
def sequence_not_counted(facts: Facts) -> None:
    change(facts.postgres.orders, _of(facts, "completed"), sequence=9)


@plants.breaks("order-life")
def applied_though_not_allowed(facts: Facts) -> None:
    change_row(facts, "cancel", "refused", outcome="applied", reason=None)


@plants.breaks("order-life")
def refused_as_unknown_to_its_own_buyer(facts: Facts) -> None:
    later = row_of(facts, "cancel", "refused").decided_at_ms + 1
    change_row(facts, "cancel", "refused", reason="unknown_order", decided_at_ms=later)


@plants.breaks("command-faithful", "order-life")
def refused_for_an_amount_that_is_right(facts: Facts) -> None:
    command = row_of(facts, "pay", "refused").command
    assert isinstance(command, Pay)
    right = msgspec.structs.replace(command, amount=Money(PRICE, "CNY"))
    change_row(facts, "pay", "refused", command=right)


@plants.breaks("command-faithful", "entry-causes", "order-life")
def expired_for_another_deadline(facts: Facts) -> None:
    command = row_of(facts, "expire").command
    assert isinstance(command, Expire)
    change_row(facts, "expire", command=msgspec.structs.replace(command, expires_at_ms=5))


@plants.breaks("order-life", "entry-causes")
def expired_before_its_time(facts: Facts) -> None:
    row = row_of(facts, "expire")
    assert isinstance(row.command, Expire)
    change_row(facts, "expire", decided_at_ms=row.command.expires_at_ms - 1)


@plants.breaks("gatherings")
def gathering_in_another_partition(facts: Facts) -> None:
    change(facts.postgres.gatherings, lambda g: g.checkout_id == uuid_of("refused"), partition=0)


@plants.breaks("gatherings")
def open_though_all_is_answered(facts: Facts) -> None:
    change(
        facts.postgres.gatherings,
        lambda g: g.checkout_id == uuid_of("refused"),
        state="refusing",
        decided_offset=None,
    )


def _change_halfway(facts: Facts, deadline_ms: int | None = None, **answer: Any) -> None:
    """Of the checkout of which one line was held, and the other never came."""
    found = next(g for g in facts.postgres.gatherings if g.checkout_id == uuid_of("halfway"))
    (one,) = found.answers
    change(
        facts.postgres.gatherings,
        lambda g: g is found,
        answers=(one._replace(**answer),),
        deadline_ms=found.deadline_ms if deadline_ms is None else deadline_ms,
    )


@plants.breaks("gatherings")
def refused_though_all_is_held(facts: Facts) -> None:
    _change_halfway(facts, lines=1)


@plants.breaks("gatherings")
def ended_before_its_deadline(facts: Facts) -> None:
    _change_halfway(facts, deadline_ms=facts.postgres.read_at_ms + 1)


@plants.breaks("gatherings")
def the_whole_answer_was_another(facts: Facts) -> None:
    row = next(r for r in facts.postgres.commands if r.results and r.action == "abandon")
    result = row.results[0]
    assert result.document is not None
    told = result.document._replace(lines=((A, 9, "hold_expired"),))
    change(facts.postgres.commands, lambda r: r is row, results=(result._replace(document=told),))
    change(facts.cache.results, lambda r: r.whole == result.document, whole=told)


@plants.breaks("gatherings", "commands-asked")
def answers_that_nothing_gathers(facts: Facts) -> None:
    """And whose line is not known to have been answered, as its answer names another checkout."""
    row = next(r for r in facts.postgres.commands if r.subject == uuid_of("halfway"))
    lost = msgspec.structs.replace(row.command, checkout_id=uuid_of("nowhere"))  # type: ignore[type-var]
    fields = {"subject": uuid_of("nowhere"), "command": lost}
    change(facts.postgres.commands, lambda r: r is row, **fields)
    change(facts.commands, place(row.partition, row.offset), command=lost)


@plants.breaks("given-back", "holds", "purchases", "stock-counts")
def hold_left_held(facts: Facts) -> None:
    change(facts.postgres.holds, _hold("halfway", A), state="held")


@plants.breaks("holds", "entry-causes", "stock-counts")
def hold_left_pending_though_paid(facts: Facts) -> None:
    row = next(
        r for r in facts.postgres.commands if getattr(r.command, "to", "") == "paid" and r.partition == 1
    )
    change(facts.postgres.commands, lambda r: r is row, outcome="refused", reason="not_allowed")
    change(facts.postgres.holds, _hold("together", B), state="pending")


@plants.breaks("holds")
def hold_of_another_buyer(facts: Facts) -> None:
    change(facts.postgres.holds, _hold("together", B), buyer_id="b9")


@plants.breaks("entry-causes")
def restock_without_cause(facts: Facts) -> None:
    at = facts.postgres.stock[0]
    row = LedgerRow(at.product_id, at.seq + 1, 5, at.available + 5, "restock", None, None, None)
    facts.postgres.ledger.append(row)
    facts.postgres.ledger.sort(key=lambda e: (e.product_id, e.seq))
    change(facts.postgres.stock, of_product(at.product_id), seq=row.seq, available=row.available)


@plants.breaks("entry-causes", "command-faithful")
def stock_taking_of_another_total(facts: Facts) -> None:
    command = row_of(facts, "set_stock").command
    change_row(facts, "set_stock", command=msgspec.structs.replace(command, total=21))


def _last(facts: Facts, kind: str) -> int:
    return max(e.seq for e in facts.postgres.ledger if e.kind == kind and e.product_id == B)


@plants.breaks("entry-causes")
def expiry_entered_as_a_close(facts: Facts) -> None:
    change(
        facts.postgres.ledger,
        lambda e: _entry("expire", B)(e) and e.seq == _last(facts, "expire"),
        kind="close",
    )


@plants.breaks("entry-causes", "given-back", "stock-counts")
def given_back_twice(facts: Facts) -> None:
    """Units of an order that is paid come back as if it were closed, and the totals follow."""
    row, mine = row_of(facts, "complete"), _of(facts, "completed")
    (order,) = [e for e in facts.postgres.ledger if e.kind == "order" and mine(e)]
    at = next(s for s in facts.postgres.stock if s.product_id == B)
    back = order._replace(
        seq=at.seq + 1, delta=1, available=at.available + 1, kind="close", offset=99, partition=row.partition
    )
    facts.postgres.ledger.append(back)
    facts.postgres.ledger.sort(key=lambda e: (e.product_id, e.seq))
    change(facts.postgres.stock, of_product(B), seq=back.seq, available=back.available, paid=at.paid - 1)


@plants.breaks("stock-counts", "conservation")
def miscounted_paid(facts: Facts) -> None:
    stock = next(s for s in facts.postgres.stock if s.product_id == B)
    change(facts.postgres.stock, of_product(B), paid=stock.paid + 1)


@plants.breaks("stock-counts")
def paid_counted_as_pending(facts: Facts) -> None:
    stock = next(s for s in facts.postgres.stock if s.product_id == B)
    change(facts.postgres.stock, of_product(B), paid=stock.paid - 1, pending=stock.pending + 1)


@plants.breaks("purchases")
def purchase_not_given_back(facts: Facts) -> None:
    change(facts.postgres.purchases, lambda p: p.buyer_id == "b1", quantity=3)


@plants.breaks("purchases")
def hold_does_not_count(facts: Facts) -> None:
    change(facts.postgres.holds, _hold("halfway", A), counted=False)


@plants.breaks("refusals")
def refused_for_a_limit_that_was_not_reached(facts: Facts) -> None:
    change(facts.postgres.products, of_product(A), buyer_limit=6)


@plants.breaks("command-events", "order-events", "figures")
def command_event_was_not_published(facts: Facts) -> None:
    row = row_of(facts, "ship")
    drop(facts.events, lambda e: e.event_id == row.events[0].event_id)


@plants.breaks("command-events")
def command_event_with_other_data(facts: Facts) -> None:
    row = row_of(facts, "ship")
    change(facts.events, lambda e: e.event_id == row.events[0].event_id, value_hash=1)


@plants.breaks("command-events", "order-life")
def command_event_that_was_never_told(facts: Facts) -> None:
    change_row(facts, "ship", events=())


def _untold(facts: Facts, name: str) -> None:
    """As if the answer to a whole checkout were shown, and its event never told."""
    row = next(r for r in facts.postgres.commands if r.results and r.subject == uuid_of(name))
    change(facts.postgres.commands, lambda r: r is row, events=())
    drop(facts.events, lambda e: e.event_id == row.events[0].event_id)


@plants.breaks("gatherings", "order-events", "figures")
def whole_checkout_created_and_untold(facts: Facts) -> None:
    _untold(facts, "together")


@plants.breaks("gatherings", "figures")
def whole_checkout_refused_and_untold(facts: Facts) -> None:
    _untold(facts, "refused")


@plants.breaks("gatherings", "command-events")
def whole_checkout_told_under_another_key(facts: Facts) -> None:
    row = next(r for r in facts.postgres.commands if r.results and r.subject == uuid_of("refused"))
    change(facts.postgres.commands, lambda r: r is row, events=(row.events[0]._replace(key=b"k"),))


@plants.breaks("event-envelope", "figures")
def command_event_in_another_partition(facts: Facts) -> None:
    row = row_of(facts, "ship")
    change(facts.events, lambda e: e.event_id == row.events[0].event_id, partition=0)


@plants.breaks("order-events")
def events_of_an_order_out_of_order(facts: Facts) -> None:
    ids = [row_of(facts, action).events[0].event_id for action in ("pick", "ship")]
    first, second = (next(i for i, e in enumerate(facts.events) if e.event_id == wanted) for wanted in ids)
    one, two = facts.events[first], facts.events[second]
    facts.events[first] = two._replace(offset=one.offset)
    facts.events[second] = one._replace(offset=two.offset)


@plants.breaks("events")
def redelivered_command_event_with_other_data(facts: Facts) -> None:
    row = row_of(facts, "ship")
    event = next(e for e in facts.events if e.event_id == row.events[0].event_id)
    facts.events.append(event._replace(value_hash=1))


@plants.breaks("figures")
def figures_without_the_commands(facts: Facts) -> None:
    drop(facts.postgres.figures, lambda f: f.outcome == "completed")


@plants.breaks("cache-results")
def whole_answer_shown_otherwise(facts: Facts) -> None:
    result = next(r for r in facts.cache.results if r.whole and r.whole.status == "created")
    assert result.whole is not None
    change(facts.cache.results, lambda r: r is result, whole=result.whole._replace(value_hash=1))


@plants.breaks("cache-results")
def whole_answer_unreadable(facts: Facts) -> None:
    result = next(r for r in facts.cache.results if r.whole)
    change(facts.cache.results, lambda r: r is result, whole=None)


@plants.breaks("gatherings", "order-life", "order-payments")
def order_of_holds_of_another_total(facts: Facts) -> None:
    change(facts.postgres.orders, _of(facts, "together"), total=Decimal(1))
