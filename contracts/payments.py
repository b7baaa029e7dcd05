"""Payments at the border: what providers tell, what is asked of them, and amounts in their units."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from contracts.decisions import number_of
from contracts.errors import Invalid
from contracts.messages import Currency, Moment, PaymentMethod, Uuid

ProviderName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,32}\Z", examples=["stripe"])]
# Printable ASCII, so that they fit in Postgres, in a header and in a log line.
ProviderId = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,255}\Z", examples=["evt_1"])]

Outcome = Literal["paid", "failed", "refunded"]
Mismatch = Literal["currency", "amount"]


class PaymentNotice(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider tells of a payment, once its signature was found good.

    The same `event_id` of a provider is the same event, however often it is told. `amount` is in the main unit of
    `currency`: what was paid, what would have been, or what this event gave back. `reference` is the provider's id of
    the payment, by which it is refunded: a buyer who pays an order twice makes two. `failed` is of one attempt; the
    buyer may try again until the order's payment expires.
    """

    provider: ProviderName
    event_id: ProviderId
    order_id: Uuid
    outcome: Outcome
    amount: Decimal
    currency: Currency
    occurred_at: Moment
    reference: ProviderId

    def __post_init__(self) -> None:
        if not self.amount.is_finite() or self.amount < 0:
            raise ValueError("amount must be a number, not below zero")


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What an order costs: what a provider is asked to collect. `amount` is in the main unit of `currency`."""

    order_id: Uuid
    number: str
    amount: Decimal
    currency: Currency
    method: PaymentMethod
    description: str
    expires_at: Moment

    def __post_init__(self) -> None:
        if not self.amount.is_finite() or self.amount <= 0:
            raise ValueError("amount must be a number above zero")

    @classmethod
    def of_order(
        cls, order_id: str, amount: Decimal, currency: str, method: str, expires_at: datetime
    ) -> "Charge":
        """Of a whole order."""
        number = number_of(order_id)
        return cls(
            order_id=order_id,
            number=number,
            amount=amount,
            currency=currency,
            method=method,
            description=f"Order {number}",
            expires_at=expires_at,
        )


class Started(msgspec.Struct, frozen=True):
    """What a buyer's client needs in order to pay.

    `redirect`: a URL to send the buyer to; `qr`: a text to show as a QR code; `client_secret`: for the provider's own
    widget; `sandbox`: the order id, for whoever plays the buyer.
    """

    kind: Literal["redirect", "qr", "client_secret", "sandbox"]
    value: str


class Refunded(msgspec.Struct, frozen=True):
    """A refund that a provider has taken in: its id there. While it is not `final`, the money may still not arrive."""

    refund_id: str
    final: bool = True


def mismatch(notice: PaymentNotice, amount: Decimal, currency: str) -> Mismatch | None:
    """What of a notice differs from what an order costs; None if it is exactly that."""
    if notice.currency != currency:
        return "currency"
    return "amount" if notice.amount != amount else None


def decimal_places(currency: str) -> int:
    """How many decimal places the minor unit of a currency has (ISO 4217). Raises Invalid for an unknown currency."""
    places = PLACES.get(currency)
    if places is None:
        raise Invalid(f"{currency} is not a currency that has a minor unit in ISO 4217")
    return places


def minor_units(amount: Decimal, places: int) -> int:
    """An amount of the main unit in units of `places` decimal places, exactly.

    Raises Invalid if it is not a whole, positive number of them that fits in 15 digits.
    """
    if (
        not amount.is_finite()
        or amount.adjusted() + places >= _DIGITS_MAX
        or amount.adjusted() < -_DIGITS_MAX
    ):
        raise Invalid(f"{amount} is not an amount that can be paid")
    numerator, denominator = amount.as_integer_ratio()
    scale: int = 10**places
    units, rest = divmod(numerator * scale, denominator)
    if rest:
        raise Invalid(
            f"{amount} is not a whole number of the smallest unit, which has {places} decimal places"
        )
    if units <= 0:
        raise Invalid(f"{amount} is not above zero")
    return units


def main_units(units: int, places: int) -> Decimal:
    """Units of `places` decimal places as an amount of the main unit, exactly, with all its places."""
    return Decimal(f"{units}E-{places}")


_DIGITS_MAX = 15

# ISO 4217, list one, without funds codes and precious metals. Countries change their currencies: keep it up.
_CODES = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC "
        "CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR "
        "JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD "
        "NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN "
        "SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
PLACES = {code: places for places, codes in _CODES.items() for code in codes.split()}
