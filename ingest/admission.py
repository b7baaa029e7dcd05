"""From a request's bytes to the messages it becomes. Pure: no I/O and no clock."""

import hashlib
from collections.abc import Mapping

import msgspec

from contracts import problems
from contracts.bodies import ERRORS_MAX, Body
from contracts.messages import CheckoutLine
from contracts.problems import Problem
from contracts.requests import CheckoutRequest
from contracts.settings import Settings
from contracts.slices import slice_of_buyer

_body = Body(CheckoutRequest)
_encode = msgspec.json.Encoder().encode
_checkout_ids = hashlib.blake2b(digest_size=15, person=b"checkout-id")
_payloads = hashlib.blake2b(digest_size=16)


class Admitted(msgspec.Struct, frozen=True):
    """A checkout as it will be published: one message per product, the same payload hash in each."""

    checkout_id: str
    payload_hash: str
    lines: list[CheckoutLine]


def parse(body: bytes) -> CheckoutRequest:
    """The request, checked against its schema. Raises Problem: 400 if it is not JSON, 422 with every error, of a large
    body with the first one.
    """
    return _body.parse(body)


def peek(body: bytes) -> CheckoutRequest | None:
    """The checkout, None if it is not one."""
    return _body.peek(body)


def checkout_id_of(buyer_id: str, key: str) -> str:
    """UUID version 8 (RFC 9562 §5.8) from buyer and idempotency key: a retry is the same checkout on any replica."""
    digest = _checkout_ids.copy()
    digest.update(f"{buyer_id}\0{key}".encode())
    h = digest.hexdigest()  # 15 bytes, 120 of the 122 bits that are free
    return f"{h[:8]}-{h[8:12]}-8{h[12:15]}-8{h[15:18]}-{h[18:]}"


def admit(
    request: CheckoutRequest,
    buyer_id: str,
    key: str,
    now_ms: int,
    settings: Settings,
    slices: Mapping[str, int],
) -> Admitted:
    """Merge, check the limits and make the messages, each to the buyer's slice of its product; `slices` is how many the
    products have that have several. Raises Problem 422 where something cannot be accepted.
    """
    quantities = merge(request)
    check(request, quantities, settings)
    checkout_id = checkout_id_of(buyer_id, key)
    in_cart = frozenset([item.product_id for item in request.items if item.from_cart])
    payload_hash = hash_payload(request, quantities, in_cart)
    several = len(quantities) > 1
    basket = list(quantities.items()) if several and request.expected_total is not None else None
    lines: list[CheckoutLine] = []
    for product_id, quantity in quantities.items():
        line = CheckoutLine(
            1,
            checkout_id,
            buyer_id,
            product_id,
            quantity,
            payload_hash,
            now_ms,
            len(lines),
            len(quantities),
            request.policy if several else "independent",  # of one line it is the same
            request.payment_method,
            request.note,
            request.address_id,
            request.shipping,
            request.expected_total,
            basket,
            product_id in in_cart,
            slice_of_buyer(buyer_id, slices[product_id]) if product_id in slices else 0,
        )
        lines.append(line)
    return Admitted(checkout_id, payload_hash, lines)


def merge(request: CheckoutRequest) -> dict[str, int]:
    """Units by product, sorted by product: the lines of a retry are numbered alike, however its items are ordered."""
    quantities: dict[str, int] = {}
    for item in request.items:
        quantities[item.product_id] = quantities.get(item.product_id, 0) + item.quantity
    return dict(sorted(quantities.items())) if len(quantities) > 1 else quantities


def check(request: CheckoutRequest, quantities: Mapping[str, int], settings: Settings) -> None:
    """Raise Problem 422 for what no schema says: limits from the settings, one address."""
    errors: list[dict[str, str]] = []
    if len(quantities) > settings.lines_max:
        errors.append({"detail": f"at most {settings.lines_max} different products", "pointer": "#/items"})
    for product_id, quantity in quantities.items():
        if quantity > settings.quantity_max and len(errors) < ERRORS_MAX:
            at = next(i for i, item in enumerate(request.items) if item.product_id == product_id)
            errors.append(
                {
                    "detail": f"at most {settings.quantity_max} units of a product, here {quantity} in all",
                    "pointer": f"#/items/{at}/quantity",
                }
            )
    if len(request.note) > settings.note_chars_max:
        errors.append({"detail": f"at most {settings.note_chars_max} characters", "pointer": "#/note"})
    if (request.address_id is None) == (request.shipping is None):
        errors.append({"detail": "give exactly one of address_id and shipping", "pointer": "#"})
    if errors:
        raise Problem(problems.INVALID, "correct the fields named in errors", errors=errors[:ERRORS_MAX])


def hash_payload(request: CheckoutRequest, quantities: Mapping[str, int], in_cart: frozenset[str]) -> str:
    """128 bits over all that the buyer asked for, however its items are ordered or split."""
    content: tuple[object, ...] = (
        quantities,
        request.policy,
        request.address_id,
        request.shipping,
        request.payment_method,
        request.note,
        request.expected_total,
    )
    if in_cart:  # without, the hash is that of versions that knew of no carts
        content = (*content, sorted(in_cart))
    digest = _payloads.copy()
    digest.update(_encode(content))
    return digest.hexdigest()
