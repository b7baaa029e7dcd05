"""Amounts in main and minor units, and the notices that carry them."""

from decimal import Decimal, localcontext
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import Invalid
from contracts.payments import (
    PLACES,
    Charge,
    PaymentNotice,
    decimal_places,
    main_units,
    minor_units,
    mismatch,
)
from tests.harness import NOON
from tests.unit.payment_senders import CHARGE, PAID


@pytest.mark.parametrize(
    ("amount", "currency", "units"),
    [
        ("258.00", "CNY", 25800),
        ("0.01", "USD", 1),
        ("258", "CNY", 25800),
        ("1.5E+2", "EUR", 15000),
        ("500", "JPY", 500),
        ("500.00", "KRW", 500),
        ("5.124", "KWD", 5124),
        ("0.0001", "CLF", 1),
        ("9999999999999.99", "CNY", 999_999_999_999_999),
    ],
)
def test_minor_units(amount: str, currency: str, units: int) -> None:
    places = decimal_places(currency)
    assert minor_units(Decimal(amount), places) == units
    assert main_units(units, places) == Decimal(amount)


@pytest.mark.parametrize(
    ("amount", "currency"),
    [
        ("0.005", "CNY"),
        ("0.5", "JPY"),
        ("5.1245", "KWD"),
        ("0", "CNY"),
        ("0.00", "CNY"),
        ("-1", "CNY"),
        ("NaN", "CNY"),
        ("sNaN", "CNY"),
        ("Infinity", "CNY"),
        ("10000000000000.00", "CNY"),
        ("1E+999999", "CNY"),
        ("1E-999999", "CNY"),
    ],
)
def test_amounts_that_do_not_fit(amount: str, currency: str) -> None:
    with pytest.raises(Invalid):
        minor_units(Decimal(amount), decimal_places(currency))


@pytest.mark.parametrize("currency", ["XAU", "XXX", "ABC", "cny", ""])
def test_what_is_no_currency_has_no_minor_unit(currency: str) -> None:
    with pytest.raises(Invalid):
        decimal_places(currency)


@given(units=st.integers(1, 10**15 - 1), places=st.sampled_from(sorted(set(PLACES.values()))))
def test_there_and_back_exactly(units: int, places: int) -> None:
    with localcontext(prec=5):  # nothing may depend on the precision that is set
        amount = main_units(units, places)
        assert minor_units(amount, places) == units
    assert -amount.as_tuple().exponent == places  # type: ignore[operator]


@given(amount=st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=0, max_value=10**6))
def test_what_is_taken_is_what_comes_back(amount: Decimal) -> None:
    try:
        units = minor_units(amount, 2)
    except Invalid:
        assert amount == 0 or amount != round(amount, 2)
    else:
        assert main_units(units, 2) == amount


def test_currencies_are_codes() -> None:
    assert len(PLACES) > 150
    assert all(len(code) == 3 and code.isupper() for code in PLACES)
    assert [PLACES[code] for code in ("CNY", "JPY", "KRW", "KWD", "TND", "UYW")] == [2, 0, 0, 3, 3, 4]


def test_a_notice_survives_the_wire() -> None:
    encoded = msgspec.json.encode(PAID)
    assert b'"258.00"' in encoded
    assert msgspec.json.decode(encoded, type=PaymentNotice) == PAID


@pytest.mark.parametrize(
    "changes",
    [
        {"amount": "NaN"},
        {"amount": "-0.01"},
        {"amount": "Infinity"},
        {"currency": "cny"},
        {"order_id": "1"},
        {"outcome": "pending"},
        {"event_id": "x" * 256},
        {"reference": ""},
        {"occurred_at": "2026-11-11T12:00:00"},
        {"provider": "Stripe"},
    ],
)
def test_notices_that_are_none(changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(PAID) | changes, PaymentNotice)


@pytest.mark.parametrize("amount", ["0", "-1", "NaN"])
def test_a_charge_is_above_zero(amount: str) -> None:
    with pytest.raises(ValueError, match="above zero"):
        msgspec.structs.replace(CHARGE, amount=Decimal(amount))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(CHARGE) | {"amount": amount}, Charge)


def test_mismatch() -> None:
    assert mismatch(PAID, Decimal(258), "CNY") is None
    assert mismatch(PAID, Decimal("258.01"), "CNY") == "amount"
    assert mismatch(PAID, Decimal(258), "USD") == "currency"
    assert mismatch(PAID, Decimal(1), "USD") == "currency"
    assert (
        mismatch(msgspec.structs.replace(PAID, occurred_at=NOON, amount=Decimal(0)), Decimal(258), "CNY")
        == "amount"
    )
