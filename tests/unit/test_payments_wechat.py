"""WeChat Pay: its notifications, and what is sent to it, over real HTTP to a server that plays it."""

import base64
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from api.payments.wechat import WeChatProvider, order_id_of, trade_no_of
from api.payments.wechat_keys import PlatformKey, platform_keys
from contracts.errors import BadSignature, Invalid, PaymentRefused, Unavailable, UnreadableCallback
from contracts.payments import PaymentNotice, Refunded, Started
from tests.harness import NOON
from tests.unit.payment_senders import (
    CHARGE,
    MCHID,
    MERCHANT_KEY,
    NOTIFY_URL,
    ORDER,
    PAID,
    PLATFORM_KEY,
    PLATFORM_KEY_ID,
    WeChatSender,
    certificate,
    wechat,
)
from tests.unit.payment_servers import Answer, Asked, Played, playing

SENDER = WeChatSender()
TRANSACTION = {
    "mchid": MCHID, "out_trade_no": trade_no_of(ORDER), "transaction_id": "4200001", "trade_state": "SUCCESS",
    "success_time": "2026-11-11T20:00:00+08:00", "amount": {"total": 25800, "payer_total": 25300, "currency": "CNY"},
}  # fmt: skip
REFUND = {
    "mchid": MCHID, "out_trade_no": trade_no_of(ORDER), "transaction_id": "4200001", "refund_status": "SUCCESS",
    "out_refund_no": "refund-of-4200001", "success_time": "2026-11-11T20:00:00+08:00",
    "amount": {"total": 25800, "refund": 10000, "payer_refund": 9000},
}  # fmt: skip
SERIAL = 0x5A467448AF5A7CCAC89F6D64DCCC6E96B76C174F


def read(body: bytes, sender: WeChatSender = SENDER) -> PaymentNotice | None:
    return sender.provider.read_callback(sender.headers(body, NOON), body, NOON)


def test_paid_counts_what_the_order_cost_not_what_coupons_left() -> None:
    notice = read(SENDER.event("TRANSACTION.SUCCESS", TRANSACTION))
    assert notice is not None
    assert (notice.outcome, notice.amount, notice.reference) == ("paid", Decimal("258.00"), "4200001")
    assert notice.occurred_at == NOON


def test_refunded_counts_this_refund() -> None:
    notice = read(SENDER.event("REFUND.SUCCESS", REFUND))
    assert notice is not None
    assert (notice.outcome, notice.amount, notice.currency) == ("refunded", Decimal("100.00"), "CNY")


def test_another_currency_is_told_as_it_is() -> None:
    told = TRANSACTION | {"amount": {"total": 500, "currency": "JPY"}}
    notice = read(SENDER.event("TRANSACTION.SUCCESS", told))
    assert notice is not None
    assert (notice.amount, notice.currency) == (Decimal(500), "JPY")


@pytest.mark.parametrize(
    "changes", [{"out_trade_no": "4711"}, {"out_trade_no": ORDER}, {"mchid": "1"}, {"out_trade_no": ""}]
)
def test_what_else_the_merchant_sells(changes: dict[str, Any]) -> None:
    assert read(SENDER.event("TRANSACTION.SUCCESS", TRANSACTION | changes)) is None
    assert read(SENDER.event("REFUND.SUCCESS", REFUND | changes)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": {"total": 258.0}},
        {"amount": {"total": "25800"}},
        {"amount": {"total": -1}},
        {"amount": {"total": 25800, "currency": "XXX"}},
        {"amount": None},
        {"trade_state": "NOTPAY"},
        {"success_time": "2026-11-11T20:00:00"},
        {"transaction_id": ""},
    ],
)
def test_transactions_that_cannot_be_taken_in(changes: dict[str, Any]) -> None:
    with pytest.raises(UnreadableCallback):
        read(SENDER.event("TRANSACTION.SUCCESS", TRANSACTION | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"associated_data": "refund"},
        {"associated_data": None},
        {"nonce": "fdasfjihihii"},
        {"nonce": "short"},
        {"nonce": "日" * 4},
        {"ciphertext": "AAAA" * 10},
        {"ciphertext": "A"},
        {"ciphertext": "日"},
        {"ciphertext": ""},
        {"algorithm": "AEAD_SM4_GCM"},
    ],
)
def test_what_cannot_be_decrypted(changes: dict[str, Any]) -> None:
    with pytest.raises(UnreadableCallback):
        read(SENDER.event("TRANSACTION.SUCCESS", TRANSACTION, **changes))


@pytest.mark.parametrize("status", ["ABNORMAL", "CLOSED"])
def test_a_refund_that_failed_is_told_to_the_operators(status: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read(SENDER.event(f"REFUND.{status}", REFUND | {"refund_status": status})) is None
    (record,) = caplog.records
    assert (record.levelno, getattr(record, "action", "")) == (logging.ERROR, "refund_failed")
    assert "refund-of-4200001" in record.getMessage()


def test_the_library_reads_the_same() -> None:
    body = SENDER.event("TRANSACTION.SUCCESS", TRANSACTION)
    headers = SENDER.headers(body, NOON)
    assert wechat()._client.callback(headers, body)["resource"] == TRANSACTION


def test_probes_are_refused() -> None:
    """WeChat Pay sends signatures that begin so to see whether they are verified at all."""
    body = SENDER.body(PAID)
    headers = dict(SENDER.headers(body, NOON))
    headers["Wechatpay-Signature"] = "WECHATPAY/SIGNTEST/" + headers["Wechatpay-Signature"]
    with pytest.raises(BadSignature):
        SENDER.provider.read_callback(headers, body, NOON)


@pytest.mark.parametrize("kind", ["WECHATPAY2-SM2-WITH-SM3", "", "NONE"])
def test_other_kinds_of_signatures(kind: str) -> None:
    body = SENDER.body(PAID)
    headers = {**SENDER.headers(body, NOON), "Wechatpay-Signature-Type": kind}
    with pytest.raises(BadSignature, match="WECHATPAY2-SHA256-RSA2048"):
        SENDER.provider.read_callback(headers, body, NOON)


def test_a_notification_need_not_name_the_kind() -> None:
    body = SENDER.body(PAID)
    headers = {k: v for k, v in SENDER.headers(body, NOON).items() if k != "Wechatpay-Signature-Type"}
    assert SENDER.provider.read_callback(headers, body, NOON) is not None


@pytest.mark.parametrize("serial", ["", "0", "PUB_KEY_ID_1", "not hexadecimal", "5A46", "日"])
def test_an_unknown_key_is_asked_of_nobody(serial: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = WeChatSender(PLATFORM_KEY, serial)
    monkeypatch.setattr("requests.get", lambda **_: pytest.fail("connected"))
    with pytest.raises(BadSignature, match="serial"):
        read(sender.body(PAID), sender)


def certificates(*made: tuple[rsa.RSAPrivateKey, int, int]) -> dict[str, PlatformKey]:
    """Keys of certificates: (key, serial, days from the day before noon)."""
    day = NOON - timedelta(days=1)
    return platform_keys("", b"", b"".join(certificate(key, serial, day, days) for key, serial, days in made))


@pytest.mark.parametrize("written", ["{:X}", "{:x}", "0{:X}"])
def test_a_platform_certificate_is_known_by_its_serial_number(written: str) -> None:
    sender = WeChatSender(PLATFORM_KEY, written.format(SERIAL), certificates((PLATFORM_KEY, SERIAL, 30)))
    assert read(sender.body(PAID), sender) is not None


def test_while_keys_are_replaced_each_counts_by_its_own_name() -> None:
    keys = certificates((MERCHANT_KEY, SERIAL, 30)) | {
        PLATFORM_KEY_ID: PlatformKey(PLATFORM_KEY.public_key())
    }
    old, new = (
        WeChatSender(MERCHANT_KEY, f"{SERIAL:X}", keys),
        WeChatSender(PLATFORM_KEY, PLATFORM_KEY_ID, keys),
    )
    assert read(old.body(PAID), old) == read(new.body(PAID), new) is not None
    crossed = WeChatSender(MERCHANT_KEY, PLATFORM_KEY_ID, keys)
    with pytest.raises(BadSignature):
        read(crossed.body(PAID), crossed)


def test_a_certificate_counts_while_it_is_valid() -> None:
    sender = WeChatSender(PLATFORM_KEY, f"{SERIAL:X}", certificates((PLATFORM_KEY, SERIAL, 2)))
    body = sender.body(PAID)
    for days, valid in ((-2, False), (0, True), (2, False)):
        now = NOON + timedelta(days=days)
        if valid:
            assert sender.provider.read_callback(sender.headers(body, now), body, now) is not None
        else:
            with pytest.raises(BadSignature, match="valid"):
                sender.provider.read_callback(sender.headers(body, now), body, now)


@given(order=st.uuids().map(str))
def test_trade_numbers_are_order_ids(order: str) -> None:
    number = trade_no_of(order)
    assert re.fullmatch(r"[0-9a-zA-Z_*-]{6,32}", number)
    assert order_id_of(number) == order


def signed(status: int, of: dict[str, Any], key: rsa.RSAPrivateKey = PLATFORM_KEY) -> Answer:
    body = orjson.dumps(of)
    return Answer(status, body, WeChatSender(key).headers(body, NOON))


@asynccontextmanager
async def asking(
    *answers: Answer | Callable[[Asked], Answer],
) -> AsyncIterator[tuple[WeChatProvider, Played]]:
    async with playing(*answers) as played:
        yield to(played.url), played


def to(url: str) -> WeChatProvider:
    """A provider whose library asks there: its address cannot be configured."""
    provider = wechat()
    provider._client._core._gate_way = url
    provider._client._core._proxy = {"http": "", "https": ""}
    return provider


def signed_by_merchant(asked: Asked) -> bool:
    """Verifies the Authorization header as WeChat Pay does; raises if it does not hold."""
    scheme, _, text = asked.headers["Authorization"].partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', text))
    message = "\n".join(
        [asked.method, asked.path, fields["timestamp"], fields["nonce_str"], asked.body.decode(), ""]
    )
    MERCHANT_KEY.public_key().verify(
        base64.b64decode(fields["signature"]), message.encode(), padding.PKCS1v15(), SHA256()
    )
    return (scheme, fields["mchid"], fields["serial_no"]) == (
        "WECHATPAY2-SHA256-RSA2048",
        MCHID,
        "5F1C72E2A8931B72",
    )


async def test_start_asks_for_a_qr_code() -> None:
    url = "weixin://wxpay/bizpayurl?pr=p4lpSuKzz"
    async with asking(signed(200, {"code_url": url})) as (provider, played):
        assert await provider.start(CHARGE) == Started("qr", url)
    (asked,) = played.asked
    assert (asked.method, asked.path) == ("POST", "/v3/pay/transactions/native")
    assert signed_by_merchant(asked)
    assert asked.headers["Wechatpay-Serial"] == PLATFORM_KEY_ID
    assert orjson.loads(asked.body) == {
        "appid": "wxd678efh567hg6787",
        "mchid": MCHID,
        "notify_url": NOTIFY_URL,
        "description": "Kettle × 2",
        "out_trade_no": trade_no_of(ORDER),
        "amount": {"total": 25800, "currency": "CNY"},
        "time_expire": "2026-11-11T12:15:00+00:00",
    }


async def test_a_description_is_cut_to_what_is_taken() -> None:
    async with asking(signed(200, {"code_url": "weixin://"})) as (provider, played):
        await provider.start(msgspec.structs.replace(CHARGE, description="茶" * 200))
    assert orjson.loads(played.asked[0].body)["description"] == "茶" * 127


@pytest.mark.parametrize(("amount", "currency"), [("258.00", "USD"), ("0.001", "CNY")])
async def test_amounts_that_wechat_does_not_take(amount: str, currency: str) -> None:
    charge = msgspec.structs.replace(CHARGE, amount=Decimal(amount), currency=currency)
    async with asking(signed(200, {})) as (provider, played):
        with pytest.raises(Invalid):
            await provider.start(charge)
        with pytest.raises(Invalid):
            await provider.refund(charge, "4200001", "")
    assert played.asked == []


async def test_refund_gives_a_payment_back_once() -> None:
    async with asking(signed(200, {"refund_id": "503", "status": "PROCESSING"})) as (provider, played):
        assert await provider.refund(CHARGE, "4200001", "付款时订单已过期" * 20) == Refunded(
            "503", final=False
        )
    (asked,) = played.asked
    assert asked.path == "/v3/refund/domestic/refunds"
    assert signed_by_merchant(asked)
    assert orjson.loads(asked.body) == {
        "notify_url": NOTIFY_URL,
        "out_refund_no": "refund-of-4200001",
        "transaction_id": "4200001",
        "reason": "付款时订单已过期" * 10,
        "amount": {"refund": 25800, "total": 25800, "currency": "CNY"},
    }


async def test_a_reference_that_is_not_of_wechat() -> None:
    async with asking(signed(200, {})) as (provider, played):
        with pytest.raises(Invalid, match="transaction id"):
            await provider.refund(CHARGE, "x" * 60, "")
    assert played.asked == []


@pytest.mark.parametrize("status", ["CLOSED", "ABNORMAL"])
async def test_a_refund_that_fails_at_once(status: str) -> None:
    async with asking(signed(200, {"refund_id": "503", "status": status})) as (provider, _):
        with pytest.raises(PaymentRefused, match=f"503 is {status}"):
            await provider.refund(CHARGE, "4200001", "")


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_clear_no(status: int) -> None:
    refusal = Answer(status, b'{"code": "PARAM_ERROR", "message": "no"}')
    async with asking(refusal) as (provider, _):
        with pytest.raises(PaymentRefused, match="PARAM_ERROR"):
            await provider.start(CHARGE)


@pytest.mark.parametrize(
    "given",
    [
        Answer(429, b'{"code": "FREQUENCY_LIMITED"}'),
        Answer(500, b'{"code": "SYSTEM_ERROR"}'),
        Answer(200, b'{"code_url": "weixin://"}'),
        Answer(200, b'{"code_url": "weixin://"', cut=True),
        signed(200, {"code_url": "weixin://"}, MERCHANT_KEY),
        signed(200, {"prepay_id": "1"}),
        signed(200, {"more": orjson.Fragment(b"[" * 20_000 + b"]" * 20_000)}),
    ],
    ids=["limited", "broken", "unsigned", "cut", "forged", "strange", "deep"],
)
async def test_no_clear_answer(given: Answer) -> None:
    async with asking(given) as (provider, _):
        with pytest.raises(Unavailable):
            await provider.start(CHARGE)


async def test_nobody_listens() -> None:
    provider = to("http://127.0.0.1:1")
    with pytest.raises(Unavailable):
        await provider.start(CHARGE)
    await provider.close()


def test_the_acknowledgement_is_what_wechat_waits_for() -> None:
    acknowledgement = SENDER.provider.acknowledgement
    assert acknowledgement.status == 200
    assert orjson.loads(acknowledgement.body)["code"] == "SUCCESS"
    assert acknowledgement.media_type == "application/json"
