"""The checker of commands and orders: silent about a sound history, and never about one in which something is planted."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from contracts.commands import Cancel, Command, Expire, Pay, Restock
from contracts.messages import Money
from contracts.outcomes import OrderStatus
from deploy.chaos.lives import Lives, goes_with, reachable
from deploy.chaos.operations import Ask, AskPoll, History, Look, Violation
from stock_ledger.audit.command_facts import CommandMessage, CommandRow
from stock_ledger.audit.facts import CacheFacts, EventFact, Facts, OrderRow, PaymentRow, PostgresFacts
from stock_ledger.lifecycle import TRANSITIONS
from tests.harness import uuid_of

Plant = Callable[[History, Facts], None]

# Its buyer cancels order a; order b is paid; order c times out, and its payment comes late; product p gets more units.
A, B, C = uuid_of("order a"), uuid_of("order b"), uuid_of("order c")
CANCEL, RESTOCK, PAY_B, PAY_C, EXPIRE_C = (
    uuid_of(name) for name in ("cancel", "restock", "b", "c", "expire")
)
BASE: dict[str, Any] = {"asked_at_ms": 0}


def pay(command_id: str, order: str) -> Pay:
    return Pay(
        **BASE, command_id=command_id, actor="provider:sandbox", order_id=order, provider="sandbox",
        event_id=f"event {order}", reference="r", outcome="paid", amount=Money("1.00", "CNY"), occurred_at_ms=0,
    )  # fmt: skip


COMMANDS: list[Command] = [
    Cancel(**BASE, command_id=CANCEL, actor="buyer:x", order_id=A, buyer_id="x"),
    pay(PAY_B, B),
    Restock(**BASE, command_id=RESTOCK, actor="merchant:m", product_id="p", units=5, why="delivery"),
    Expire(**BASE, command_id=EXPIRE_C, actor="sluiceway", order_id=C, expires_at_ms=1),
    pay(PAY_C, C),
]


def ask(
    operation: int, action: str, subject: str, key: str, at: float, place: int | None, **fields: object
) -> Ask:
    actor = {"cancel": "buyer:x", "pay": "provider:sandbox"}.get(action, "merchant:m")
    told = Ask(operation, actor, action, subject, key, at, at + 0.1, "ok", 204 if action == "pay" else 202)
    if place is not None:
        told = msgspec.structs.replace(told, command_id=COMMANDS[place].command_id, place=(0, place))
    return msgspec.structs.replace(told, **fields)


def poll(operation: int, command_id: str, at: float, status: str, **fields: object) -> AskPoll:
    return msgspec.structs.replace(AskPoll(operation, command_id, at, at + 0.1, "ok", 200, status), **fields)


def look(order: str, at: float, status: str, payment: str, sequence: int) -> Look:
    return Look(order, at, at + 0.1, "ok", 200, status, payment, sequence)


def history() -> History:
    return History(
        asks=[
            ask(1, "cancel", A, "k1", 1.0, None, outcome="unknown", status=503),
            ask(1, "cancel", A, "k1", 2.0, 0),
            ask(2, "pay", B, f"event {B}", 2.0, None, event="paid"),
            ask(3, "restock", "p", "delivery", 3.0, 2),
            ask(4, "restock", "p", "delivery", 3.1, 2),
            ask(5, "close", A, "k5", 6.0, None, status=409, order_status="closed_by_user"),
            ask(6, "pay", C, f"event {C}", 5.0, None, event="paid"),
        ],
        ask_polls=[
            poll(1, CANCEL, 2.5, "queued"),
            poll(1, CANCEL, 3.5, "applied"),
            poll(1, CANCEL, 4.5, "applied"),
            poll(3, RESTOCK, 3.5, "applied"),
            poll(4, RESTOCK, 3.5, "", outcome="fail", code=503),
            poll(4, RESTOCK, 4.0, "applied"),
        ],
        looks=[
            look(A, 1.0, "pending_payment", "pending", 1),
            look(A, 5.0, "closed_by_user", "expired", 2),
            look(B, 1.0, "pending_payment", "pending", 1),
            look(B, 4.0, "paid", "paid", 2),
            look(C, 4.0, "closed_by_timeout", "expired", 2),
        ],
    )


def row(offset: int, **fields: Any) -> CommandRow:
    command = COMMANDS[offset]
    action = str(command.__struct_config__.tag)
    found = CommandRow(
        0,
        offset,
        command.command_id,
        action,
        command.subject(),
        command.actor,
        "applied",
        None,
        "",
        None,
        0,
        command,
    )
    return found._replace(**fields)


def event(at: int, event_id: str) -> EventFact:
    return EventFact(0, at, event_id, "order.closed", None, 0, "", None)


def facts() -> Facts:
    ends = [
        (A, "closed_by_user", "expired", 2),
        (B, "paid", "paid", 2),
        (C, "closed_by_timeout", "refund_due", 3),
    ]
    return Facts(
        partitions=1, target={}, checkouts={}, events_span={}, letters_span={}, messages=[], letters=[],
        events=[event(0, "command-0-0-0"), event(1, "command-0-1-0"), event(2, "command-0-0-0")], cache=CacheFacts(),
        postgres=PostgresFacts(
            commands=[row(offset) for offset in range(len(COMMANDS))],
            orders=[OrderRow(o, o, "x", status, 1, "CNY", n) for o, status, _, n in ends],  # type: ignore[arg-type]
            payments=[PaymentRow(o, 1, "CNY", payment) for o, _, payment, _ in ends],  # type: ignore[arg-type]
        ),
        commands=[CommandMessage(0, offset, "", command) for offset, command in enumerate(COMMANDS)],
    )  # fmt: skip


def found(plant: Plant) -> list[Violation]:
    told, stored = history(), facts()
    plant(told, stored)
    return list(Lives(told, stored).run())


def change(kind: str, number: int, **fields: object) -> Plant:
    """An operation of the history, by the name of its list."""

    def plant(told: History, _: Facts) -> None:
        operations = getattr(told, kind)
        operations[number] = msgspec.structs.replace(operations[number], **fields)

    return plant


def add(kind: str, operation: object) -> Plant:
    return lambda told, _: getattr(told, kind).append(operation)


def decide(offset: int, **fields: Any) -> Plant:
    def plant(_: History, stored: Facts) -> None:
        stored.postgres.commands[offset] = row(offset, **fields)

    return plant


def decide_more(at: int, **fields: Any) -> Plant:
    """The same command decided once more, at another place."""
    return lambda _, stored: stored.postgres.commands.append(row(at)._replace(offset=7, **fields))


def without(what: str, number: int) -> Plant:
    """A fact of Postgres, or a message, that is gone."""

    def plant(_: History, stored: Facts) -> None:
        del (stored.commands if what == "messages" else getattr(stored.postgres, what))[number]

    return plant


def pays_back_nothing(_: History, stored: Facts) -> None:
    stored.postgres.payments[2] = stored.postgres.payments[2]._replace(status="expired")


def ends_as(number: int, **fields: Any) -> Plant:
    def plant(_: History, stored: Facts) -> None:
        stored.postgres.orders[number] = stored.postgres.orders[number]._replace(**fields)

    return plant


def turned_away(told: History, _: Facts) -> None:
    """Both tries to cancel were surely refused."""
    told.asks[0] = msgspec.structs.replace(told.asks[0], outcome="fail", status=0)
    told.asks[1] = ask(1, "cancel", A, "k1", 2.0, None, status=409, order_status="closed_by_user")
    told.ask_polls = told.ask_polls[3:]


def events_swapped(_: History, stored: Facts) -> None:
    stored.events[:2] = [event(0, "command-0-1-0"), event(1, "command-0-0-0")]


# What is planted, as which kind of violation it is to be told, and a part of what is to be said of it.
PLANTS: dict[str, tuple[str, str, Plant]] = {
    "a command that was never answered": (
        "never answered",
        "none answered",
        change("asks", 5, outcome="unknown", status=0),
    ),
    "a command without its end": (
        "never answered",
        "not at its end",
        change("ask_polls", 5, status="queued"),
    ),
    "a command that is not in the log": ("lost", "the log of commands has None", without("messages", 0)),
    "a command without a decision": ("lost", "decided was None", without("commands", 2)),
    "a payment that no command tells of": ("lost", "no command tells of it", without("commands", 1)),
    "a key with two commands": ("duplicated", "became the commands", change("asks", 4, command_id=CANCEL)),
    "a command decided twice": ("duplicated", "decided 2 times", decide_more(0)),
    "a payment's event decided twice": (
        "duplicated",
        f"event {B} was decided 2 times",
        decide_more(1, command_id=uuid_of("another")),
    ),
    "a command with two ends": (
        "contradicted",
        "applied , then refused",
        change("ask_polls", 2, status="refused", reason="not_allowed"),
    ),
    "a command that waits again": ("contradicted", "then queued", change("ask_polls", 2, status="queued")),
    "another end than is stored": (
        "contradicted",
        "decided was",
        decide(2, outcome="refused", reason="unknown_product"),
    ),
    "a command that was set aside": (
        "contradicted",
        "not readable",
        change("ask_polls", 3, status="dead_lettered"),
    ),
    "done, though it was turned away": ("contradicted", "and yet it was decided", turned_away),
    "an answer 500 to a command": ("contradicted", "was answered 500", change("asks", 5, status=500)),
    **{
        f"an answer {status} to a command that cannot be understood": (
            "contradicted",
            f"was answered {status} b'<html>'",
            add("asks", ask(1, "cancel", A, "k1", 1.5, None, status=status, outcome="unknown", unread="b'<html>'")),
        )
        for status in (202, 409, 503)
    },
    "a command's end that cannot be understood": (
        "contradicted",
        "was answered 200 b'<html>'",
        change("ask_polls", 0, status="", outcome="fail", unread="b'<html>'"),
    ),
    "an order that cannot be understood": (
        "contradicted",
        "was answered 200 b'<html>'",
        change("looks", 0, status="", outcome="fail", unread="b'<html>'"),
    ),
    "a payment turned away": ("contradicted", "was answered 409", change("asks", 2, status=409)),
    "a command's end not found": ("contradicted", "was answered 404", change("ask_polls", 4, code=404)),
    "an order not found": ("contradicted", "was answered 404", change("looks", 0, code=404)),
    "turned away, though the table allows it": (
        "contradicted",
        "being 'paid'",
        change("asks", 5, order_status="paid"),
    ),
    "an order that is gone": ("lost", "is not in Postgres", without("orders", 1)),
    "paid, then closed by its timeout": (
        "contradicted",
        "then closed_by_timeout",
        ends_as(1, status="closed_by_timeout"),
    ),
    "an order that goes back": (
        "contradicted",
        "then pending_payment",
        add("looks", look(B, 5.0, "pending_payment", "pending", 3)),
    ),
    "paid without the payment": ("contradicted", "paid with its payment", change("looks", 3, payment="failed")),
    "another status under the same number": (
        "contradicted",
        "(2), then picked",
        add("looks", look(B, 5.0, "picked", "paid", 2)),
    ),
    "a number that goes back": ("contradicted", "(1)", ends_as(1, sequence=1)),
    "applied, and not seen": (
        "contradicted",
        "was applied, then it was pending_payment",
        change("looks", 1, status="pending_payment", payment="pending"),
    ),
    "paid late, and nothing is due back": ("contradicted", "was paid, its payment is expired", pays_back_nothing),
    "events in another order than the log's": ("out of order", "was first told after", events_swapped),
}  # fmt: skip


def test_a_sound_history_has_no_violation() -> None:
    assert found(lambda *_: None) == []


@pytest.mark.parametrize("name", PLANTS)
def test_what_is_planted_is_found(name: str) -> None:
    kind, said, plant = PLANTS[name]
    violations = found(plant)
    assert any(v.kind == kind and said in v.detail for v in violations), violations


@pytest.mark.parametrize("name", [name for name in PLANTS if "cannot be understood" in name])
def test_an_answer_that_cannot_be_understood_says_nothing_more(name: str) -> None:
    assert len(found(PLANTS[name][2])) == 1


def test_looks_that_overlap_may_tell_either() -> None:
    assert found(add("looks", look(B, 4.05, "pending_payment", "pending", 1))) == []


def test_a_payment_of_a_wrong_amount_buys_nothing() -> None:
    def plant(told: History, stored: Facts) -> None:
        change("asks", 6, event="wrong")(told, stored)
        pays_back_nothing(told, stored)

    assert found(plant) == []


def test_what_is_reachable_is_what_the_table_allows() -> None:
    steps = {s.value: {t.value for (b, _), t in TRANSITIONS.items() if b is s} for s in OrderStatus}
    found = reachable(steps)
    assert found["paid"] == {"paid", "picked", "shipped", "completed", "closed_by_user", "closed_by_merchant"}
    assert found["closed_by_timeout"] == {"closed_by_timeout"} | found["paid"]
    assert found["closed_by_user"] == {"closed_by_user"}


def test_what_a_payment_can_be_is_told_by_the_order() -> None:
    assert goes_with("pending_payment", "failed")
    assert not goes_with("closed_by_timeout", "paid")
    assert not goes_with("shipped", "refund_due")
