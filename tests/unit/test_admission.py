"""From a request to its messages; and what must be the same in every version, for replicas of two work side by side."""

import msgspec
import pytest

from contracts.settings import Settings
from ingest.admission import admit, parse

BODY = b"""
{"items": [{"product_id": "b", "quantity": 2}, {"product_id": "a", "quantity": 1}, {"product_id": "b", "quantity": 1}],
 "address_id": "home", "note": "wrap it", "expected_total": {"amount": "12.50", "currency": "CNY"}}
"""


def test_a_retry_on_another_version_is_the_same_checkout_with_the_same_payload() -> None:
    """With another id it would be bought twice, with another hash be refused as a conflict."""
    admitted = admit(parse(BODY), "buyer-1", "key-1", 0, Settings(), {})
    assert admitted.checkout_id == "ed351114-0221-8f2a-8116-b284e65e5ff2"
    assert admitted.payload_hash == "ce49c9ffb8340989e2f33d278a389541"


@pytest.mark.parametrize("policy", ["independent", "all_or_nothing"])
def test_a_policy_is_told_where_it_makes_a_difference(policy: str) -> None:
    request = msgspec.structs.replace(parse(BODY), policy=policy)
    alone = msgspec.structs.replace(request, items=request.items[:1])
    several = admit(request, "buyer-1", "key-1", 0, Settings(), {})
    assert [line.policy for line in several.lines] == [policy] * 2
    single = admit(alone, "buyer-1", "key-1", 0, Settings(), {})
    assert [line.policy for line in single.lines] == ["independent"]


def test_lines_say_which_come_from_the_cart_and_that_is_part_of_the_payload() -> None:
    """A product named twice comes from the cart if either is said to; the order of items makes no difference."""
    given = [
        b'{"product_id": "b", "quantity": 1, "from_cart": true}',
        b'{"product_id": "a", "quantity": 1}',
        b'{"product_id": "b", "quantity": 2}',
    ]
    hashes = set()
    for items in (given, given[::-1]):
        body = b'{"items": [' + b",".join(items) + b'], "address_id": "home"}'
        admitted = admit(parse(body), "buyer-1", "key-1", 0, Settings(), {})
        assert [(line.product_id, line.from_cart) for line in admitted.lines] == [("a", False), ("b", True)]
        hashes.add(admitted.payload_hash)
    plain = admit(parse(body.replace(b', "from_cart": true', b"")), "buyer-1", "key-1", 0, Settings(), {})
    assert len(hashes | {plain.payload_hash}) == 2


def test_the_policy_is_part_of_the_payload() -> None:
    request = parse(BODY)
    whole = msgspec.structs.replace(request, policy="all_or_nothing")
    first, other = (admit(r, "buyer-1", "key-1", 0, Settings(), {}) for r in (request, whole))
    assert first.checkout_id == other.checkout_id
    assert first.payload_hash != other.payload_hash
