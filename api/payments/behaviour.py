"""How the sandbox's buyers pay: which of them do what, and the callbacks that come of it. No clock, no random inside."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from api.payments.sandbox import SandboxEvent
from contracts.errors import SettingsError
from contracts.payments import Charge, decimal_places, main_units, minor_units

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Kind = Literal["payment.paid", "payment.failed"]


class Behaviour(StrEnum):
    """What a buyer does about an order."""

    PAYS = "pays"
    DECLINES = "declines"  # one attempt, refused by the buyer's bank
    PAYS_TWICE = "pays_twice"  # two payments; the first one's event is told twice
    PAYS_LATE = "pays_late"  # after the payment has expired
    PAYS_WRONG_AMOUNT = "pays_wrong_amount"
    NEVER_PAYS = "never_pays"


class Shares(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which share of the orders meets which behaviour; the rest is paid."""

    declines: Share = 0.0
    pays_twice: Share = 0.0
    pays_late: Share = 0.0
    pays_wrong_amount: Share = 0.0
    never_pays: Share = 0.0

    def __post_init__(self) -> None:
        if self.total() > 1:
            raise ValueError(f"the shares sum up to {self.total():g}, more than 1")

    def total(self) -> float:
        shares: list[float] = [getattr(self, name) for name in self.__struct_fields__]
        return round(sum(shares), 9)

    @classmethod
    def parse(cls, text: str) -> "Shares":
        """Shares of `declines=0.05,pays_twice=0.01`. Raises SettingsError that says what is wrong."""
        values: dict[str, str] = {}
        for item in filter(None, text.replace(" ", "").split(",")):
            name, _, share = item.partition("=")
            if name in values:
                raise SettingsError(f"{text!r}: {name} is given twice")
            values[name] = share
        try:
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            names = ", ".join(cls.__struct_fields__)
            raise SettingsError(f"{text!r}: {error}; give shares from 0 to 1 of: {names}") from error


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """When buyers pay. Seconds: after the order, from `min` to `max`; when late, `late_after_s` past the expiry."""

    pays_after_s_min: float = 1.0
    pays_after_s_max: float = 20.0
    late_after_s: float = 5.0


class Callback(msgspec.Struct, frozen=True):
    """An event to send `delay_s` seconds from the moment of planning; to be signed when it is sent, at each try."""

    delay_s: float
    event: SandboxEvent


def behaviour_of(order_id: str, shares: Shares, seed: int) -> Behaviour:
    """The behaviour an order meets: always the same for the same order, shares and seed."""
    draw = _draw("behaviour", order_id, seed)
    for name in shares.__struct_fields__:
        draw -= getattr(shares, name)
        if draw < 0:
            return Behaviour(name)
    return Behaviour.PAYS


def callbacks(
    charge: Charge, behaviour: Behaviour, now: datetime, timing: Timing, seed: int
) -> Sequence[Callback]:
    """The callbacks that come of a behaviour, in the order of their delays. Planning twice tells the same events."""
    delay_s = timing.pays_after_s_min + (timing.pays_after_s_max - timing.pays_after_s_min) * _draw(
        "delay", charge.order_id, seed
    )

    def told(
        number: int, delay_s: float, kind: Kind = "payment.paid", amount: Decimal | None = None
    ) -> Callback:
        event = _event(charge, number, kind, charge.amount if amount is None else amount, now, delay_s)
        return Callback(delay_s, event)

    match behaviour:
        case Behaviour.PAYS:
            return [told(1, delay_s)]
        case Behaviour.DECLINES:
            return [told(1, delay_s, "payment.failed")]
        case Behaviour.PAYS_TWICE:
            first = told(1, delay_s)
            return [first, Callback(delay_s + 1, first.event), told(2, delay_s + 2)]
        case Behaviour.PAYS_LATE:
            return [told(1, max((charge.expires_at - now).total_seconds(), 0.0) + timing.late_after_s)]
        case Behaviour.PAYS_WRONG_AMOUNT:
            return [told(1, delay_s, amount=_wrong(charge))]
        case Behaviour.NEVER_PAYS:
            return []


def _event(
    charge: Charge, number: int, kind: Kind, amount: Decimal, now: datetime, delay_s: float
) -> SandboxEvent:
    return SandboxEvent(
        id=f"event-{charge.order_id}-{number}",
        type=kind,
        order_id=charge.order_id,
        payment_id=f"payment-{charge.order_id}-{number}",
        amount=f"{amount:f}",
        currency=charge.currency,
        occurred_at=now + timedelta(seconds=delay_s),
    )


def _wrong(charge: Charge) -> Decimal:
    """One minor unit less, or more where nothing would be left."""
    places = decimal_places(charge.currency)
    units = minor_units(charge.amount, places)
    return main_units(units - 1 if units > 1 else units + 1, places)


def _draw(what: str, order_id: str, seed: int) -> float:
    """From 0 up to 1, evenly spread over the order ids."""
    digest = hashlib.sha256(f"{seed}:{what}:{order_id}".encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56
