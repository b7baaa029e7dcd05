"""Stripe: cards and Alipay by PaymentIntents, through Stripe's own library.

Source: docs.stripe.com, "Payment Intents", "Refunds", "Events" and "Currencies". Clients pay with the client secret;
callbacks are webhooks of snapshot events.
"""

import logging
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Literal, TypeVar

import aiohttp
import msgspec
import stripe

from api.payments.provider import (
    Acknowledgement,
    check_time,
    lower_case,
    notice_of,
    refund_key,
    split_signature,
    text_of,
)
from contracts.errors import BadSignature, Invalid, PaymentRefused, Unavailable, UnreadableCallback
from contracts.messages import is_uuid
from contracts.payments import (
    PLACES,
    Charge,
    Outcome,
    PaymentNotice,
    Refunded,
    Started,
    main_units,
    minor_units,
)

logger = logging.getLogger(__name__)

NAME = "stripe"
HEADER = "Stripe-Signature"

T = TypeVar("T")
Method = Literal["card", "alipay"]
_METHODS: dict[str, Method] = {"card": "card", "alipay": "alipay"}
_RETRIES_MAX = 2
_REFUNDS_MAX = 100  # of one payment, in one answer
_FAILED = ("failed", "canceled")

# Where Stripe's minor units are not those of ISO 4217; UGX is documented as having both none and two decimal places.
_PLACES = {code: n for code, n in PLACES.items() if n <= 3 and code != "UGX"} | {"ISK": 2, "MGA": 0}

_Units = Annotated[int, msgspec.Meta(ge=0, le=10**15)]
_Seconds = Annotated[int, msgspec.Meta(ge=0, le=4_102_444_800)]


class _Head(msgspec.Struct):
    id: str
    type: str


class _Intent(msgspec.Struct):
    id: str
    amount: _Units
    currency: str
    amount_received: _Units = 0
    metadata: dict[str, str] = {}


class _IntentData(msgspec.Struct):
    object: _Intent


class _IntentEvent(msgspec.Struct):
    id: str
    created: _Seconds
    data: _IntentData


class _Charge(msgspec.Struct):
    amount_refunded: _Units
    currency: str
    payment_intent: str | None = None
    metadata: dict[str, str] = {}


class _Before(msgspec.Struct, frozen=True):
    amount_refunded: _Units = 0


class _ChargeData(msgspec.Struct):
    object: _Charge
    previous_attributes: _Before = _Before()


class _ChargeEvent(msgspec.Struct):
    id: str
    created: _Seconds
    data: _ChargeData


_head = msgspec.json.Decoder(_Head)
_intent_event = msgspec.json.Decoder(_IntentEvent)
_charge_event = msgspec.json.Decoder(_ChargeEvent)


class StripeProvider:
    """Stripe by a secret key of its API and the signing secret of its webhook endpoint.

    `api_url` replaces Stripe's own. While Stripe replaces a signing secret, it signs with both.
    """

    name = NAME
    methods = frozenset(_METHODS)
    acknowledgement = Acknowledgement()

    def __init__(
        self,
        secret_key: str,
        webhook_secret: str,
        replay_window_s: float,
        timeout_s: float,
        *,
        api_url: str | None = None,
        retries_max: int = _RETRIES_MAX,
    ) -> None:
        self._webhook_secret = webhook_secret
        self._replay_window_s = replay_window_s
        self._http = stripe.AIOHTTPClient(timeout=aiohttp.ClientTimeout(total=timeout_s))
        self._client = stripe.StripeClient(
            secret_key,
            http_client=self._http,
            max_network_retries=retries_max,
            base_addresses={"api": api_url} if api_url else None,
        )

    def read_callback(self, headers: Mapping[str, str], body: bytes, now: datetime) -> PaymentNotice | None:
        text = text_of(body)
        header = lower_case(headers).get(HEADER.lower())
        if header is None:
            raise BadSignature(f"the header {HEADER} is missing")
        seconds, _ = split_signature(header)
        check_time(seconds, now, self._replay_window_s)
        try:
            # Without a tolerance: the library's own looks at the machine's clock, and only into the past.
            stripe.WebhookSignature.verify_header(text, header, self._webhook_secret, tolerance=None)
        except stripe.SignatureVerificationError as error:
            raise BadSignature(f"the signature is not of this body: {error.user_message}") from error
        try:
            return _notice(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UnreadableCallback(f"the event cannot be read: {error}") from error

    async def start(self, charge: Charge) -> Started:
        method = _METHODS.get(charge.method)
        if method is None:
            raise Invalid(f"Stripe serves {', '.join(_METHODS)}, not {charge.method}")
        intent = await _answered(
            self._client.v1.payment_intents.create_async(
                {
                    "amount": minor_units(charge.amount, _places(charge.currency)),
                    "currency": charge.currency.lower(),
                    "allowed_payment_method_types": [method],
                    "description": charge.description,
                    "metadata": {"order_id": charge.order_id, "order_number": charge.number},
                },
                {"idempotency_key": charge.order_id},
            )
        )
        if method not in intent.payment_method_types or not intent.client_secret:
            raise PaymentRefused(
                f"Stripe: {method} cannot be used for {charge.currency}; see {intent.id} there"
            )
        return Started("client_secret", intent.client_secret)

    async def refund(self, charge: Charge, reference: str, reason: str) -> Refunded:
        """For a day Stripe answers the same key as it did at first, then it knows the key no more: how a refund stands, and
        whether there is one, is asked apart.
        """
        units = minor_units(charge.amount, _places(charge.currency))
        refunds = self._client.v1.refunds
        try:
            refund = await _answered(
                refunds.create_async(
                    {
                        "payment_intent": reference,
                        "amount": units,
                        "metadata": {"order_id": charge.order_id, "reason": reason},
                    },
                    {"idempotency_key": refund_key(reference)},
                )
            )
        except PaymentRefused:
            before = await self._given_back(reference, units)
            if before is None:
                raise
            return before
        if refund.status != "succeeded":
            refund = await _answered(refunds.retrieve_async(refund.id))
        if refund.status in _FAILED:
            raise PaymentRefused(f"Stripe: the refund {refund.id} {refund.status}")
        return Refunded(refund.id, final=refund.status == "succeeded")

    async def _given_back(self, reference: str, units: int) -> Refunded | None:
        """The newest refund of a payment if all of it is given back, by whomever, or on its way."""
        found = await _answered(
            self._client.v1.refunds.list_async({"payment_intent": reference, "limit": _REFUNDS_MAX})
        )
        good = [refund for refund in found.data if refund.status not in _FAILED]
        if sum(refund.amount for refund in good) < units:
            return None
        return Refunded(good[0].id, final=all(refund.status == "succeeded" for refund in good))

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]


def _places(currency: str) -> int:
    places = _PLACES.get(currency)
    if places is None:
        raise Invalid(f"Stripe has no minor unit for {currency} that can be relied on")
    return places


def _notice(body: bytes) -> PaymentNotice | None:
    head = _head.decode(body)
    match head.type:
        case "payment_intent.succeeded":
            return _of_intent(_intent_event.decode(body), "paid")
        case "payment_intent.payment_failed":
            return _of_intent(_intent_event.decode(body), "failed")
        case "charge.refunded":
            return _of_charge(_charge_event.decode(body))
        case "refund.failed":
            logger.error("Stripe could not refund: see event %s", head.id, extra={"action": "refund_failed"})
    return None


def _of_intent(event: _IntentEvent, outcome: Outcome) -> PaymentNotice | None:
    intent = event.data.object
    units = intent.amount_received if outcome == "paid" else intent.amount
    return _told(event.id, event.created, outcome, units, intent.currency, intent.metadata, intent.id)


def _of_charge(event: _ChargeEvent) -> PaymentNotice | None:
    """A charge has its intent's metadata; it counts all its refunds, the event tells what had come before."""
    charge = event.data.object
    if charge.payment_intent is None:
        return None
    units = charge.amount_refunded - event.data.previous_attributes.amount_refunded
    return _told(
        event.id, event.created, "refunded", units, charge.currency, charge.metadata, charge.payment_intent
    )


def _told(
    event_id: str,
    created: int,
    outcome: Outcome,
    units: int,
    currency: str,
    metadata: dict[str, str],
    reference: str,
) -> PaymentNotice | None:
    order_id = metadata.get("order_id", "")
    if not is_uuid(order_id):  # the account may take payments for others too
        return None
    try:
        amount = main_units(units, _places(currency.upper()))
    except Invalid as error:
        raise UnreadableCallback(str(error)) from error
    return notice_of(
        provider=NAME,
        event_id=event_id,
        order_id=order_id,
        outcome=outcome,
        amount=amount,
        currency=currency.upper(),
        occurred_at=datetime.fromtimestamp(created, UTC),
        reference=reference,
    )


async def _answered(request: Awaitable[T]) -> T:
    """What Stripe answered. Raises PaymentRefused if it was a clear no, else Unavailable."""
    try:
        return await request
    except stripe.StripeError as error:
        status = error.http_status or 0
        if 400 <= status < 500 and status not in (409, 429):
            raise PaymentRefused(f"Stripe: {error}") from error
        raise Unavailable(f"Stripe: {error}") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unavailable(f"Stripe: {error!r}") from error
