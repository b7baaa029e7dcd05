"""The sandbox provider: its signature, its events, and how its buyers behave."""

import hashlib
import hmac
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.payments.behaviour import Behaviour, Callback, Shares, Timing, behaviour_of, callbacks
from api.payments.sandbox import HEADER, SandboxEvent, SandboxProvider, sign, verify
from contracts.errors import BadSignature, SettingsError, UnreadableCallback
from contracts.payments import Charge, PaymentNotice, Refunded, Started, mismatch
from tests.harness import NOON, uuid_of
from tests.unit.payment_senders import CHARGE, ORDER, PAID, SANDBOX_SECRET, WINDOW_S, SandboxSender

OLD, NEW = "the secret until today, 32 bytes or more", "the secret from today, 32 bytes or more"
SHARES = Shares(declines=0.1, pays_twice=0.1, pays_late=0.1, pays_wrong_amount=0.1, never_pays=0.1)
TIMING = Timing()


def read(provider: SandboxProvider, body: bytes, header: str) -> PaymentNotice | None:
    return provider.read_callback({HEADER: header}, body, NOON)


def test_the_signature_is_hmac_sha256_of_timestamp_and_body() -> None:
    seconds = int(NOON.timestamp())
    expected = hmac.new(OLD.encode(), f"{seconds}.body".encode(), hashlib.sha256).hexdigest()
    assert sign(b"body", [OLD], NOON) == f"t={seconds},v1={expected}"


def test_while_a_secret_is_replaced_either_is_taken() -> None:
    body = SandboxSender().body(PAID)
    both = SandboxProvider([NEW, OLD], WINDOW_S)
    assert read(both, body, sign(body, [OLD], NOON)) is not None
    assert read(both, body, sign(body, [NEW], NOON)) is not None
    assert read(both, body, sign(body, [OLD, NEW], NOON)) is not None
    assert read(SandboxProvider([NEW], WINDOW_S), body, sign(body, [OLD, NEW], NOON)) is not None
    with pytest.raises(BadSignature):
        read(SandboxProvider([NEW], WINDOW_S), body, sign(body, [OLD], NOON))


def test_the_same_signature_twice_is_no_matter() -> None:
    header = sign(b"body", [OLD, OLD], NOON)
    assert header.count("v1=") == 2
    verify(b"body", header, [OLD], NOON, WINDOW_S)


def test_other_schemes_are_skipped_but_do_not_count() -> None:
    header = sign(b"body", [OLD], NOON)
    verify(b"body", "v0=00," + header + ",v2=11", [OLD], NOON, WINDOW_S)
    with pytest.raises(BadSignature):
        verify(b"body", header.replace("v1=", "v0="), [OLD], NOON, WINDOW_S)


def test_signatures_are_bounded() -> None:
    header = sign(b"body", [OLD], NOON)
    with pytest.raises(BadSignature):
        verify(b"body", header + ",v1=00" * 100, [OLD], NOON, WINDOW_S)


def test_a_second_timestamp_is_refused() -> None:
    header = sign(b"body", [OLD], NOON)
    with pytest.raises(BadSignature):
        verify(b"body", f"{header},t={int(NOON.timestamp())}", [OLD], NOON, WINDOW_S)


def test_without_a_secret_nothing_is_believed() -> None:
    with pytest.raises(BadSignature):
        verify(b"body", sign(b"body", [""], NOON), [], NOON, WINDOW_S)


def test_the_window_is_as_configured() -> None:
    header = sign(b"body", [OLD], NOON)
    verify(b"body", header, [OLD], NOON + timedelta(seconds=10), 10)
    with pytest.raises(BadSignature, match="11 s old, more than 10 s"):
        verify(b"body", header, [OLD], NOON + timedelta(seconds=11), 10)
    with pytest.raises(BadSignature, match="11 s ahead"):
        verify(b"body", header, [OLD], NOON - timedelta(seconds=11), 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": 258.0},
        {"amount": 258},
        {"amount": "2.58E+2"},
        {"amount": "-1.00"},
        {"amount": ""},
        {"currency": "cny"},
        {"currency": None},
        {"order_id": "order-1"},
        {"occurred_at": "2026-11-11T12:00:00"},
        {"payment_id": ""},
    ],
)
def test_events_that_cannot_be_taken_in(changes: dict[str, Any]) -> None:
    sender = SandboxSender()
    body = sender.event(PAID, **changes)
    with pytest.raises(UnreadableCallback):
        sender.provider.read_callback(sender.headers(body, NOON), body, NOON)


def test_fields_of_a_newer_sender_are_skipped() -> None:
    sender = SandboxSender()
    body = sender.event(PAID, fee="0.30")
    assert sender.provider.read_callback(sender.headers(body, NOON), body, NOON) is not None


async def test_start_and_refund_need_nobody() -> None:
    provider = SandboxProvider([OLD], WINDOW_S)
    assert await provider.start(CHARGE) == Started("sandbox", ORDER)
    assert await provider.refund(CHARGE, "payment-1", "too late") == Refunded("refund-of-payment-1")
    assert provider.acknowledgement.status == 204
    await provider.close()


@given(order=st.uuids().map(str), seed=st.integers())
def test_a_behaviour_is_of_the_order_alone(order: str, seed: int) -> None:
    assert behaviour_of(order, SHARES, seed) is behaviour_of(order, SHARES, seed)
    assert behaviour_of(order, Shares(), seed) is Behaviour.PAYS
    assert behaviour_of(order, Shares(never_pays=1), seed) is Behaviour.NEVER_PAYS


def test_behaviours_come_in_their_shares() -> None:
    met = Counter(behaviour_of(uuid_of(number), SHARES, 1) for number in range(5000))
    assert met.keys() == set(Behaviour)
    assert all(400 < met[behaviour] < 600 for behaviour in set(Behaviour) - {Behaviour.PAYS})
    other = [behaviour_of(uuid_of(number), SHARES, 2) for number in range(5000)]
    assert other != [behaviour_of(uuid_of(number), SHARES, 1) for number in range(5000)]


def test_shares_from_text() -> None:
    assert Shares.parse("") == Shares()
    assert Shares.parse(" declines=0.25, never_pays=0.5,") == Shares(declines=0.25, never_pays=0.5)
    assert Shares.parse("declines=0.7,pays_late=0.1,pays_twice=0.2").total() == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("declines=0.6,pays_late=0.6", "sum up to 1.2"),
        ("declines=-0.1", "declines"),
        ("declines=1.1", "declines"),
        ("declines=nan", "declines"),
        ("declines=many", "declines"),
        ("declines", "declines"),
        ("declines=0.1,declines=0.1", "twice"),
        ("steals=0.1", "steals"),
        ("pays=0.5", "pays"),
    ],
)
def test_shares_that_are_none(text: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        Shares.parse(text)


def planned(behaviour: Behaviour, charge: Charge = CHARGE) -> list[Callback]:
    return list(callbacks(charge, behaviour, NOON, TIMING, 1))


def heard(event: SandboxEvent) -> PaymentNotice:
    """The notice that comes of an event, over the wire."""
    body = event.body()
    notice = SandboxProvider([SANDBOX_SECRET], WINDOW_S).read_callback(
        {HEADER: sign(body, [SANDBOX_SECRET], NOON)}, body, NOON
    )
    assert notice is not None
    return notice


def test_pays() -> None:
    (callback,) = planned(Behaviour.PAYS)
    notice = heard(callback.event)
    assert (notice.order_id, notice.outcome) == (ORDER, "paid")
    assert mismatch(notice, CHARGE.amount, CHARGE.currency) is None
    assert TIMING.pays_after_s_min <= callback.delay_s <= TIMING.pays_after_s_max
    assert notice.occurred_at == NOON + timedelta(seconds=callback.delay_s)


def test_declines() -> None:
    (callback,) = planned(Behaviour.DECLINES)
    assert heard(callback.event).outcome == "failed"


def test_pays_twice() -> None:
    first, again, second = planned(Behaviour.PAYS_TWICE)
    assert first.event == again.event
    assert first.delay_s < again.delay_s < second.delay_s
    notices = heard(first.event), heard(second.event)
    assert notices[0].event_id != notices[1].event_id
    assert notices[0].reference != notices[1].reference
    assert all(mismatch(notice, CHARGE.amount, CHARGE.currency) is None for notice in notices)


def test_pays_late() -> None:
    (callback,) = planned(Behaviour.PAYS_LATE)
    assert heard(callback.event).occurred_at == CHARGE.expires_at + timedelta(seconds=TIMING.late_after_s)
    expired = msgspec.structs.replace(CHARGE, expires_at=NOON - timedelta(hours=1))
    assert planned(Behaviour.PAYS_LATE, expired)[0].delay_s == TIMING.late_after_s


@pytest.mark.parametrize(
    ("amount", "currency", "paid"),
    [("258.00", "CNY", "257.99"), ("0.01", "CNY", "0.02"), ("500", "JPY", "499"), ("5.120", "KWD", "5.119")],
)
def test_pays_the_wrong_amount(amount: str, currency: str, paid: str) -> None:
    charge = msgspec.structs.replace(CHARGE, amount=Decimal(amount), currency=currency)
    (callback,) = planned(Behaviour.PAYS_WRONG_AMOUNT, charge)
    notice = heard(callback.event)
    assert (notice.outcome, notice.amount) == ("paid", Decimal(paid))
    assert mismatch(notice, charge.amount, currency) == "amount"


def test_never_pays() -> None:
    assert planned(Behaviour.NEVER_PAYS) == []


@given(order=st.uuids().map(str), behaviour=st.sampled_from(Behaviour), seed=st.integers())
def test_a_plan_is_in_order_and_the_same_each_time(order: str, behaviour: Behaviour, seed: int) -> None:
    charge = msgspec.structs.replace(CHARGE, order_id=order)
    first = callbacks(charge, behaviour, NOON, TIMING, seed)
    assert first == callbacks(charge, behaviour, NOON, TIMING, seed)
    assert [c.delay_s for c in first] == sorted(c.delay_s for c in first)
