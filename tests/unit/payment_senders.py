"""Those who send payment callbacks: each signs as its provider does, and has the provider that reads it."""

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Protocol

import orjson
import stripe
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from api.payments.provider import PaymentProvider
from api.payments.sandbox import HEADER, SandboxProvider, sign
from api.payments.stripe import StripeProvider
from api.payments.wechat import WeChatProvider, trade_no_of
from api.payments.wechat_keys import PlatformKey
from contracts.payments import Charge, PaymentNotice, minor_units
from tests.harness import NOON

ORDER = "01973f2a-5c80-8003-8000-0000000000a7"
WINDOW_S = 300
SANDBOX_SECRET = "a secret of the sandbox with 32 bytes or more"
STRIPE_SECRET = "whsec_a_secret_of_an_endpoint"
MERCHANT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PLATFORM_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PLATFORM_KEY_ID = "PUB_KEY_ID_0119000072912026111100000000000001"
APIV3_KEY = "0123456789abcdef0123456789abcdef"
MCHID = "1900007291"
NOTIFY_URL = "https://shop.example/v1/payments/callbacks/wechat"

CHARGE = Charge(
    order_id=ORDER,
    number="20261111-120000-0003-000000000167",
    amount=Decimal("258.00"),
    currency="CNY",
    method="card",
    description="Kettle × 2",
    expires_at=NOON + timedelta(minutes=15),
)
PAID = PaymentNotice(
    provider="any",
    event_id="evt_1",
    order_id=ORDER,
    outcome="paid",
    amount=Decimal("258.00"),
    currency="CNY",
    occurred_at=NOON,
    reference="pay_1",
)

Headers = Mapping[str, str]


class Sender(Protocol):
    """Signs what it sends at a moment. `body` says what a notice says; `strange` is of another matter."""

    provider: PaymentProvider

    def body(self, notice: PaymentNotice) -> bytes: ...

    def strange(self) -> bytes: ...

    def headers(self, body: bytes, at: datetime) -> Headers: ...

    def wrong_key(self) -> "Sender": ...


class SandboxSender:
    def __init__(self, secret: str = SANDBOX_SECRET) -> None:
        self.provider: PaymentProvider = SandboxProvider([SANDBOX_SECRET], WINDOW_S)
        self._secret = secret

    def body(self, notice: PaymentNotice) -> bytes:
        return self.event(notice)

    def event(self, notice: PaymentNotice, **changes: Any) -> bytes:
        values = {
            "id": notice.event_id,
            "type": f"payment.{notice.outcome}",
            "order_id": notice.order_id,
            "payment_id": notice.reference,
            "amount": f"{notice.amount:f}",
            "currency": notice.currency,
            "occurred_at": notice.occurred_at,
        }
        return orjson.dumps(values | changes)

    def strange(self) -> bytes:
        return self.event(PAID, type="payout.paid")

    def headers(self, body: bytes, at: datetime) -> Headers:
        return {HEADER: sign(body, [self._secret], at)}

    def wrong_key(self) -> Sender:
        return SandboxSender("another secret of the sandbox, also 32 bytes")


class StripeSender:
    def __init__(self, secret: str = STRIPE_SECRET) -> None:
        self.provider: PaymentProvider = StripeProvider("sk_test_1", STRIPE_SECRET, WINDOW_S, 1)
        self._secret = secret

    def body(self, notice: PaymentNotice) -> bytes:
        units = minor_units(notice.amount, 2)
        common = {"currency": notice.currency.lower(), "metadata": {"order_id": notice.order_id}}
        if notice.outcome == "refunded":
            charge = {"id": "ch_1", "amount_refunded": units, "payment_intent": notice.reference, **common}
            return self.event("charge.refunded", charge, id=notice.event_id, created=notice.occurred_at)
        received = units if notice.outcome == "paid" else 0
        intent = {"id": notice.reference, "amount": units, "amount_received": received, **common}
        kind = "succeeded" if notice.outcome == "paid" else "payment_failed"
        return self.event(f"payment_intent.{kind}", intent, id=notice.event_id, created=notice.occurred_at)

    def event(
        self,
        kind: str,
        of: dict[str, Any],
        before: dict[str, Any] | None = None,
        *,
        id: str = "evt_1",  # noqa: A002 - its name there
        created: datetime = NOON,
    ) -> bytes:
        data = {"object": of} | ({"previous_attributes": before} if before is not None else {})
        at = int(created.timestamp())
        return orjson.dumps({"id": id, "object": "event", "created": at, "type": kind, "data": data})

    def strange(self) -> bytes:
        return self.event("customer.created", {"id": "cus_1", "object": "customer"})

    def headers(self, body: bytes, at: datetime) -> Headers:
        text = body.decode("utf-8", "replace")
        header = stripe.WebhookSignature.generate_signature_header(text, self._secret, int(at.timestamp()))
        return {"Stripe-Signature": header}

    def wrong_key(self) -> Sender:
        return StripeSender("whsec_another_secret")


class WeChatSender:
    def __init__(
        self,
        key: rsa.RSAPrivateKey = PLATFORM_KEY,
        serial: str = PLATFORM_KEY_ID,
        keys: dict[str, PlatformKey] | None = None,
    ) -> None:
        self.provider: PaymentProvider = wechat(keys)
        self._key = key
        self._serial = serial

    def body(self, notice: PaymentNotice) -> bytes:
        units = minor_units(notice.amount, 2)
        of: dict[str, Any] = {
            "mchid": MCHID,
            "out_trade_no": trade_no_of(notice.order_id),
            "transaction_id": notice.reference,
            "success_time": notice.occurred_at.isoformat(),
        }
        if notice.outcome == "refunded":
            of |= {"refund_status": "SUCCESS", "amount": {"refund": units, "total": units}}
            return self.event("REFUND.SUCCESS", of, id=notice.event_id)
        of |= {
            "trade_state": "SUCCESS",
            "amount": {"total": units, "payer_total": units - 1, "currency": "CNY"},
        }
        return self.event("TRANSACTION.SUCCESS", of, id=notice.event_id)

    def event(self, kind: str, of: object, *, id: str = "evt_1", **changes: Any) -> bytes:  # noqa: A002
        nonce, about = "fdasfjihihih", "transaction"
        sealed = AESGCM(APIV3_KEY.encode()).encrypt(nonce.encode(), orjson.dumps(of), about.encode())
        resource = {
            "algorithm": "AEAD_AES_256_GCM",
            "ciphertext": base64.b64encode(sealed).decode(),
            "nonce": nonce,
            "associated_data": about,
        }
        envelope = {"id": id, "event_type": kind, "resource_type": "encrypt-resource"}
        return orjson.dumps(envelope | {"resource": resource | changes})

    def strange(self) -> bytes:
        return self.event("PAYSCORE.USER_OPEN_SERVICE", {"mchid": MCHID})

    def headers(self, body: bytes, at: datetime, nonce: str = "EcZ9Cmy4Xyx1i6Rl") -> Headers:
        seconds = str(int(at.timestamp()))
        message = seconds.encode() + b"\n" + nonce.encode() + b"\n" + body + b"\n"
        signature = self._key.sign(message, padding.PKCS1v15(), SHA256())
        return {
            "Wechatpay-Serial": self._serial,
            "Wechatpay-Timestamp": seconds,
            "Wechatpay-Nonce": nonce,
            "Wechatpay-Signature": base64.b64encode(signature).decode(),
            "Wechatpay-Signature-Type": "WECHATPAY2-SHA256-RSA2048",
        }

    def wrong_key(self) -> Sender:
        return WeChatSender(MERCHANT_KEY)


def wechat(keys: dict[str, PlatformKey] | None = None, timeout_s: float = 5) -> WeChatProvider:
    return WeChatProvider(
        mchid=MCHID,
        appid="wxd678efh567hg6787",
        apiv3_key=APIV3_KEY,
        private_key=pem_of(MERCHANT_KEY),
        certificate_serial="5F1C72E2A8931B72",
        platform_keys=keys or {PLATFORM_KEY_ID: PlatformKey(PLATFORM_KEY.public_key())},
        notify_url=NOTIFY_URL,
        replay_window_s=WINDOW_S,
        timeout_s=timeout_s,
    )


def pem_of(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def certificate(key: rsa.RSAPrivateKey, serial: int, valid_from: datetime, days: int) -> bytes:
    """A platform certificate as PEM."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Platform")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(serial).not_valid_before(valid_from.astimezone(UTC))
    return (
        builder.not_valid_after(valid_from + timedelta(days=days))
        .sign(key, SHA256())
        .public_bytes(Encoding.PEM)
    )
