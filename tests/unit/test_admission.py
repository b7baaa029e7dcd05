"""What must be the same in every version: replicas of an old and a new one work side by side during an upgrade."""

from contracts.settings import Settings
from ingest.admission import admit, parse

BODY = b"""
{"items": [{"product_id": "b", "quantity": 2}, {"product_id": "a", "quantity": 1}, {"product_id": "b", "quantity": 1}],
 "address_id": "home", "note": "wrap it", "expected_total": {"amount": "12.50", "currency": "CNY"}}
"""


def test_a_retry_on_another_version_is_the_same_checkout_with_the_same_payload() -> None:
    """With another id it would be bought twice, with another hash be refused as a conflict."""
    admitted = admit(parse(BODY), "buyer-1", "key-1", 0, Settings())
    assert admitted.checkout_id == "ed351114-0221-8f2a-8116-b284e65e5ff2"
    assert admitted.payload_hash == "ce49c9ffb8340989e2f33d278a389541"
