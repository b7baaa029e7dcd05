"""Request bodies: whatever is sent, it is decoded or it is told what is wrong with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
