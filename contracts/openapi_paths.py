"""The paths of the OpenAPI document but for what buyers keep: operations, parameters, responses, examples."""

from typing import Any

from contracts import openapi_examples as examples
from contracts import problems
from contracts.openapi_parts import CACHE_CONTROL, READING, RETRY_AFTER, json_of, path_id, problems_of, ref
from contracts.outcomes import OrderStatus


def paths() -> dict[str, Any]:
    """The paths of checkouts, orders and the service itself, patterns as Python reads them."""
    return {
        "/v1/checkouts": {"post": _submit()},
        "/v1/checkouts/{checkout_id}": {"get": _status()},
        "/v1/orders": {"get": _orders()},
        "/v1/orders/{order_id}": {"get": _order()},
        "/openapi.json": {
            "get": _open("getOpenApi", "This document", "application/json", {"type": "object"})
        },
        "/asyncapi.json": {
            "get": _open(
                "getAsyncApi", "The events topic (AsyncAPI 3.0)", "application/json", {"type": "object"}
            )
        },
        "/docs": {"get": _open("getDocs", "This document as a page", "text/html", {"type": "string"})},
        "/livez": {
            "get": _open("getLive", "Whether the process lives", "application/json", _health("alive"))
        },
        "/readyz": {"get": _ready()},
    }


def _submit() -> dict[str, Any]:
    return {
        "operationId": "submitCheckout",
        "tags": ["checkouts"],
        "summary": "Submit a checkout",
        "description": "202 is answered once the checkout is in the log: it will be decided, and its final answer "
        "stands at `Location`. After a 503, or no answer, retry with the same `Idempotency-Key`, or the one that the 503 "
        "tells: nothing is bought twice. An operator may set lower limits than the schema's; a violation is a 422 that names the field.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "Any text of printable ASCII that is new for each checkout of the buyer, quoted or not. "
                "Without one, one is made and told in the answer, also in a 503 `not_acknowledged`.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                "example": "cart-7f3a",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": ref("CheckoutRequest"),
                    "examples": {
                        "one_product": {"value": examples.REQUEST},
                        "from_the_cart": {"value": examples.FROM_CART},
                        "all_or_nothing": {"value": examples.WHOLE_REQUEST},
                    },
                }
            },
        },
        "responses": {
            "202": {
                "description": "In the log, to be decided.",
                "headers": {
                    "Location": {
                        "description": "Where to poll; it carries the receipt.",
                        "schema": {"type": "string", "format": "uri-reference"},
                    },
                    "Retry-After": RETRY_AFTER,
                },
                "content": json_of("Accepted", accepted=examples.ACCEPTED),
            },
            **problems_of(
                problems.BAD_REQUEST,
                problems.MALFORMED_JSON,
                problems.UNAUTHORIZED,
                problems.METHOD_NOT_ALLOWED,
                problems.SOLD_OUT,
                problems.TOO_LARGE,
                problems.UNSUPPORTED_MEDIA_TYPE,
                problems.INVALID,
                problems.IDEMPOTENCY_CONFLICT,
                problems.INTERNAL,
                problems.NOT_ACKNOWLEDGED,
                problems.OVERLOADED,
                problems.BACKLOG_FULL,
            ),
        },
    }


def _status() -> dict[str, Any]:
    return {
        "operationId": "getCheckout",
        "tags": ["checkouts"],
        "summary": "Where a checkout is, then what became of it",
        "description": "For the buyer who submitted it. With the receipt, the place in the queue is told: `ahead` never "
        "grows. Without it, only what is decided is known, and a checkout with nothing decided is not found: a line that is "
        "dead-lettered counts as queued, since nobody can read whose it is. Who has lost the receipt sends the checkout again "
        "with its `Idempotency-Key`, and has a new one.",
        "parameters": [
            path_id("checkout_id", examples.CHECKOUT_ID),
            {
                "name": "receipt",
                "in": "query",
                "description": "The receipt of the 202, as its `Location` has it.",
                "schema": {"type": "string"},
                "example": examples.RECEIPT,
            },
        ],
        "responses": {
            "200": {
                "description": "What is known. While `status` is `queued`, ask again after `Retry-After`.",
                "headers": {"Retry-After": RETRY_AFTER, "Cache-Control": CACHE_CONTROL},
                "content": json_of(
                    "CheckoutStatus",
                    queued=examples.QUEUED,
                    created=examples.CREATED,
                    refused=examples.REFUSED,
                    all_or_nothing_held=examples.WHOLE_HELD,
                    all_or_nothing_created=examples.WHOLE_CREATED,
                    all_or_nothing_refused=examples.WHOLE_REFUSED,
                ),
            },
            **problems_of(*READING, problems.NOT_FOUND, problems.INVALID),
        },
    }


def _orders() -> dict[str, Any]:
    return {
        "operationId": "listOrders",
        "tags": ["orders"],
        "summary": "The buyer's orders, newest first",
        "description": "`next` is the URL of the next page of the same orders.",
        "parameters": [
            {
                "name": "limit",
                "in": "query",
                "description": "Orders of a page.",
                "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
            },
            {
                "name": "status",
                "in": "query",
                "description": "Only orders in one of these; repeat it, or separate them with commas.",
                "schema": {"type": "array", "items": {"type": "string", "enum": list(OrderStatus)}},
                "explode": True,
                "example": ["paid", "shipped"],
            },
            _time("from", "Only orders created then or later.", "2025-11-01T00:00:00Z"),
            _time("to", "Only orders created before.", "2025-12-01T00:00:00Z"),
            {
                "name": "cursor",
                "in": "query",
                "description": "Where the page before ended; follow `next` and leave it as it is.",
                "schema": {"type": "string"},
            },
        ],
        "responses": {
            "200": {"description": "A page.", "content": json_of("OrderPage", page=examples.PAGE)},
            **problems_of(*READING, problems.INVALID),
        },
    }


def _time(name: str, description: str, example: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "description": f"{description} A time with its offset (RFC 3339).",
        "schema": {"type": "string", "format": "date-time"},
        "example": example,
    }


def _order() -> dict[str, Any]:
    return {
        "operationId": "getOrder",
        "tags": ["orders"],
        "summary": "One order of the buyer",
        "parameters": [path_id("order_id", examples.ORDER_ID)],
        "responses": {
            "200": {"description": "The order.", "content": json_of("OrderView", order=examples.ORDER)},
            **problems_of(*READING, problems.NOT_FOUND),
        },
    }


def _ready() -> dict[str, Any]:
    operation = _open("getReady", "Whether the process can answer", "application/json", _health("ready"))
    told = {"schema": _health("not ready")}
    operation["responses"]["503"] = {"description": "Not now.", "content": {"application/json": told}}
    return operation


def _open(operation_id: str, summary: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    """An operation that anyone may call."""
    return {
        "operationId": operation_id,
        "tags": ["service"],
        "summary": summary,
        "security": [],
        "responses": {"200": {"description": summary, "content": {media_type: {"schema": schema}}}},
    }


def _health(status: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"status": {"const": status}}, "required": ["status"]}
