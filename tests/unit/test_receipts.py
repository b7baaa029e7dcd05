"""Receipts: they come back as they were signed, and no other way."""

import base64
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import Invalid
from contracts.receipts import Receipt, ReceiptSigner
from tests.harness import uuid_of

SIGNER = ReceiptSigner("a secret of receipts with 32 bytes or more")
CHECKOUT, BUYER = uuid_of(1), "buyer-1"
ALPHABET = string.ascii_letters + string.digits + "-_"
receipts = st.builds(
    Receipt,
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 2**62 - 1)), min_size=1, max_size=50).map(tuple),
)


@given(receipts)
def test_what_was_signed_verifies(receipt: Receipt) -> None:
    text = SIGNER.sign(CHECKOUT, BUYER, receipt.accepted_at_ms, receipt.positions)
    assert set(text) <= set(ALPHABET)
    assert SIGNER.verify(text, CHECKOUT, BUYER) == receipt


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_no_character_can_be_another(lines: int) -> None:
    """For every length modulo 4: the last character has bits that decode to nothing."""
    text = SIGNER.sign(CHECKOUT, BUYER, 1, [(0, n) for n in range(lines)])
    for at, was in enumerate(text):
        for other in {*ALPHABET, "=", "+", "/", "!", "\n", "é"} - {was}:
            with pytest.raises(Invalid):
                SIGNER.verify(text[:at] + other + text[at + 1 :], CHECKOUT, BUYER)


@given(st.data())
def test_no_byte_can_be_another(data: st.DataObject) -> None:
    receipt = data.draw(receipts)
    text = SIGNER.sign(CHECKOUT, BUYER, receipt.accepted_at_ms, receipt.positions)
    raw = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Invalid):
        SIGNER.verify(base64.urlsafe_b64encode(raw).decode().rstrip("="), CHECKOUT, BUYER)


@pytest.mark.parametrize(
    "change", [lambda t: t[:-1], lambda t: t + "A", lambda t: t + "=", lambda t: " " + t]
)
def test_neither_shorter_nor_longer(change: object) -> None:
    assert callable(change)
    text = SIGNER.sign(CHECKOUT, BUYER, 1, [(0, 1)])
    with pytest.raises(Invalid):
        SIGNER.verify(change(text), CHECKOUT, BUYER)


@given(st.text(max_size=100))
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(Invalid):
        SIGNER.verify(text, CHECKOUT, BUYER)


def test_it_belongs_to_one_checkout_buyer_and_secret() -> None:
    text = SIGNER.sign(CHECKOUT, BUYER, 1, [(0, 1)])
    for signer, checkout, buyer in (
        (SIGNER, uuid_of(2), BUYER),
        (SIGNER, CHECKOUT, "buyer-2"),
        (ReceiptSigner("another secret of receipts, 32 bytes or so"), CHECKOUT, BUYER),
    ):
        with pytest.raises(Invalid):
            signer.verify(text, checkout, buyer)


def test_a_receipt_of_a_checkout_is_none_of_a_command() -> None:
    """Both are of places in logs of their own, which hold what others sent."""
    commands = SIGNER.of_commands()
    for mine, other in ((SIGNER, commands), (commands, SIGNER)):
        text = mine.sign(CHECKOUT, BUYER, 1, [(0, 1)])
        assert mine.verify(text, CHECKOUT, BUYER).positions == ((0, 1),)
        with pytest.raises(Invalid):
            other.verify(text, CHECKOUT, BUYER)
