"""The sandbox provider: signed callbacks as a real one sends them, and no money. For demos, tests and clients' tests."""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from api.payments.provider import (
    Acknowledgement,
    check_time,
    lower_case,
    notice_of,
    refund_key,
    split_signature,
    text_of,
)
from contracts.errors import BadSignature, UnreadableCallback
from contracts.messages import Amount, Currency, Moment, Uuid
from contracts.payments import Charge, Outcome, PaymentNotice, ProviderId, Refunded, Started

NAME = "sandbox"
HEADER = "Sluiceway-Signature"


class SandboxEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a callback: what became of a payment."""

    id: ProviderId
    type: Literal["payment.paid", "payment.failed", "payment.refunded"]
    order_id: Uuid
    payment_id: ProviderId
    amount: Amount
    currency: Currency
    occurred_at: Moment

    def body(self) -> bytes:
        return msgspec.json.encode(self)


class _Head(msgspec.Struct):
    type: str


_OUTCOMES: dict[str, Outcome] = {
    "payment.paid": "paid",
    "payment.failed": "failed",
    "payment.refunded": "refunded",
}
_head = msgspec.json.Decoder(_Head)
_event = msgspec.json.Decoder(SandboxEvent)


class SandboxProvider:
    """Takes callbacks signed with one of `secrets`; the first signs. `replay_window_s` is seconds, past and future."""

    name = NAME
    methods = frozenset({"wechat", "alipay", "card", "sandbox"})
    acknowledgement = Acknowledgement()

    def __init__(self, secrets: Sequence[str], replay_window_s: float) -> None:
        self._secrets = tuple(secrets)
        self._replay_window_s = replay_window_s

    def read_callback(self, headers: Mapping[str, str], body: bytes, now: datetime) -> PaymentNotice | None:
        text_of(body)
        header = lower_case(headers).get(HEADER.lower())
        if header is None:
            raise BadSignature(f"the header {HEADER} is missing")
        verify(body, header, self._secrets, now, self._replay_window_s)
        return _notice(body)

    async def start(self, charge: Charge) -> Started:
        return Started("sandbox", charge.order_id)

    async def refund(self, charge: Charge, reference: str, reason: str) -> Refunded:
        """Done always. The callback is sent by whoever plays the provider."""
        return Refunded(refund_key(reference))

    async def close(self) -> None:
        pass


def sign(body: bytes, secrets: Sequence[str], at: datetime) -> str:
    """The value of the header: HMAC-SHA256 (RFC 2104) over `<Unix seconds>.<body>`, one for each secret, in hex."""
    seconds = str(int(at.timestamp()))
    return ",".join([f"t={seconds}", *(f"v1={_mac(seconds, body, secret)}" for secret in secrets)])


def verify(body: bytes, header: str, secrets: Sequence[str], now: datetime, replay_window_s: float) -> None:
    """Raises BadSignature unless one of the header's signatures is by one of `secrets` and of now."""
    seconds, signatures = split_signature(header)
    check_time(seconds, now, replay_window_s)
    expected = [_mac(seconds, body, secret) for secret in secrets]
    if not any(hmac.compare_digest(mac, signature) for mac in expected for signature in signatures):
        raise BadSignature("the signature is not of this body by a secret known here")


def _mac(seconds: str, body: bytes, secret: str) -> str:
    return hmac.new(secret.encode(), seconds.encode() + b"." + body, hashlib.sha256).hexdigest()


def _notice(body: bytes) -> PaymentNotice | None:
    try:
        if _head.decode(body).type not in _OUTCOMES:
            return None
        event = _event.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UnreadableCallback(f"the event cannot be read: {error}") from error
    return notice_of(
        provider=NAME,
        event_id=event.id,
        order_id=event.order_id,
        outcome=_OUTCOMES[event.type],
        amount=Decimal(event.amount),
        currency=event.currency,
        occurred_at=event.occurred_at,
        reference=event.payment_id,
    )
