"""Stripe: its events, and what is sent to it, over real HTTP to a server that plays it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import orjson
import pytest
import stripe

from api.payments.stripe import StripeProvider
from contracts.errors import BadSignature, Invalid, PaymentRefused, Unavailable, UnreadableCallback
from contracts.payments import PaymentNotice, Refunded, Started
from tests.harness import NOON
from tests.unit.payment_senders import CHARGE, ORDER, PAID, STRIPE_SECRET, WINDOW_S, StripeSender
from tests.unit.payment_servers import Answer, Played, playing

SENDER = StripeSender()
METADATA = {"order_id": ORDER, "order_number": CHARGE.number}
INTENT = {"id": "pi_1", "amount": 25800, "amount_received": 25800, "currency": "cny", "metadata": METADATA}
STRIPE_CHARGE = {"id": "ch_1", "amount_refunded": 25800, "currency": "cny", "payment_intent": "pi_1"} | {
    "metadata": METADATA
}
CREATED = {
    "id": "pi_1", "object": "payment_intent", "client_secret": "pi_1_secret_2", "payment_method_types": ["card"],
}  # fmt: skip


def read(kind: str, of: dict[str, Any], before: dict[str, Any] | None = None) -> PaymentNotice | None:
    body = SENDER.event(kind, of, before)
    return SENDER.provider.read_callback(SENDER.headers(body, NOON), body, NOON)


@asynccontextmanager
async def asking(*answers: Answer, retries_max: int = 0) -> AsyncIterator[tuple[StripeProvider, Played]]:
    async with playing(*answers) as played:
        provider = StripeProvider(
            "sk_test_1", STRIPE_SECRET, WINDOW_S, 5, api_url=played.url, retries_max=retries_max
        )
        try:
            yield provider, played
        finally:
            await provider.close()


def answer(status: int = 200, **fields: Any) -> Answer:
    return Answer(status, orjson.dumps(CREATED | fields))


def error(status: int, kind: str = "invalid_request_error", code: str = "parameter_invalid") -> Answer:
    return Answer(status, orjson.dumps({"error": {"type": kind, "code": code, "message": "No such thing"}}))


def form(played: Played) -> dict[str, str]:
    return dict(parse_qsl(played.asked[-1].body.decode()))


def test_paid_counts_what_was_received() -> None:
    notice = read("payment_intent.succeeded", INTENT | {"amount_received": 25799})
    assert notice is not None
    assert (notice.outcome, notice.amount, notice.reference) == ("paid", Decimal("257.99"), "pi_1")


def test_failed_counts_what_was_asked() -> None:
    notice = read("payment_intent.payment_failed", INTENT | {"amount_received": 0})
    assert notice is not None
    assert (notice.outcome, notice.amount) == ("failed", Decimal("258.00"))


def test_the_time_is_the_events() -> None:
    notice = read("payment_intent.succeeded", INTENT)
    assert notice is not None
    assert notice.occurred_at == NOON


@pytest.mark.parametrize(
    ("before", "amount"),
    [
        ({"amount_refunded": 10000}, "158.00"),
        ({"amount_refunded": 0}, "258.00"),
        ({}, "258.00"),
        (None, "258.00"),
    ],
)
def test_refunded_counts_what_this_event_gave_back(before: dict[str, Any] | None, amount: str) -> None:
    notice = read("charge.refunded", STRIPE_CHARGE, before)
    assert notice is not None
    assert (notice.outcome, notice.amount, notice.reference) == ("refunded", Decimal(amount), "pi_1")


@pytest.mark.parametrize(
    ("units", "currency", "amount"),
    [
        (500, "jpy", "500"),
        (5120, "kwd", "5.120"),
        (500, "isk", "5.00"),  # two decimal places at Stripe, none in ISO 4217
        (500, "mga", "500"),  # none at Stripe, two in ISO 4217
        (258, "eur", "2.58"),
    ],
)
async def test_stripes_own_units_both_ways(units: int, currency: str, amount: str) -> None:
    notice = read("payment_intent.succeeded", INTENT | {"amount_received": units, "currency": currency})
    assert notice is not None
    assert (notice.amount, notice.currency) == (Decimal(amount), currency.upper())
    charge = msgspec.structs.replace(CHARGE, amount=Decimal(amount), currency=currency.upper())
    async with asking(answer()) as (provider, played):
        await provider.start(charge)
    assert form(played)["amount"] == str(units)


async def test_currencies_without_a_unit_that_can_be_relied_on() -> None:
    async with asking(answer()) as (provider, played):
        for currency in ("UGX", "CLF", "XAU"):
            with pytest.raises(UnreadableCallback, match=currency):
                read("payment_intent.succeeded", INTENT | {"currency": currency.lower()})
            with pytest.raises(Invalid, match=currency):
                await provider.start(msgspec.structs.replace(CHARGE, currency=currency))
    assert played.asked == []


@pytest.mark.parametrize(
    "metadata", [{}, {"order_id": ""}, {"order_id": "4711"}, {"order_id": ORDER.upper()}]
)
def test_payments_of_other_shops_of_the_account(metadata: dict[str, str]) -> None:
    assert read("payment_intent.succeeded", INTENT | {"metadata": metadata}) is None
    assert read("charge.refunded", STRIPE_CHARGE | {"metadata": metadata}) is None


def test_a_charge_without_an_intent_is_not_of_an_order() -> None:
    assert read("charge.refunded", STRIPE_CHARGE | {"payment_intent": None}) is None


def test_a_refund_that_failed_is_told_to_the_operators(caplog: pytest.LogCaptureFixture) -> None:
    assert read("refund.failed", {"id": "re_1", "object": "refund"}) is None
    assert [(r.levelno, getattr(r, "action", "")) for r in caplog.records] == [
        (logging.ERROR, "refund_failed")
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"amount_received": 258.0},
        {"amount_received": "25800"},
        {"amount_received": -1},
        {"amount_received": 10**16},
        {"currency": 1},
        {"currency": "cnyy"},
        {"metadata": {"order_id": 1}},
        {"id": ""},
    ],
)
def test_intents_that_cannot_be_taken_in(changes: dict[str, Any]) -> None:
    with pytest.raises(UnreadableCallback):
        read("payment_intent.succeeded", INTENT | changes)


def test_a_refund_of_less_than_nothing() -> None:
    with pytest.raises(UnreadableCallback):
        read("charge.refunded", STRIPE_CHARGE, {"amount_refunded": 25801})


def test_while_a_secret_is_rolled_stripe_signs_with_both() -> None:
    body = SENDER.body(PAID)
    ours = SENDER.headers(body, NOON)["Stripe-Signature"]
    theirs = StripeSender("whsec_new").headers(body, NOON)["Stripe-Signature"]
    both = f"{theirs},{ours.partition(',')[2]},v0={'0' * 64}"
    assert SENDER.provider.read_callback({"Stripe-Signature": both}, body, NOON) is not None
    with pytest.raises(BadSignature):
        SENDER.provider.read_callback({"Stripe-Signature": theirs}, body, NOON)


def test_the_window_is_ours_not_the_librarys() -> None:
    """The library's own tolerance would hold the year 2026 against the machine's clock."""
    body = SENDER.body(PAID)
    then = datetime(2019, 7, 1, tzinfo=UTC)
    assert SENDER.provider.read_callback(SENDER.headers(body, then), body, then) is not None
    with pytest.raises(BadSignature, match="ahead"):
        SENDER.provider.read_callback(SENDER.headers(body, then + timedelta(days=1)), body, then)


@pytest.mark.parametrize("written", ["+{}", " {}", "{:_}"])
def test_timestamps_that_the_library_alone_would_take(written: str) -> None:
    body = SENDER.body(PAID)
    seconds = int(NOON.timestamp())
    header = SENDER.headers(body, NOON)["Stripe-Signature"].replace(str(seconds), written.format(seconds))
    assert stripe.WebhookSignature.verify_header(body, header, STRIPE_SECRET)
    with pytest.raises(BadSignature, match="not Unix seconds"):
        SENDER.provider.read_callback({"Stripe-Signature": header}, body, NOON)


@pytest.mark.parametrize("method", ["card", "alipay"])
async def test_start_makes_an_intent_of_the_order(method: str) -> None:
    async with asking(answer(payment_method_types=[method])) as (provider, played):
        started = await provider.start(msgspec.structs.replace(CHARGE, method=method))
    assert started == Started("client_secret", "pi_1_secret_2")
    (asked,) = played.asked
    assert (asked.method, asked.path) == ("POST", "/v1/payment_intents")
    assert asked.headers["Idempotency-Key"] == ORDER
    assert asked.headers["Authorization"] == "Bearer sk_test_1"
    assert form(played) == {
        "amount": "25800",
        "currency": "cny",
        "allowed_payment_method_types[0]": method,
        "description": "Kettle × 2",
        "metadata[order_id]": ORDER,
        "metadata[order_number]": CHARGE.number,
    }


async def test_a_method_that_stripe_filters_out() -> None:
    async with asking(answer(payment_method_types=["link"])) as (provider, _):
        with pytest.raises(PaymentRefused, match="card cannot be used for CNY"):
            await provider.start(CHARGE)


async def test_methods_of_others() -> None:
    async with asking(answer()) as (provider, played):
        with pytest.raises(Invalid, match="wechat"):
            await provider.start(msgspec.structs.replace(CHARGE, method="wechat"))
    assert played.asked == []


async def test_refund_gives_a_payment_back_once() -> None:
    refund = Answer(200, b'{"id": "re_1", "object": "refund", "status": "succeeded"}')
    async with asking(refund) as (provider, played):
        assert await provider.refund(CHARGE, "pi_1", "paid after the order expired") == Refunded("re_1")
    (asked,) = played.asked
    assert (asked.path, asked.headers["Idempotency-Key"]) == ("/v1/refunds", "refund-of-pi_1")
    assert form(played) == {
        "payment_intent": "pi_1",
        "amount": "25800",
        "metadata[order_id]": ORDER,
        "metadata[reason]": "paid after the order expired",
    }


async def test_a_refund_that_is_on_its_way_is_not_final() -> None:
    async with asking(refund_of("pending")) as (provider, _):
        assert await provider.refund(CHARGE, "pi_1", "") == Refunded("re_1", final=False)


async def test_a_refund_that_was_on_its_way_is_final_once_it_is_there() -> None:
    """Stripe repeats the first answer to a key; the refund itself says how it stands."""
    async with asking(refund_of("pending"), refund_of("succeeded")) as (provider, played):
        assert await provider.refund(CHARGE, "pi_1", "") == Refunded("re_1")
    assert [(a.method, a.path) for a in played.asked] == [
        ("POST", "/v1/refunds"),
        ("GET", "/v1/refunds/re_1"),
    ]


@pytest.mark.parametrize("status", ["failed", "canceled"])
@pytest.mark.parametrize("at_first", ["pending", "failed"])
async def test_a_refund_that_fails(at_first: str, status: str) -> None:
    async with asking(refund_of(at_first), refund_of(status)) as (provider, _):
        with pytest.raises(PaymentRefused, match=f"re_1 {status}"):
            await provider.refund(CHARGE, "pi_1", "")


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([("re_2", 25800, "succeeded")], Refunded("re_2")),
        ([("re_2", 25800, "pending")], Refunded("re_2", final=False)),
        ([("re_3", 15800, "succeeded"), ("re_2", 10000, "succeeded")], Refunded("re_3")),
        ([("re_3", 25800, "failed"), ("re_2", 25800, "succeeded")], Refunded("re_2")),
    ],
    ids=["whole", "on-its-way", "in-parts", "at-the-second-try"],
)
async def test_what_was_given_back_before_counts(
    before: list[tuple[str, int, str]], expected: Refunded
) -> None:
    """By the merchant in the Dashboard, or by a request whose key Stripe has forgotten since."""
    async with asking(error(400, code="charge_already_refunded"), refunds_of(*before)) as (provider, played):
        assert await provider.refund(CHARGE, "pi_1", "") == expected
    assert [(a.method, a.path) for a in played.asked] == [("POST", "/v1/refunds"), ("GET", "/v1/refunds")]


@pytest.mark.parametrize("before", [[], [("re_2", 10000, "succeeded")], [("re_2", 25800, "failed")]])
async def test_a_refund_that_is_refused(before: list[tuple[str, int, str]]) -> None:
    async with asking(error(400), refunds_of(*before)) as (provider, _):
        with pytest.raises(PaymentRefused, match="No such thing"):
            await provider.refund(CHARGE, "pi_1", "")


def refund_of(status: str) -> Answer:
    return Answer(200, orjson.dumps({"id": "re_1", "object": "refund", "status": status}))


def refunds_of(*found: tuple[str, int, str]) -> Answer:
    """The newest first."""
    of = [{"id": i, "object": "refund", "amount": units, "status": status} for i, units, status in found]
    return Answer(200, orjson.dumps({"object": "list", "has_more": False, "data": of}))


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
async def test_a_clear_no(status: int) -> None:
    async with asking(error(status)) as (provider, played):
        with pytest.raises(PaymentRefused, match="No such thing"):
            await provider.start(CHARGE)
    assert len(played.asked) == 1


@pytest.mark.parametrize(
    "given",
    [
        error(409, code="idempotency_key_in_use"),
        error(429),
        error(500, "api_error"),
        Answer(502, b"<html>"),
        Answer(200, b"<html>"),
        Answer(200, b'{"id": "pi_1"', cut=True),
    ],
)
async def test_no_clear_answer(given: Answer) -> None:
    async with asking(given) as (provider, _):
        with pytest.raises(Unavailable):
            await provider.start(CHARGE)


async def test_nobody_listens() -> None:
    provider = StripeProvider("sk_test_1", STRIPE_SECRET, 300, 5, api_url="http://127.0.0.1:1", retries_max=0)
    with pytest.raises(Unavailable):
        await provider.start(CHARGE)
    await provider.close()


async def test_a_retry_is_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe.HTTPClient, "INITIAL_DELAY", 0)
    monkeypatch.setattr(stripe.HTTPClient, "MAX_DELAY", 0)
    async with asking(error(500, "api_error"), answer(), retries_max=1) as (provider, played):
        await provider.start(CHARGE)
    first, second = played.asked
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"] == ORDER
    assert first.body == second.body


async def test_close_without_having_asked() -> None:
    await StripeProvider("sk_test_1", STRIPE_SECRET, 300, 5).close()
