"""Deciding all-or-nothing checkouts: one order, or everything back, in whichever order the answers come."""

from itertools import permutations

import msgspec
import pytest

from contracts.commands import HoldAnswer, Settle
from contracts.keys import WHOLE
from contracts.outcomes import Kind, Outcome, Reason, Refusal
from contracts.outcomes import PaymentStatus as P
from stock_ledger.commands.book import CommandDecision, Gathering
from tests.desk import PARTITIONS, Desk, answer_of, asked, step_of
from tests.harness import HOME, line_of, product_in, product_of, uuid_of

A, B, C = (product_in(p, PARTITIONS) for p in range(3))
HELD = [answer_of(1, n, 3, i, quantity=n + 1, price=f"{n + 1}.50") for n, i in enumerate((A, B, C))]
NONE_LEFT = answer_of(1, 1, 3, B, quantity=2, reason="sold_out")


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    for product_id in (A, B, C):
        desk.put(product_of(product_id))
    return desk


def settled(desk: Desk) -> list[tuple[str, str]]:
    """What products were asked so far, in order."""
    return [(c.product_id, c.to) for c in desk.asked if isinstance(c, Settle)]


def gathering(desk: Desk, checkout: int = 1) -> Gathering:
    return desk.commands.gatherings[uuid_of(checkout)]


def lines_of(document: dict[str, object]) -> dict[str, tuple[object, object]]:
    """Reason and retryable of each line of the final answer, by product."""
    lines = document["lines"]
    assert isinstance(lines, list)
    return {line["product_id"]: (line.get("reason"), line.get("retryable")) for line in lines}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_all_held_is_one_order(desk: Desk, order: tuple[int, ...]) -> None:
    for n in order[:2]:
        assert desk.obey(HELD[n])[0].outcome is Outcome.APPLIED
        assert (desk.orders(), settled(desk), desk.results) == ([], [], [])
    desk.obey(HELD[order[2]])
    (made,) = desk.orders()
    assert [(i.line, i.product_id, i.quantity, str(i.price)) for i in made.items] == [
        (0, A, 1, "1.50"), (1, B, 2, "2.50"), (2, C, 3, "3.50")
    ]  # fmt: skip
    assert (str(made.total), made.currency, made.sequence) == ("17.00", "CNY", 1)
    assert settled(desk) == [(A, "pending"), (B, "pending"), (C, "pending")]
    assert desk.told(made.order_id) == [("order.created", 1)]
    ((checkout, field, document),) = desk.results
    assert (checkout, field, document["status"]) == (uuid_of(1), WHOLE, "created")
    assert document["order"]["order_id"] == made.order_id
    assert document["order"]["total"] == {"amount": "17.00", "currency": "CNY"}
    assert lines_of(document) == dict.fromkeys((A, B, C), (None, None))
    assert desk.data("order.created")[0]["lines"] == document["lines"]
    assert gathering(desk).state == "confirmed"


def test_it_expires_as_its_shortest_item(desk: Desk) -> None:
    desk.obey(
        answer_of(1, 0, 2, A, payment_ttl_s=900, shipping=HOME, note="by night"),
        answer_of(1, 1, 2, B, payment_ttl_s=60, note="by night"),
    )
    (made,) = desk.orders()
    assert (made.expires_at - desk.now).total_seconds() == 60


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_one_refused_gives_back_every_other_once(desk: Desk, order: tuple[int, ...]) -> None:
    """Whether the refusal comes first, in the middle, or last."""
    answers = [HELD[0], NONE_LEFT, HELD[2]]
    for n in order:
        desk.obey(answers[n])
    assert desk.orders() == []
    assert sorted(settled(desk)) == sorted([(A, "released"), (C, "released")])
    ((_, field, document),) = desk.results
    assert (field, document["status"]) == (WHOLE, "refused")
    other = ("other_line_refused", True)
    assert lines_of(document) == {A: other, B: ("sold_out", True), C: other}
    shown = {line["product_id"] for line in document["lines"] if {"name", "cover", "price"} & line.keys()}
    assert shown == {A, C}, "of a line refused by itself there is no item to show"
    assert desk.told(uuid_of(1)) == [("checkout.refused", None)]
    assert gathering(desk).state == "refused"


def test_after_a_refusal_what_is_held_is_given_back_without_waiting(desk: Desk) -> None:
    desk.obey(HELD[0], NONE_LEFT)
    assert settled(desk) == [(A, "released")]
    assert desk.results == []
    assert gathering(desk).state == "refusing"


def test_all_refused_gives_nothing_back(desk: Desk) -> None:
    desk.obey(*(answer_of(1, n, 2, i, reason="off_shelf") for n, i in enumerate((A, B))))
    assert settled(desk) == []
    assert lines_of(desk.results[0][2]) == {A: ("off_shelf", False), B: ("off_shelf", False)}


def test_a_total_that_could_not_be_paid_is_no_order(desk: Desk) -> None:
    desk.obey(answer_of(1, 0, 2, A, price="999999999999"), answer_of(1, 1, 2, B, price="1"))
    ((_, _, document),) = desk.results
    assert lines_of(document) == {A: ("total_too_large", False), B: ("total_too_large", False)}
    assert (desk.orders(), settled(desk)) == ([], [(A, "released"), (B, "released")])


def test_several_currencies_are_no_order(desk: Desk) -> None:
    desk.obey(answer_of(1, 0, 2, A), answer_of(1, 1, 2, B, currency="USD"))
    assert desk.orders() == []
    assert settled(desk) == [(A, "released"), (B, "released")]
    assert {reason for reason, _ in lines_of(desk.results[0][2]).values()} == {Reason.MIXED_CURRENCIES}


def test_the_deadline_ends_it(desk: Desk) -> None:
    desk.obey(HELD[0], HELD[2])
    desk.tick(29.9)
    assert desk.abandon(1).reason is Refusal.NOT_DUE
    assert gathering(desk).decided_at is None
    desk.tick(0.1)
    assert desk.abandon(1).outcome is Outcome.APPLIED
    assert settled(desk) == [(A, "released"), (C, "released")]
    assert lines_of(desk.results[0][2]) == {A: ("hold_expired", True), C: ("hold_expired", True)}
    assert desk.abandon(1).reason is Refusal.NOT_ALLOWED
    desk.obey(HELD[1])
    assert settled(desk) == [(A, "released"), (C, "released"), (B, "released")], "a late answer"
    assert len(desk.results) == 1


def test_the_deadline_after_a_refusal_gives_nothing_back_twice(desk: Desk) -> None:
    desk.obey(HELD[0], NONE_LEFT)
    desk.tick(30)
    desk.abandon(1)
    assert settled(desk) == [(A, "released")]
    assert lines_of(desk.results[0][2]) == {A: ("other_line_refused", True), B: ("sold_out", True)}


def test_a_late_refusal_asks_for_nothing(desk: Desk) -> None:
    desk.obey(HELD[0])
    desk.tick(30)
    desk.abandon(1)
    desk.obey(NONE_LEFT)
    assert settled(desk) == [(A, "released")]
    assert len(gathering(desk).answers) == 1


def test_nothing_to_abandon(desk: Desk) -> None:
    assert desk.abandon(1).reason is Refusal.UNKNOWN_CHECKOUT
    desk.obey(*HELD)
    desk.tick(30)
    assert desk.abandon(1).reason is Refusal.NOT_ALLOWED
    assert len(desk.orders()) == 1


def test_answers_told_twice_count_once(desk: Desk) -> None:
    decisions = desk.obey(HELD[0], HELD[0], HELD[1], HELD[0], HELD[2], HELD[2])
    assert [d.outcome for d in decisions].count(Outcome.REPEATED) == 3
    assert len(desk.orders()) == 1
    assert settled(desk) == [(A, "pending"), (B, "pending"), (C, "pending")]


def test_another_payload_under_the_same_checkout_is_given_back(desk: Desk) -> None:
    other = msgspec.structs.replace(HELD[2], payload_hash="f" * 32)
    desk.obey(HELD[0], other, HELD[1])
    assert settled(desk) == [(C, "released")]
    assert [a.product_id for a in gathering(desk).answers] == [A, B]
    assert desk.orders() == []
    desk.tick(30)
    desk.abandon(1)
    assert settled(desk) == [(C, "released"), (A, "released"), (B, "released")]


def test_a_refusal_of_another_payload_does_not_count(desk: Desk) -> None:
    other = msgspec.structs.replace(NONE_LEFT, payload_hash="f" * 32)
    desk.obey(HELD[0], other)
    assert gathering(desk).state == "gathering"
    assert settled(desk) == []


def test_from_lines_to_an_order(desk: Desk) -> None:
    held = [
        desk.sell(line_of(1, i, n + 1, policy="all_or_nothing", line=n, lines=3))[0]
        for n, i in enumerate((A, B, C))
    ]
    assert {d.kind for d in held} == {Kind.HELD}
    assert [desk.stock(i) for i in (A, B, C)] == [(9, 1, 0, 0), (8, 2, 0, 0), (7, 3, 0, 0)]
    desk.deliver()
    assert [desk.stock(i) for i in (A, B, C)] == [(9, 0, 1, 0), (8, 0, 2, 0), (7, 0, 3, 0)]
    (made,) = desk.orders()
    assert made.payment is P.PENDING
    assert {h.order_id for h in desk.ledger.holds.values()} == {made.order_id}
    assert [kind for kind, _ in desk.told(made.order_id)] == ["order.created"], "lines have no events"


def test_from_lines_to_a_refusal(desk: Desk) -> None:
    for n, (i, quantity) in enumerate(((A, 1), (B, 99), (C, 3))):
        desk.sell(line_of(1, i, quantity, policy="all_or_nothing", line=n, lines=3))
    desk.deliver()
    assert [desk.stock(i) for i in (A, B, C)] == [(10, 0, 0, 0)] * 3
    assert desk.entries[C] == [("initial", 10), ("hold", -3), ("release", 3)]
    assert desk.orders() == []
    assert lines_of(desk.results[0][2])[B] == ("insufficient_stock", True)


def settle(desk: Desk, to: str, order_id: str | None = None) -> CommandDecision:
    return desk.obey(asked(Settle, checkout_id=uuid_of(1), product_id=A, to=to, order_id=order_id))[0]


STATES = {"held": [], "pending": ["pending"], "paid": ["pending", "paid"], "released": ["released"]}
SETTLED = {
    ("held", "pending"): ((8, 0, 2, 0), ("confirm", 0)),
    ("held", "released"): ((10, 0, 0, 0), ("release", 2)),
    ("pending", "paid"): ((8, 0, 0, 2), ("paid", 0)),
    ("pending", "released"): ((10, 0, 0, 0), ("release", 2)),
    ("paid", "released"): ((10, 0, 0, 0), ("release", 2)),
}


@pytest.mark.parametrize("limited", [True, False])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("to", ["pending", "paid", "released"])
def test_a_hold_is_settled(desk: Desk, state: str, to: str, *, limited: bool) -> None:
    desk.put(product_of(A, buyer_limit=5 if limited else None))
    desk.sell(line_of(1, A, 2, policy="all_or_nothing", lines=2))
    for step in STATES[state]:
        settle(desk, step, uuid_of("order"))
    before, entries = desk.stock(A), list(desk.commands.entries)
    decision = settle(desk, to)
    hold = desk.ledger.holds[uuid_of(1), A]
    if (state, to) not in SETTLED:
        assert (decision.outcome, decision.reason) == (Outcome.REFUSED, Refusal.NOT_ALLOWED)
        assert (hold.state, desk.stock(A), desk.commands.entries) == (state, before, entries)
        return
    stock, entry = SETTLED[state, to]
    assert (hold.state, desk.stock(A)) == (to, stock)
    assert hold.order_id == (uuid_of("order") if STATES[state] else None), "kept"
    (new,) = desk.commands.entries[len(entries) :]
    assert (new.kind, new.delta, new.order_id) == (*entry, hold.order_id)
    if limited:
        assert desk.ledger.purchases == {(A, "buyer-1"): 0 if to == "released" else 2}
    else:
        assert desk.ledger.purchases == {}


def test_a_hold_that_is_not_there(desk: Desk) -> None:
    assert settle(desk, "released").reason is Refusal.UNKNOWN_HOLD


def test_what_is_asked_has_the_same_id_whenever_it_is_asked(desk: Desk) -> None:
    """So that the two who may give a hold back, the order and its checkout, give it back once."""
    desk.obey(*HELD)
    (made,) = desk.orders()
    desk.obey(step_of(made, "cancel"))
    other = Desk()
    other.tick(5)
    other.obey(*HELD)
    other.obey(step_of(other.orders()[0], "close"))
    assert [c.command_id for c in desk.asked] == [c.command_id for c in other.asked]
    assert len({c.command_id for c in desk.asked}) == 6


def test_an_answer_is_the_same_whenever_it_is_told(desk: Desk) -> None:
    desk.sell(line_of(1, A, 2, policy="all_or_nothing", lines=2))
    (answer,) = desk.asked
    assert isinstance(answer, HoldAnswer)
    other = Desk()
    other.put(product_of(A))
    other.sell(line_of(9, A), line_of(1, A, 2, policy="all_or_nothing", lines=2))
    assert list(other.asked) == [answer]
