"""Deciding commands: an order's steps with its stock, its ledger and its events; and that nothing happens twice."""

from datetime import timedelta
from itertools import product
from typing import get_args

import pytest

from contracts.commands import (
    Cancel,
    Close,
    Command,
    Expire,
    PatchProduct,
    Pick,
    PutProduct,
    Restock,
    Settle,
    Ship,
)
from contracts.decisions import BY_COMMAND, order_id_of, order_partition
from contracts.outcomes import OrderStatus as S
from contracts.outcomes import Outcome, Refusal
from contracts.outcomes import PaymentStatus as P
from contracts.times import to_ms
from contracts.topics import partition_of
from stock_ledger.commands.book import CommandDecision
from stock_ledger.commands.due import expire as due_expiry
from stock_ledger.commands.obey import HANDLERS
from stock_ledger.lifecycle import ACTIONS
from tests.desk import PARTITIONS, Desk, asked, last_entry, notice_of, order_from, step_of, whole_order
from tests.harness import NOON, line_of, product_in, product_of, uuid_of

A, B = product_in(0, PARTITIONS), product_in(1, PARTITIONS)
TO: dict[S, tuple[str, ...]] = {
    S.PENDING_PAYMENT: (),
    S.PAID: ("pay",),
    S.PICKED: ("pay", "pick"),
    S.SHIPPED: ("pay", "pick", "ship"),
    S.COMPLETED: ("pay", "pick", "ship", "complete"),
    S.CLOSED_BY_USER: ("cancel",),
    S.CLOSED_BY_TIMEOUT: ("expire",),
    S.CLOSED_BY_MERCHANT: ("close",),
}
FREE, PENDING, PAID = (10, 0, 0, 0), (7, 0, 3, 0), (7, 0, 0, 3)
# (status, action) -> status, payment, stock, ledger entry (kind, delta), events
WAITING, DUE = S.PENDING_PAYMENT, ["order.closed", "payment.refund_due"]
STEPS = {
    (WAITING, "pay"): (S.PAID, P.PAID, PAID, ("paid", 0), ["order.paid"]),
    (WAITING, "cancel"): (S.CLOSED_BY_USER, P.EXPIRED, FREE, ("cancel", 3), ["order.closed"]),
    (WAITING, "close"): (S.CLOSED_BY_MERCHANT, P.EXPIRED, FREE, ("close", 3), ["order.closed"]),
    (WAITING, "expire"): (S.CLOSED_BY_TIMEOUT, P.EXPIRED, FREE, ("expire", 3), ["order.closed"]),
    (S.PAID, "pick"): (S.PICKED, P.PAID, PAID, None, ["order.picked"]),
    (S.PAID, "cancel"): (S.CLOSED_BY_USER, P.REFUND_DUE, FREE, ("cancel", 3), DUE),
    (S.PAID, "close"): (S.CLOSED_BY_MERCHANT, P.REFUND_DUE, FREE, ("close", 3), DUE),
    (S.PICKED, "close"): (S.CLOSED_BY_MERCHANT, P.REFUND_DUE, FREE, ("close", 3), DUE),
    (S.PICKED, "ship"): (S.SHIPPED, P.PAID, PAID, None, ["order.shipped"]),
    (S.SHIPPED, "complete"): (S.COMPLETED, P.PAID, PAID, None, ["order.completed"]),
    (S.CLOSED_BY_TIMEOUT, "pay"): (S.PAID, P.PAID, PAID, ("late_payment", -3), ["order.paid"]),
}
FORBIDDEN = [
    pair for pair in product(S, ACTIONS) if pair not in STEPS and pair[1] != "pay"  # a payment is never refused
]  # fmt: skip


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.put(product_of(A, buyer_limit=5))
    desk.put(product_of(B))
    return desk


def outcome(decision: CommandDecision) -> tuple[Outcome, Refusal | None]:
    return decision.outcome, decision.reason


APPLIED = (Outcome.APPLIED, None)


def refused(reason: Refusal) -> tuple[Outcome, Refusal]:
    return Outcome.REFUSED, reason


def test_every_command_has_its_handler() -> None:
    assert set(HANDLERS) == set(get_args(Command))


@pytest.mark.parametrize(("status", "action"), STEPS)
def test_a_step(desk: Desk, status: S, action: str) -> None:
    order = order_from(desk, line_of(1, A, 3), *TO[status])
    assert order.status is status
    told, entries = desk.told(order.order_id), list(desk.commands.entries)
    assert outcome(desk.step(order, action)) == APPLIED
    then, payment, stock, entry, events = STEPS[status, action]
    after = desk.order(order.order_id)
    assert (after.status, after.payment) == (then, payment)
    assert desk.stock(A) == stock
    new = desk.commands.entries[len(entries) :]
    assert [(e.kind, e.delta, e.order_id) for e in new] == (
        [] if entry is None else [(*entry, order.order_id)]
    )
    assert desk.told(order.order_id)[len(told) :] == [
        (kind, order.sequence + 1 + n) for n, kind in enumerate(events)
    ]
    assert after.sequence == order.sequence + len(events)
    bought = desk.ledger.purchases.get((A, order.buyer_id), 0)
    assert bought == (0 if stock == FREE else 3)


@pytest.mark.parametrize(("status", "action"), FORBIDDEN)
def test_a_forbidden_step_changes_nothing(desk: Desk, status: S, action: str) -> None:
    order = order_from(desk, line_of(1, A, 3), *TO[status])
    before = (desk.stock(A), desk.told(order.order_id), list(desk.commands.entries))
    assert outcome(desk.obey(step_of(order, action))[0]) == refused(Refusal.NOT_ALLOWED)
    assert desk.order(order.order_id) == order
    assert (desk.stock(A), desk.told(order.order_id), desk.commands.entries) == before


@pytest.mark.parametrize("status", S)
def test_events_of_an_order_count_from_its_creation_without_gaps(desk: Desk, status: S) -> None:
    order = order_from(desk, line_of(1, A, 3), *TO[status])
    told = desk.told(order.order_id)
    assert told[0] == ("order.created", 1)
    assert [sequence for _, sequence in told] == list(range(1, len(told) + 1))
    assert order.sequence == len(told)


@pytest.mark.parametrize("action", ACTIONS)
def test_an_order_that_is_not_there(desk: Desk, action: str) -> None:
    elsewhere = Desk()
    elsewhere.put(product_of(A))
    order = order_from(elsewhere, line_of(1, A))
    assert outcome(desk.obey(step_of(order, action))[0]) == refused(Refusal.UNKNOWN_ORDER)
    assert desk.events == []


def test_another_buyer_does_not_even_see_the_order(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A))
    cancel = asked(Cancel, order_id=order.order_id, buyer_id="another")
    assert outcome(desk.obey(cancel)[0]) == refused(Refusal.UNKNOWN_ORDER)
    assert desk.order(order.order_id) == order


def test_an_expiry_that_was_moved_is_not_due(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A))
    moved = asked(Expire, order_id=order.order_id, expires_at_ms=to_ms(order.expires_at) - 1)
    assert outcome(desk.obey(moved)[0]) == refused(Refusal.NOT_DUE)
    assert desk.order(order.order_id) == order
    desk.obey(step_of(order, "pay"))
    again = asked(Expire, order_id=order.order_id, expires_at_ms=to_ms(order.expires_at) - 1)
    assert outcome(desk.obey(again)[0]) == refused(Refusal.NOT_ALLOWED)


def test_an_expiry_that_comes_early_is_not_due_whatever_the_clock_of_who_asks(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3))
    desk.now = order.expires_at - timedelta(milliseconds=1)
    due = (order.expires_at, order.order_id)
    assert outcome(desk.obey(due_expiry(due, order.expires_at))[0]) == refused(Refusal.NOT_DUE)
    assert desk.order(order.order_id) == order
    assert (desk.stock(A), desk.told(order.order_id)) == (PENDING, [("order.created", 1)])
    desk.tick(0.001)
    later = order.expires_at + timedelta(seconds=30)
    assert outcome(desk.obey(due_expiry(due, later))[0]) == APPLIED
    assert (desk.order(order.order_id).status, desk.stock(A)) == (S.CLOSED_BY_TIMEOUT, FREE)


def test_an_expiry_that_is_asked_for_again_has_no_second_effect(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3), "expire")
    due = (order.expires_at, order.order_id)
    asked_for = [due_expiry(due, desk.now + timedelta(seconds=30 * n)) for n in (1, 2)]
    assert [outcome(d) for d in desk.obey(*asked_for)] == [refused(Refusal.NOT_ALLOWED)] * 2
    assert desk.order(order.order_id) == order
    assert desk.stock(A) == FREE


def test_what_is_said_of_a_step_is_told(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A), "pay", "pick")
    desk.obey(asked(Ship, order_id=order.order_id, carrier="SF", tracking="77"))
    (shipped,) = desk.data("order.shipped")
    assert (shipped["carrier"], shipped["tracking"], shipped["status"]) == ("SF", "77", "shipped")
    assert shipped["payment"]["status"] == "paid"
    other = order_from(desk, line_of(2, A))
    desk.obey(asked(Close, order_id=other.order_id, why="no longer made"))
    (closed,) = desk.data("order.closed")
    assert (closed["why"], closed["order_id"], closed["type"]) == (
        "no longer made",
        other.order_id,
        "order.closed",
    )


def test_event_ids_are_of_the_command_and_their_number_in_it(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A), "pay")
    (decision,) = desk.obey(step_of(order, "cancel"))
    assert [dict(headers)["ce_id"] for _, _, headers in decision.told.events] == [
        b"command-0-1-0",
        b"command-0-1-1",
    ]
    assert decision.told.events[0][0] == order.order_id.encode()
    assert dict(decision.told.events[0][2])["ce_time"] == b"2026-11-11T12:00:00.000Z"


def test_a_step_of_an_order_of_several_products_is_asked_of_its_products(desk: Desk) -> None:
    order = whole_order(desk, [line_of(1, A, 2), line_of(1, B, 3)])
    assert (desk.stock(A), desk.stock(B)) == ((8, 0, 2, 0), (7, 0, 3, 0))
    assert desk.ledger.purchases == {(A, "buyer-1"): 2}
    (decision,) = desk.obey(step_of(order, "pay"))
    assert outcome(decision) == APPLIED
    assert [(c.product_id, c.to, c.order_id) for c in desk.asked if isinstance(c, Settle)] == [
        (A, "paid", order.order_id),
        (B, "paid", order.order_id),
    ]
    assert (desk.stock(A), desk.stock(B)) == ((8, 0, 2, 0), (7, 0, 3, 0)), "not before they are asked"
    desk.deliver()
    assert (desk.stock(A), desk.stock(B)) == ((8, 0, 0, 2), (7, 0, 0, 3))
    desk.obey(step_of(order, "close"))
    desk.deliver()
    assert (desk.stock(A), desk.stock(B)) == (FREE, FREE)
    assert desk.ledger.purchases == {(A, "buyer-1"): 0}
    assert {h.state for h in desk.ledger.holds.values()} == {"released"}
    assert desk.told(order.order_id) == [
        ("order.created", 1), ("order.paid", 2), ("order.closed", 3), ("payment.refund_due", 4)
    ]  # fmt: skip


@pytest.mark.parametrize("action", ["cancel", "close", "expire"])
def test_an_order_of_several_products_gives_everything_back(desk: Desk, action: str) -> None:
    order = whole_order(desk, [line_of(1, A, 2), line_of(1, B, 3)], action)
    assert order.status in {S.CLOSED_BY_USER, S.CLOSED_BY_MERCHANT, S.CLOSED_BY_TIMEOUT}
    assert (desk.stock(A), desk.stock(B)) == (FREE, FREE)
    assert desk.entries[B] == [("initial", 10), ("hold", -3), ("confirm", 0), ("release", 3)]
    assert last_entry(desk).order_id == order.order_id


def test_the_same_command_again_has_no_second_effect(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3))
    pay = notice_of(order)
    first, second = desk.obey(pay, pay)
    assert outcome(first) == APPLIED
    assert (second.outcome, second.first_offset, second.told.events) == (Outcome.REPEATED, 0, [])
    (third,) = desk.obey(pay)
    assert (third.outcome, third.first_offset) == (Outcome.REPEATED, 0)
    assert desk.told(order.order_id) == [("order.created", 1), ("order.paid", 2)]
    assert desk.stock(A) == PAID


def test_a_refusal_is_repeated_too(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3))
    pick = asked(Pick, order_id=order.order_id)
    assert outcome(desk.obey(pick)[0]) == refused(Refusal.NOT_ALLOWED)
    desk.obey(notice_of(order))
    assert desk.obey(pick)[0].outcome is Outcome.REPEATED
    assert desk.order(order.order_id).status is S.PAID


def test_a_dead_letter_takes_its_offset_and_no_more(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3))
    dead, paid = desk.obey(None, notice_of(order))
    assert (dead.outcome, dead.detail, dead.command) == (Outcome.DEAD, "broken", None)
    assert (paid.outcome, paid.offset) == (Outcome.APPLIED, 1)


def test_commands_of_a_batch_see_those_before(desk: Desk) -> None:
    order = order_from(desk, line_of(1, A, 3))
    decisions = desk.obey(
        *(step_of(order, step) for step in ("pay", "pick", "expire", "ship", "complete")),
        asked(Restock, product_id=A, units=5),
    )
    assert [d.outcome for d in decisions] == [Outcome.APPLIED] * 2 + [Outcome.REFUSED] + [Outcome.APPLIED] * 3
    assert desk.stock(A) == (12, 0, 0, 3)
    assert [e.seq for e in desk.commands.entries] == [3, 4]
    assert desk.order(order.order_id).sequence == 5


def test_a_product_put_and_patched_in_one_batch_is_new_once(desk: Desk) -> None:
    new = product_in(2, PARTITIONS)
    put = asked(PutProduct, product_id=new, name="New", price="5.00", currency="EUR", stock=4)
    desk.obey(
        put, asked(PatchProduct, product_id=new, on_shelf=False), asked(Restock, product_id=new, units=2)
    )
    assert desk.ledger.catalogue[new].version == 2
    assert not desk.ledger.catalogue[new].on_shelf
    assert desk.stock(new) == (6, 0, 0, 0)
    assert desk.ledger.partitions[new] == 2


def test_the_order_of_a_command_is_told_apart_from_that_of_a_line(desk: Desk) -> None:
    order = whole_order(desk, [line_of(1, A), line_of(1, B)])
    place = order_partition(order.order_id)
    (offset,) = [o for (p, o), d in desk.commands.decided.items() if p == place and d.told.results]
    assert place == partition_of(uuid_of(1), PARTITIONS)
    assert order.order_id == order_id_of(to_ms(NOON), place, offset | BY_COMMAND)
