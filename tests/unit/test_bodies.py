"""Request bodies: whatever is sent, it is decoded or it is told what is wrong with it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.asks import ProductRequest
from contracts.bodies import Body
from contracts.problems import Problem
from contracts.requests import CheckoutRequest

BODY = Body(CheckoutRequest)


@pytest.mark.parametrize(
    "body", [b"0\x00", b'{"items": 0} and more', b'{"items": [], "note": "\\ud800"', b"[1,]"]
)
def test_what_is_wrong_before_what_is_no_json_is_no_json(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        BODY.parse(body)
    assert caught.value.kind.code == "malformed_json"


@given(
    st.binary(max_size=100) | st.sampled_from([b'{"items":0}', b'{"items":[]}', b"0"]).flatmap(
        lambda start: st.binary(max_size=10).map(lambda rest: start + rest)
    )
)  # fmt: skip
def test_every_body_has_its_answer(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        BODY.parse(body)
    assert (caught.value.kind.code == "invalid") == bool(caught.value.errors)


def errors(body: bytes, of: Body[Any] = BODY) -> dict[str, str]:
    """What is told to be wrong, by pointer."""
    with pytest.raises(Problem) as caught:
        of.parse(body)
    assert caught.value.kind.code == "invalid"
    return {error["pointer"]: error["detail"] for error in caught.value.errors or ()}


GOOD_ITEM = b'{"product_id": "sku-1", "quantity": 1}'


@pytest.mark.parametrize("depth", [500, 1000, 1500])
def test_a_body_may_be_nested_as_deeply_as_one_likes(depth: int) -> None:
    told = errors(b'{"items": [%b], "note": %b}' % (GOOD_ITEM, b"[" * depth + b"]" * depth))
    assert "#/note" in told


@pytest.mark.parametrize("number", [b"1e999", b"9" * 400, b"9" * 3000])
def test_a_number_beyond_what_is_taken_is_json(number: bytes) -> None:
    told = errors(b'{"items": [{"product_id": "sku-1", "quantity": %b}], "address_id": "home"}' % number)
    assert list(told) == ["#/items/0/quantity"]


def test_of_a_large_body_the_first_error_is_told() -> None:
    """To look for the others would keep everybody else waiting."""
    items = b", ".join([GOOD_ITEM] * 300)
    assert list(errors(b'{"items": [%b], "policy": 1, "note": 1}' % items)) == ["#/policy"]
    assert len(errors(b'{"items": [%b], "policy": 1, "note": 1}' % GOOD_ITEM)) == 2


def test_times_are_judged_beside_all_else() -> None:
    told = errors(
        b'{"name": "", "price": "1.00", "currency": "CNY", "sale_from": "x", "sale_to": "2026-11-11T00:00:00"}',
        Body(ProductRequest),
    )
    assert set(told) == {"#/name", "#/sale_from", "#/sale_to"}


def test_a_pointer_is_a_fragment_of_a_uri() -> None:
    """RFC 6901 section 6: what may not stand in one is percent-encoded."""
    told = errors('{"items": [], "a b%": 1, "é/~": 1}'.encode())
    assert {"#/a%20b%25", "#/%C3%A9~1~0"} <= set(told)
