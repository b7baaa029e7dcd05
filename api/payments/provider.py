"""What a payment provider is: the Protocol that every payment method is served behind, and what they all need."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import msgspec

from contracts.errors import BadSignature, UnreadableCallback
from contracts.payments import Charge, PaymentNotice, Refunded, Started

CALLBACK_BYTES_MAX = 256 * 1024

_SECONDS = re.compile(r"[0-9]{1,12}\Z")
_SIGNATURES_MAX = 8


class Acknowledgement(msgspec.Struct, frozen=True):
    """The answer by which a provider knows that its callback was taken in and need not be sent again."""

    status: int = 204
    body: bytes = b""
    media_type: str | None = None


class PaymentProvider(Protocol):
    """One payment provider.

    `name` is the last part of its callbacks' path. `methods` are the payment methods of a checkout that it serves.
    """

    @property
    def name(self) -> str: ...

    @property
    def methods(self) -> frozenset[str]: ...

    @property
    def acknowledgement(self) -> Acknowledgement: ...

    def read_callback(self, headers: Mapping[str, str], body: bytes, now: datetime) -> PaymentNotice | None:
        """What a callback tells; None if it is the provider's, but about something else: acknowledge and forget it.

        Header names count in any case; `body` is as it came over the wire. Neither blocks nor connects to anything.
        Raises BadSignature (401) for whatever the provider cannot be shown to have sent within the replay window of
        `now`, UnreadableCallback (422) for what it did send, but that cannot be understood.
        """

    async def start(self, charge: Charge) -> Started:
        """Ask for a payment. Doing so again for the same order is the same payment.

        Raises PaymentRefused if the provider says no, Invalid for an amount it has no units for, Unavailable if it
        does not answer: whether it has heard is then unknown, and asking again is safe.
        """

    async def refund(self, charge: Charge, reference: str, reason: str) -> Refunded:
        """Give `charge.amount` of the payment `reference` back, once.

        Asking again for the same payment is the same refund, and tells where it is by then. A callback may tell the same.
        Raises as `start` does.
        """

    async def close(self) -> None:
        """Close what is open towards the provider."""


def lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


def text_of(body: bytes) -> str:
    """The body, if it can be a signed text. Raises BadSignature if it is too large or not UTF-8."""
    if len(body) > CALLBACK_BYTES_MAX:
        raise BadSignature(f"a callback has at most {CALLBACK_BYTES_MAX} bytes")
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise BadSignature("the body is not UTF-8, so it is not what was signed") from error


def check_time(seconds: str, now: datetime, replay_window_s: float) -> None:
    """Raises BadSignature if a signature's Unix seconds are not within the replay window of `now`, either way."""
    if not _SECONDS.match(seconds):
        raise BadSignature("the signature's timestamp is not Unix seconds")
    age_s = now.timestamp() - int(seconds)
    if abs(age_s) > replay_window_s:
        raise BadSignature(
            f"the signature is {abs(age_s):.0f} s {'old' if age_s > 0 else 'ahead'}, more than {replay_window_s:g} s; "
            "sign anew for each try, and compare the clocks"
        )


def split_signature(header: str) -> tuple[str, list[str]]:
    """Timestamp and v1 signatures of `t=<Unix seconds>,v1=<signature>[,v1=<signature>]`; other schemes are skipped.

    Several signatures are of several keys, while one replaces the other. Source: docs.stripe.com/webhooks, "Verify
    webhook signatures manually". Raises BadSignature for another form.
    """
    pairs = [item.partition("=") for item in header.split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    signatures = [value for name, _, value in pairs if name == "v1"]
    if len(times) != 1 or not 1 <= len(signatures) <= _SIGNATURES_MAX or not header.isascii():
        raise BadSignature("the signature must be: t=<Unix seconds>,v1=<signature>")
    return times[0], signatures


def refund_key(reference: str) -> str:
    """What names the one refund of a payment, so that asking for it again is the same refund."""
    return f"refund-of-{reference}"


def notice_of(**fields: Any) -> PaymentNotice:
    """The notice, its fields checked. Raises UnreadableCallback."""
    try:
        return msgspec.convert(fields, PaymentNotice)
    except msgspec.ValidationError as error:
        raise UnreadableCallback(f"the event cannot be taken in: {error}") from error
