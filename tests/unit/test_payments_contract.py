"""What holds for callbacks of every payment provider: one suite, run on the sandbox, Stripe and WeChat Pay."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.payments.provider import CALLBACK_BYTES_MAX
from contracts.errors import BadSignature, UnreadableCallback
from contracts.payments import PaymentNotice
from tests.harness import NOON
from tests.unit.payment_senders import (
    CHARGE,
    PAID,
    WINDOW_S,
    SandboxSender,
    Sender,
    StripeSender,
    WeChatSender,
)

SENDERS: dict[str, Sender] = {"sandbox": SandboxSender(), "stripe": StripeSender(), "wechat": WeChatSender()}


@pytest.fixture(params=SENDERS)
def sender(request: pytest.FixtureRequest) -> Sender:
    return SENDERS[request.param]


def read(sender: Sender, body: bytes, headers: Mapping[str, str] | None = None) -> PaymentNotice | None:
    """What the provider reads at noon of what is signed at noon."""
    return sender.provider.read_callback(
        sender.headers(body, NOON) if headers is None else headers, body, NOON
    )


def refused(sender: Sender, body: bytes, headers: Mapping[str, str]) -> None:
    with pytest.raises(BadSignature):
        read(sender, body, headers)


@pytest.mark.parametrize("outcome", ["paid", "refunded"])
@pytest.mark.parametrize("amount", ["258.00", "0.01", "99999999.99"])
def test_a_payment_is_told(sender: Sender, outcome: str, amount: str) -> None:
    changes = {"provider": sender.provider.name, "outcome": outcome, "amount": Decimal(amount)}
    notice = msgspec.structs.replace(PAID, **changes)
    assert read(sender, sender.body(notice)) == notice


def test_another_amount_is_told_as_it_is(sender: Sender) -> None:
    notice = read(sender, sender.body(msgspec.structs.replace(PAID, amount=Decimal("257.99"))))
    assert notice is not None
    assert notice.amount == Decimal("257.99") != CHARGE.amount


def test_what_is_of_another_matter_is_none(sender: Sender) -> None:
    assert read(sender, sender.strange()) is None


def test_the_same_callback_again_is_the_same_event(sender: Sender) -> None:
    body = sender.body(PAID)
    first = read(sender, body)
    later = NOON + timedelta(seconds=30)
    assert first == sender.provider.read_callback(sender.headers(body, later), body, later)


@pytest.mark.parametrize("case", [str.upper, str.lower, str.title], ids=["upper", "lower", "title"])
def test_names_of_headers_count_in_any_case(sender: Sender, case: Callable[[str], str]) -> None:
    body = sender.body(PAID)
    headers = {case(name): value for name, value in sender.headers(body, NOON).items()}
    assert read(sender, body, headers) is not None


@pytest.mark.parametrize("seconds", [-WINDOW_S, WINDOW_S])
def test_the_window_ends_are_inside(sender: Sender, seconds: int) -> None:
    body = sender.body(PAID)
    headers = sender.headers(body, NOON + timedelta(seconds=seconds))
    assert read(sender, body, headers) is not None


@pytest.mark.parametrize("seconds", [-WINDOW_S - 1, WINDOW_S + 1, -86400, 86400])
def test_replayed_or_signed_ahead(sender: Sender, seconds: int) -> None:
    body = sender.body(PAID)
    refused(sender, body, sender.headers(body, NOON + timedelta(seconds=seconds)))


def test_a_moved_timestamp_breaks_the_signature(sender: Sender) -> None:
    body = sender.body(PAID)
    then, now = str(int(NOON.timestamp()) - 86400), str(int(NOON.timestamp()))
    old = sender.headers(body, NOON - timedelta(days=1))
    refused(sender, body, {name: value.replace(then, now) for name, value in old.items()})


def test_another_key(sender: Sender) -> None:
    body = sender.body(PAID)
    refused(sender, body, sender.wrong_key().headers(body, NOON))


def test_the_signature_of_another_body(sender: Sender) -> None:
    body = sender.body(PAID)
    refused(sender, body, sender.headers(sender.strange(), NOON))


def test_no_headers(sender: Sender) -> None:
    refused(sender, sender.body(PAID), {})


def test_each_header_is_needed(sender: Sender) -> None:
    body = sender.body(PAID)
    headers = sender.headers(body, NOON)
    for missing in headers.keys() - {"Wechatpay-Signature-Type"}:
        refused(sender, body, {name: value for name, value in headers.items() if name != missing})


SECONDS = int(NOON.timestamp())


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        "t=",
        "t=1,v1=",
        "é",
        "\udcff",
        "=,=,=",
        "\x00",
        "9" * 40,
        f"t={SECONDS},v1=",
        f"t={SECONDS},v1=é",
    ],
)
def test_headers_that_are_no_signature(sender: Sender, value: str) -> None:
    body = sender.body(PAID)
    for name in sender.headers(body, NOON):
        refused(sender, body, {**sender.headers(body, NOON), name: value})


def test_a_body_beyond_the_limit(sender: Sender) -> None:
    body = sender.body(PAID) + b" " * CALLBACK_BYTES_MAX
    refused(sender, body, sender.headers(body, NOON))


def test_a_body_at_the_limit(sender: Sender) -> None:
    body = sender.body(PAID).ljust(CALLBACK_BYTES_MAX)
    assert read(sender, body) is not None


def test_a_body_that_is_not_utf_8(sender: Sender) -> None:
    body = sender.body(PAID) + b"\xff"
    refused(sender, body, sender.headers(body, NOON))


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"{", b'{"id": 1}', b"[" * 100_000, b"\x00"])
def test_signed_but_not_an_event(sender: Sender, body: bytes) -> None:
    with pytest.raises(UnreadableCallback):
        read(sender, body)


@pytest.mark.parametrize("event_id", ["", "x" * 256, "a b", "a\x00b", "日"])
def test_event_ids_that_cannot_be_kept(sender: Sender, event_id: str) -> None:
    with pytest.raises(UnreadableCallback):
        read(sender, sender.body(msgspec.structs.replace(PAID, event_id=event_id)))


@pytest.mark.parametrize("name", SENDERS)
@settings(deadline=None)
@given(data=st.data())
def test_any_changed_byte_breaks_it(name: str, data: st.DataObject) -> None:
    sender = SENDERS[name]
    body = bytearray(sender.body(PAID))
    headers = sender.headers(bytes(body), NOON)
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    refused(sender, bytes(body), headers)


@pytest.mark.parametrize("name", SENDERS)
@settings(deadline=None)
@given(body=st.binary(max_size=200), values=st.lists(st.text(max_size=80), min_size=5, max_size=5))
def test_garbage_is_never_believed(name: str, body: bytes, values: list[str]) -> None:
    sender = SENDERS[name]
    names = sender.headers(b"{}", NOON)
    refused(sender, body, dict(zip(names, values, strict=False)))
