"""From a request's bytes to the messages it becomes. Pure: no I/O and no clock."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import orjson
from jsonschema import Draft202012Validator

from contracts import problems
from contracts.messages import CheckoutLine
from contracts.openapi import request_schema
from contracts.problems import Problem
from contracts.requests import CheckoutRequest
from contracts.settings import Settings

_IDEMPOTENCY_KEY_CHARS_MAX = 255
_ERRORS_MAX = 20
PYTHON_END = r"\Z"  # what other dialects of regular expressions write as $

_decoder = msgspec.json.Decoder(CheckoutRequest)
_schema = Draft202012Validator(request_schema())
_encode = msgspec.json.Encoder().encode
_checkout_ids = hashlib.blake2b(digest_size=15, person=b"checkout-id")
_payloads = hashlib.blake2b(digest_size=16)


class Admitted(msgspec.Struct, frozen=True):
    """A checkout as it will be published: one message per product, the same payload hash in each."""

    checkout_id: str
    payload_hash: str
    lines: list[CheckoutLine]


def parse(body: bytes) -> CheckoutRequest:
    """The request, checked against its schema. Raises Problem: 400 if it is not JSON, 422 with every error."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(
            problems.INVALID, "correct the fields named in errors", errors=list(explain(body, error))
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(problems.MALFORMED_JSON, f"send a JSON object: {error}") from error


def explain(body: bytes, error: msgspec.ValidationError) -> Iterator[dict[str, str]]:
    """Every error of a body that failed, by its JSON Schema; else the one that the decoder met."""
    found: set[tuple[str, str]] = set()
    for violation in _schema.iter_errors(orjson.loads(body)):
        for place in _places(violation):
            if len(found) == _ERRORS_MAX:
                return
            if place not in found:
                found.add(place)
                yield {"detail": place[1], "pointer": place[0]}
    if not found:
        detail, _, path = str(error).partition(" - at `")
        yield {"detail": detail, "pointer": _pointer_of_path(path.rstrip("`"))}


def _places(violation: Any) -> Iterator[tuple[str, str]]:
    """(pointer, detail) of a schema violation; unknown and missing fields are pointed at themselves."""
    where = "#" + "".join(f"/{_escape(part)}" for part in violation.absolute_path)
    if violation.validator == "additionalProperties":
        for name in sorted(set(violation.instance) - set(violation.schema.get("properties", {}))):
            yield f"{where}/{_escape(name)}", "unknown field; remove it or correct its name"
    elif violation.validator == "required":
        for name in sorted(set(violation.validator_value) - set(violation.instance)):
            yield f"{where}/{_escape(name)}", "this field is required"
    elif violation.validator == "anyOf":
        deeper = [v for v in violation.context if v.validator != "type" or v.relative_path]
        for inner in deeper:
            yield from _places(inner)
        if not deeper:
            yield where, "wrong type"
    elif violation.validator == "pattern":
        yield where, f"must match {violation.validator_value.replace(PYTHON_END, '$')}"
    else:
        yield where, _short(violation.message)


def _short(text: str, chars_max: int = 200) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _escape(part: object) -> str:
    """A reference token of a JSON Pointer (RFC 6901 §3)."""
    return _short(str(part), 64).replace("~", "~0").replace("/", "~1")


def _pointer_of_path(path: str) -> str:
    """The decoder's `$.items[0].quantity` as `#/items/0/quantity`."""
    return "#" + path.removeprefix("$").replace("[", "/").replace("]", "").replace(".", "/")


def idempotency_key(header: str) -> str:
    """The key of an Idempotency-Key header, quoted (RFC 8941 string) or not: both are the same key.

    Raises Problem 400 if it is empty, longer than 255 characters or not printable ASCII.
    """
    text = header.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not text or len(text) > _IDEMPOTENCY_KEY_CHARS_MAX or not text.isascii() or not text.isprintable():
        raise Problem(
            problems.BAD_REQUEST,
            f"Idempotency-Key must be 1 to {_IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters, quoted or not",
        )
    return text


def checkout_id_of(buyer_id: str, key: str) -> str:
    """UUID version 8 (RFC 9562 §5.8) from buyer and idempotency key: a retry is the same checkout on any replica."""
    digest = _checkout_ids.copy()
    digest.update(f"{buyer_id}\0{key}".encode())
    h = digest.hexdigest()  # 15 bytes, 120 of the 122 bits that are free
    return f"{h[:8]}-{h[8:12]}-8{h[12:15]}-8{h[15:18]}-{h[18:]}"


def admit(request: CheckoutRequest, buyer_id: str, key: str, now_ms: int, settings: Settings) -> Admitted:
    """Merge, check the limits and make the messages. Raises Problem 422 where something cannot be accepted."""
    quantities = merge(request)
    check(request, quantities, settings)
    checkout_id = checkout_id_of(buyer_id, key)
    payload_hash = hash_payload(request, quantities)
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
        if quantity > settings.quantity_max:
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
        raise Problem(problems.INVALID, "correct the fields named in errors", errors=errors[:_ERRORS_MAX])


def hash_payload(request: CheckoutRequest, quantities: Mapping[str, int]) -> str:
    """128 bits over all that the buyer asked for, however its items are ordered or split."""
    content = (
        quantities,
        request.policy,
        request.address_id,
        request.shipping,
        request.payment_method,
        request.note,
        request.expected_total,
    )
    digest = _payloads.copy()
    digest.update(_encode(content))
    return digest.hexdigest()
