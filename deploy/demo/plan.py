"""The script of a sale: who asks for what. The same seed gives the same sale."""

import random
from typing import Any

import msgspec
import orjson

from deploy.sample import HOT_PRODUCT, UNKNOWN_PRODUCT, buyer_id

HOT_SHARE = 0.80
SEVERAL_SHARE = 0.05  # of the checkouts that are not for the hot product alone: several products
WHOLE_SHARE = 0.5  # of these: all of them or nothing
REPEATED_SHARE = 0.03
MALFORMED_SHARE = 0.01
OFF_SHELF_SHARE = 0.01
UNKNOWN_SHARE = 0.005
_MALFORMED: tuple[bytes, ...] = (
    b'{"items": [',
    b'{"items": []}',
    b'{"items": [{"product_id": "hot-phone-15", "quantity": 0}], "address_id": "home"}',
    b'{"items": [{"product_id": "hot-phone-15", "quantity": 1}], "adress_id": "home"}',
    b'{"items": [{"product_id": "no spaces allowed", "quantity": 1}], "address_id": "home"}',
)


class Attempt(msgspec.Struct, frozen=True):
    """One POST. `well_formed` tells whether the edge should take it in."""

    buyer_id: str
    idempotency_key: str
    body: bytes
    well_formed: bool


def plan(
    checkouts: int, buyers: int, products: int, seed: int, hot_share: float = HOT_SHARE
) -> list[Attempt]:
    """`checkouts` attempts in the order in which they are to be made, repeats and malformed ones included."""
    rng = random.Random(seed)  # noqa: S311 - a script, not a secret
    attempts: list[Attempt] = []
    while len(attempts) < checkouts:
        if attempts and rng.random() < REPEATED_SHARE:
            attempts.append(rng.choice(attempts[-200:]))
            continue
        buyer = buyer_id(rng.randint(1, buyers))
        key = f"{rng.getrandbits(96):024x}"
        if rng.random() < MALFORMED_SHARE:
            attempts.append(Attempt(buyer, key, rng.choice(_MALFORMED), well_formed=False))
        else:
            attempts.append(
                Attempt(buyer, key, orjson.dumps(_checkout(rng, products, hot_share)), well_formed=True)
            )
    return attempts


def _checkout(rng: random.Random, products: int, hot_share: float) -> dict[str, Any]:
    checkout: dict[str, Any] = {"items": [_item(rng, products, hot_share)]}
    if checkout["items"][0]["product_id"] != HOT_PRODUCT and rng.random() < SEVERAL_SHARE / (1 - hot_share):
        checkout["items"] += [_item(rng, products, hot_share) for _ in range(rng.randint(1, 3))]
        if rng.random() < WHOLE_SHARE:
            checkout["policy"] = "all_or_nothing"
    if rng.random() < 0.1:
        checkout["shipping"] = {
            "contact_name": "Gift Desk",
            "phone": "+86 571 0000",
            "address": "1 West Lake, Hangzhou",
        }
        checkout["note"] = "please wrap it"
    else:
        checkout["address_id"] = "home"
    return checkout


def _item(rng: random.Random, products: int, hot_share: float) -> dict[str, Any]:
    draw = rng.random()
    if draw < hot_share:
        product = HOT_PRODUCT
    elif draw < hot_share + OFF_SHELF_SHARE:
        product = f"retired-{rng.randint(1, 5)}"
    elif draw < hot_share + OFF_SHELF_SHARE + UNKNOWN_SHARE:
        product = UNKNOWN_PRODUCT
    else:
        product = f"sku-{rng.randint(1, products):04d}"
    return {"product_id": product, "quantity": 1 if rng.random() < 0.9 else 2}
