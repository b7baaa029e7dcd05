"""The checker of histories: silent about a sound one, and never about one in which something is planted."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from deploy.chaos.history import check
from deploy.chaos.operations import History, Line, Outcome, Poll, Submit, Told, Violation
from stock_ledger.audit.command_facts import CommandRow, GatheringRow
from stock_ledger.audit.facts import (
    CacheFacts,
    DecisionRow,
    Document,
    EventFact,
    Facts,
    LedgerRow,
    MessageFact,
    OrderRow,
    PaymentRow,
    PostgresFacts,
    StockRow,
    TopicSpan,
)
from tests.harness import uuid_of

Plant = Callable[[History, Facts], None]

# Product p lies in partition 0 and is sold out after the checkouts a and b; c comes too late; a is asked for twice.
A, B, C = uuid_of("a"), uuid_of("b"), uuid_of("c")


def submit(operation: int, key: str, at: float, offset: int | None, **fields: object) -> Submit:
    """One that was accepted at this offset of partition 0, or not at all."""
    told = Submit(
        operation, key, 0, True, uuid_of(key), {"p": 1}, "independent", at, at + 0.1, "ok", 202, "", uuid_of(key)
    )  # fmt: skip
    if offset is None:
        told = msgspec.structs.replace(told, checkout_id="")
    else:
        told = msgspec.structs.replace(told, lines=[Line("p", 1, 0, offset)], receipt=f"receipt {operation}")
    return msgspec.structs.replace(told, **fields)


def poll(operation: int, key: str, at: float, told: Told | int, **fields: object) -> Poll:
    """One that told how many were ahead, or the answer."""
    answered: Outcome = "ok"
    common = (operation, uuid_of(key), "api-1", at, at + 0.1, answered, 200)
    if isinstance(told, int):
        found = Poll(*common, "queued", told)
    else:
        found = Poll(*common, told.status, None, [told])
    return msgspec.structs.replace(found, **fields)


def created(offset: int, order: str) -> Told:
    return Told(0, "created", 0, offset, "p", "", uuid_of(order))


SOLD_OUT = Told(0, "refused", 0, 2, "p", "sold_out", "")


def history() -> History:
    return History(
        submits=[
            submit(1, "a", 0.0, None, outcome="unknown", status=503, code="not_acknowledged"),
            submit(1, "a", 1.0, 0),
            submit(2, "b", 2.0, 1),
            submit(3, "c", 3.0, 2),
            submit(4, "a", 4.0, 3),
            submit(5, "d", 5.0, None, status=409, code="sold_out", products=["p"], checkout_id=uuid_of("d")),
            submit(6, "e", 5.0, None, status=422, code="invalid", well_formed=False, asked={}),
        ],
        polls=[
            poll(1, "a", 1.5, 7),
            poll(1, "a", 2.5, 3, api="api-2"),
            poll(1, "a", 3.5, created(0, "order a")),
            poll(1, "a", 6.5, created(0, "order a"), api="api-2"),
            poll(2, "b", 3.5, created(1, "order b")),
            poll(3, "c", 4.5, SOLD_OUT),
            poll(4, "a", 5.5, created(0, "order a")),
            poll(4, "a", 5.0, 0, outcome="fail", code=503, status="", ahead=None),
        ],
        sold_out_for_s=10.0,
    )


def decision(offset: int, key: str, kind: str, **fields: Any) -> DecisionRow:
    row = DecisionRow(
        0, offset, kind, uuid_of(key), "buyer", "p", 1, "", 0, None, "", None, None, 1000 * offset
    )
    return row._replace(**fields)


def event(at: int, offset: int, key: str, order: str) -> EventFact:
    order_id = uuid_of(order) if order else ""
    status = "created" if order else "refused"
    document = Document(0, offset, uuid_of(key), "buyer", "p", 1, status, "", order_id, 0, "CNY")  # type: ignore[arg-type]
    return EventFact(0, at, f"0-{offset}", "order.created", None, 0, "", document)


def facts() -> Facts:
    span = {0: TopicSpan(0, 4)}
    postgres = PostgresFacts(
        states={0: (1, 4)},
        decisions=[
            decision(0, "a", "created", order_id=uuid_of("order a")),
            decision(1, "b", "created", order_id=uuid_of("order b")),
            decision(2, "c", "refused", reason="sold_out"),
            decision(3, "a", "repeated", first_offset=0),
        ],
        orders=[OrderRow(uuid_of(f"order {key}"), uuid_of(key), "buyer", "paid", 1, "CNY") for key in "ab"],  # type: ignore[arg-type]
        stock=[StockRow("p", 0, 0, 3), StockRow("q", 0, 5, 1)],
        ledger=[
            LedgerRow("p", 1, 2, 2, "initial", None, None, None),
            LedgerRow("p", 2, -1, 1, "order", 0, 0, uuid_of("order a")),
            LedgerRow("p", 3, -1, 0, "order", 0, 1, uuid_of("order b")),
        ],
        figure_states={0: 4},
    )
    return Facts(
        partitions=1,
        target={0: 4},
        checkouts=span,
        events_span=span,
        letters_span={},
        postgres=postgres,
        messages=[MessageFact(0, n, "", uuid_of(key), "p", "buyer", 1) for n, key in enumerate("abca")],
        events=[
            event(0, 0, "a", "order a"),
            event(1, 1, "b", "order b"),
            event(2, 0, "a", "order a"),
            event(3, 2, "c", ""),
        ],
        letters=[],
        cache=CacheFacts(),
    )


def found(plant: Plant) -> list[Violation]:
    told, stored = history(), facts()
    plant(told, stored)
    return check(told, stored)[0]


def change(number: int, **fields: object) -> Plant:
    def plant(told: History, _: Facts) -> None:
        told.polls[number] = msgspec.structs.replace(told.polls[number], **fields)

    return plant


def change_submit(number: int, **fields: object) -> Plant:
    def plant(told: History, _: Facts) -> None:
        told.submits[number] = msgspec.structs.replace(told.submits[number], **fields)

    return plant


def add(operation: Submit | Poll) -> Plant:
    def plant(told: History, _: Facts) -> None:
        if isinstance(operation, Submit):
            told.submits.append(operation)
        else:
            told.polls.append(operation)

    return plant


def decide(offset: int, row: DecisionRow) -> Plant:
    def plant(_: History, stored: Facts) -> None:
        stored.postgres.decisions[offset : offset + 1] = [row]

    return plant


def without_message(_: History, stored: Facts) -> None:
    del stored.messages[1]


def another_message(_: History, stored: Facts) -> None:
    stored.messages[1] = stored.messages[1]._replace(checkout_id=C)


def without_decision(_: History, stored: Facts) -> None:
    del stored.postgres.decisions[3]


def without_order(_: History, stored: Facts) -> None:
    del stored.postgres.orders[1]


def without_event(_: History, stored: Facts) -> None:
    del stored.events[1]


def second_order_event(_: History, stored: Facts) -> None:
    stored.events.append(event(4, 3, "a", "another order"))


def events_swapped(_: History, stored: Facts) -> None:
    stored.events[0], stored.events[1] = stored.events[1], stored.events[0]


def stock_left(_: History, stored: Facts) -> None:
    stored.postgres.ledger = [
        entry._replace(available=entry.available + 1) for entry in stored.postgres.ledger
    ]


def restocked(at: int, offset: int) -> Plant:
    """At a second since the epoch, with a command at this offset."""

    def plant(_: History, stored: Facts) -> None:
        stored.postgres.commands.append(
            CommandRow(
                0,
                offset,
                uuid_of("restock"),
                "restock",
                "p",
                "merchant:m",
                "applied",
                None,
                "",
                None,
                at * 1000,
            )
        )
        stored.postgres.ledger.append(LedgerRow("p", 4, 1, 1, "restock", 0, offset, None))

    return plant


def stock_returned(told: History, stored: Facts) -> None:
    """The last checkout is told sold out at 5.0 s, or much later."""
    restocked(5, 0)(told, stored)
    told.submits[5] = msgspec.structs.replace(told.submits[5], at=60.0, until=60.1)


def sold_after_all(_: History, stored: Facts) -> None:
    """What was sold out at offset 2 is sold at offset 3."""
    stored.postgres.decisions[3] = decision(3, "c", "created", order_id=uuid_of("order c"))
    stored.postgres.ledger.append(LedgerRow("p", 4, -1, -1, "order", 0, 3, uuid_of("order c")))


def more_units(_: History, stored: Facts) -> None:
    """Fifty were published for one, and bought."""
    stored.messages[1] = stored.messages[1]._replace(quantity=50)
    stored.postgres.decisions[1] = stored.postgres.decisions[1]._replace(quantity=50)


def more_units_told(told: History, stored: Facts) -> None:
    """And the 202 said so."""
    more_units(told, stored)
    told.submits[2] = msgspec.structs.replace(told.submits[2], lines=[Line("p", 50, 0, 1)])


def another_product(_: History, stored: Facts) -> None:
    """Of a checkout of which no try was answered with a 202."""
    stored.messages.append(MessageFact(0, 4, "", uuid_of("d"), "q", "buyer", 1))
    stored.postgres.decisions.append(decision(4, "d", "created", product_id="q"))


def turned_away(status: int, code: str) -> Plant:
    """All that was sent under b's key was answered so, without a checkout id, and yet b is decided."""

    def plant(told: History, _: Facts) -> None:
        outcome: Outcome = "fail" if status == 503 else "ok"
        told.submits[2] = submit(2, "b", 2.0, None, status=status, code=code, outcome=outcome)
        told.polls = [p for p in told.polls if p.operation != 2]

    return plant


def never_sent(told: History, _: Facts) -> None:
    del told.submits[2]
    told.polls = [p for p in told.polls if p.operation != 2]


def never_taken_in(told: History, _: Facts) -> None:
    """Both tries of a were answered for sure, and yet a is decided."""
    told.submits[0] = msgspec.structs.replace(told.submits[0], outcome="fail", code="overloaded")
    told.submits[1] = submit(1, "a", 1.0, None, status=409, code="sold_out", products=["p"], checkout_id=A)
    del told.submits[4]
    told.polls = [p for p in told.polls if p.operation not in (1, 4)]


def payment_late(_: History, stored: Facts) -> None:
    stored.postgres.orders[0] = stored.postgres.orders[0]._replace(status="pending_payment")
    stored.postgres.payments.append(PaymentRow(uuid_of("order a"), 1, "CNY", "pending", "", 5000))  # type: ignore[arg-type]
    stored.postgres.read_at_ms = 47_000


def never_whole(_: History, stored: Facts) -> None:
    stored.postgres.gatherings.append(GatheringRow(C, 0, "open", 30_000, (), None, None, None))
    stored.postgres.read_at_ms = 45_000


def figures_behind(_: History, stored: Facts) -> None:
    stored.postgres.figure_states[0] = 3


# What is planted, as which kind of violation it is to be told, and a part of what is to be said of it.
PLANTS: dict[str, tuple[str, str, Plant]] = {
    "a 202 that is not in the log": ("lost", "the log has None", without_message),
    "a 202 whose place another message has": ("lost", "the log has MessageFact", another_message),
    "a 202 without a decision": ("lost", "decided was None", without_decision),
    "an order that is gone": ("lost", "is not in Postgres", without_order),
    "an order without its event": ("lost", "has no event", without_event),
    "a key with two checkouts": ("duplicated", "became the checkouts", change_submit(4, checkout_id=C)),
    "a line decided twice": (
        "duplicated",
        "decided 2 times",
        decide(3, decision(3, "a", "created", order_id=uuid_of("another order"))),
    ),
    "two orders told of one line": ("duplicated", "has the orders", second_order_event),
    "a final answer that changes": (
        "contradicted",
        ", then [Told",
        change(3, told=[SOLD_OUT], status="refused"),
    ),
    "waiting again after the final answer": ("contradicted", "then to wait", add(poll(1, "a", 7.0, 0))),
    "waiting again, told by another process": (
        "contradicted",
        "then to wait",
        add(poll(1, "a", 7.0, 0, api="api-2")),
    ),
    "a repeat with another answer": (
        "contradicted",
        "its repeat",
        change(6, told=[SOLD_OUT], status="refused"),
    ),
    "a place that grows": ("contradicted", "7 ahead, then api-1 8", change(1, ahead=8, api="api-1")),
    "a place that grows from one process to another": (
        "contradicted",
        "7 ahead, then api-2 8",
        change(1, ahead=8),
    ),
    "another order than is stored": ("contradicted", "decided was", change(4, told=[created(1, "order x")])),
    "a refusal of what was created": (
        "contradicted",
        "decided was",
        change(4, told=[Told(0, "refused", 0, 1, "p", "sold_out", "")]),
    ),
    "another reason than is stored": (
        "contradicted",
        "decided was",
        change(5, told=[SOLD_OUT._replace(reason="off_shelf")]),
    ),
    "sold out, but there is some left": ("contradicted", "there was stock of", stock_left),
    "sold out long after stock has returned": ("contradicted", "there was stock of", stock_returned),
    "a product of a basket that is not taken in": (
        "contradicted",
        "[('p', 1)] acknowledged",
        change_submit(2, asked={"p": 1, "q": 1}),
    ),
    "more units in the log than were asked for": ("contradicted", "50 of p lie in the log", more_units),
    "more units in the log than were acknowledged": ("lost", "'p', 1) was acknowledged", more_units),
    "more units acknowledged than were asked for": (
        "contradicted",
        "[('p', 50)] acknowledged",
        more_units_told,
    ),
    "more units decided than were asked for": ("contradicted", "50 of p, independent, was", more_units),
    "a product that nobody asked for in the log": ("contradicted", "1 of q lie in the log", another_product),
    "a product that nobody asked for, decided": ("contradicted", "1 of q, independent, was", another_product),
    "all or nothing, bought as if independent": (
        "contradicted",
        "1 of p, independent, was created, nobody asked",
        change_submit(2, asked={"p": 1, "q": 1}, policy="all_or_nothing"),
    ),
    "a part sold out, and all of it refused": (
        "contradicted",
        "for ['p'] of ['p', 'q'], independent",
        change_submit(5, asked={"p": 1, "q": 1}),
    ),
    "refused as sold out, and nothing is": ("contradicted", "for [] of ['p']", change_submit(5, products=[])),
    "all or nothing refused, and nothing is sold out": (
        "contradicted",
        "for [] of ['p', 'q'], all_or_nothing",
        change_submit(5, asked={"p": 1, "q": 1}, policy="all_or_nothing", products=[]),
    ),
    "all or nothing refused for what nobody asked for": (
        "contradicted",
        "for ['p', 'z'] of ['p', 'q']",
        change_submit(5, asked={"p": 1, "q": 1}, policy="all_or_nothing", products=["p", "z"]),
    ),
    "a key with another checkout than its buyer and it give": (
        "duplicated",
        "became the checkouts",
        change_submit(2, derived_id=C),
    ),
    "decided, though no try was taken in": (
        "contradicted",
        "told 409 sold_out, 503 overloaded, yet it was decided",
        never_taken_in,
    ),
    **{
        f"decided, though it was told {status} {code}": (
            "contradicted",
            f"told {status} {code}, yet it was decided",
            turned_away(status, code),
        )
        for status, code in (
            (503, "overloaded"),
            (503, "backlog_full"),
            (422, "invalid"),
            (400, "bad_request"),
            (422, "idempotency_conflict"),
        )
    },
    "decided, though nobody sent it": ("contradicted", "nobody sent it, yet it was decided", never_sent),
    "a conflict without another payload": (
        "contradicted",
        "answered 422 idempotency_conflict",
        add(submit(7, "f", 8.0, None, status=422, code="idempotency_conflict")),
    ),
    "an answer 500": ("contradicted", "answered 500", add(submit(7, "f", 8.0, None, status=500))),
    "an answer that cannot be understood": (
        "contradicted",
        "operation 6 was answered 422 b'<html>'",
        change_submit(6, code="", outcome="unknown", unread="b'<html>'"),
    ),
    "a poll's answer that cannot be understood": (
        "contradicted",
        "api-1 answered 200 b'<html>'",
        change(0, outcome="fail", status="", ahead=None, unread="b'<html>'"),
    ),
    "a poll answered 404": ("contradicted", "answered 404", change(7, code=404)),
    "nonsense accepted": ("contradicted", "answered 202", change_submit(2, well_formed=False)),
    "a later checkout before an earlier one": (
        "out of order",
        "but before it",
        change_submit(1, at=2.5, until=2.6),
    ),
    "events in another order than the log's": ("out of order", "was first told after", events_swapped),
    "sold after it was sold out": (
        "out of order",
        "sold out at",
        sold_after_all,
    ),
    "an operation that was never answered": (
        "never answered",
        "none answered",
        change_submit(3, outcome="unknown", status=0),
    ),
    "a 202 without a final answer": (
        "never answered",
        "polls not final",
        change(5, status="queued", told=[]),
    ),
    "an order that nobody pays, and no timer ends": (
        "never ended",
        "a payment that is 42 s late",
        payment_late,
    ),
    "a checkout without an answer as a whole": ("never ended", "15 s past its deadline", never_whole),
    "figures that nobody goes on with": ("never ended", "end at event 3, the events at 4", figures_behind),
}


def test_a_sound_history_has_no_violation() -> None:
    assert check(history(), facts()) == ([], {})


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(name: str) -> None:
    kind, said, plant = PLANTS[name]
    violations = found(plant)
    assert any(v.kind == kind and said in v.detail for v in violations), violations


def test_what_was_sold_out_may_be_sold_once_stock_has_returned() -> None:
    def plant(told: History, stored: Facts) -> None:
        restocked(5, 0)(told, stored)
        sold_after_all(told, stored)
        stored.postgres.ledger[-1] = stored.postgres.ledger[-1]._replace(seq=5, available=0)

    assert [v for v in found(plant) if "sold" in v.detail] == []


def test_all_or_nothing_may_be_refused_for_one_product() -> None:
    assert found(change_submit(5, asked={"p": 1, "q": 1}, policy="all_or_nothing")) == []


@pytest.mark.parametrize("status", [202, 409])
def test_an_answer_that_cannot_be_understood_says_nothing_more(status: int) -> None:
    unread = submit(1, "a", 0.5, None, status=status, outcome="unknown", unread="b'<html>'")
    (violation,) = found(add(unread))
    assert violation.detail == f"operation 1 was answered {status} b'<html>'"


def test_a_gate_may_be_a_moment_behind_the_stock() -> None:
    assert found(restocked(4, 0)) == []


def test_but_no_longer_than_the_run_allows_it() -> None:
    def plant(told: History, stored: Facts) -> None:
        restocked(4, 0)(told, stored)
        told.sold_out_for_s = 0.5

    assert ["there was stock of ['p']" in v.detail for v in found(plant)] == [True]


def test_places_may_differ_between_processes_while_postgres_is_away() -> None:
    def plant(told: History, _: Facts) -> None:
        change(1, ahead=8)(told, facts())
        told.polls.append(poll(1, "a", 7.0, 0, api="api-2"))
        told.postgres_away = [(2.0, 8.0)]

    assert found(plant) == []


def test_one_process_may_not_go_back_even_then() -> None:
    def plant(told: History, _: Facts) -> None:
        change(1, ahead=8, api="api-1")(told, facts())
        told.postgres_away = [(2.0, 8.0)]

    assert [violation.kind for violation in found(plant)] == ["contradicted"]


def test_conflicts_are_told_at_their_own_places() -> None:
    """Another payload under a's key, sent twice: each is refused where it lies."""

    def plant(told: History, stored: Facts) -> None:
        for operation, offset in ((7, 4), (8, 5)):
            told.submits.append(
                submit(
                    operation, "a", 6.0 + operation, offset,
                    payload=1, asked={"p": 2}, lines=[Line("p", 2, 0, offset)],
                )
            )  # fmt: skip
            refused = Told(0, "refused", 0, offset, "p", "idempotency_conflict", "")
            told.polls.append(poll(operation, "a", 9.0 + operation, refused))
            stored.messages.append(MessageFact(0, offset, "", A, "p", "buyer", 2))
            stored.postgres.decisions.append(
                decision(offset, "a", "conflict", reason="idempotency_conflict", quantity=2)
            )

    assert found(plant) == []


def test_violations_are_all_counted_but_only_the_first_are_told() -> None:
    told, stored = history(), facts()
    told.submits += [submit(n, f"key {n}", 9.0, None, outcome="unknown", status=0) for n in range(100, 150)]
    kept, counts = check(told, stored)
    assert counts == {"never answered": 50}
    assert len(kept) == 20
