"""The paths of the OpenAPI document: operations, parameters, responses, examples."""

from typing import Any

from contracts import openapi_examples as examples
from contracts import problems
from contracts.problems import ProblemType

_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
_RETRY_AFTER = {
    "description": "Seconds to wait before asking (again).",
    "schema": {"type": "integer", "minimum": 1},
}
_CACHE_CONTROL = {
    "description": "`no-store` while queued, else `private`.",
    "schema": {"type": "string"},
}


def paths() -> dict[str, Any]:
    """Every path of ingest and api, patterns as Python reads them."""
    return {
        "/v1/checkouts": {"post": _submit()},
        "/v1/checkouts/{checkout_id}": {"get": _status()},
        "/v1/orders": {"get": _orders()},
        "/v1/orders/{order_id}": {"get": _order()},
        "/openapi.json": {
            "get": _open("getOpenApi", "This document", "application/json", {"type": "object"})
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
        "stands at `Location`. After a 503, or no answer, retry with the same `Idempotency-Key`: nothing is bought "
        "twice. An operator may set lower limits than the schema's; a violation is a 422 that names the field.",
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "Any text of printable ASCII that is new for each checkout of the buyer, quoted or not. "
                "Without one, one is made and told in the answer.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                "example": "cart-7f3a",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": _ref("CheckoutRequest"),
                    "examples": {"one_product": {"value": examples.REQUEST}},
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
                    "Retry-After": _RETRY_AFTER,
                },
                "content": _json("Accepted", accepted=examples.ACCEPTED),
            },
            **_problems(
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
        "grows. Without it, only what is decided is known, and a checkout with nothing decided is not found.",
        "parameters": [
            _path_id("checkout_id", examples.CHECKOUT_ID),
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
                "headers": {"Retry-After": _RETRY_AFTER, "Cache-Control": _CACHE_CONTROL},
                "content": _json(
                    "CheckoutStatus",
                    queued=examples.QUEUED,
                    created=examples.CREATED,
                    refused=examples.REFUSED,
                ),
            },
            **_problems(*_READING, problems.NOT_FOUND, problems.INVALID),
        },
    }


def _orders() -> dict[str, Any]:
    return {
        "operationId": "listOrders",
        "tags": ["orders"],
        "summary": "The buyer's orders, newest first",
        "parameters": [
            {
                "name": "limit",
                "in": "query",
                "description": "Orders of a page.",
                "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
            },
            {
                "name": "cursor",
                "in": "query",
                "description": "Where the page before ended; follow `next` and leave it as it is.",
                "schema": {"type": "string"},
            },
        ],
        "responses": {
            "200": {"description": "A page.", "content": _json("OrderPage", page=examples.PAGE)},
            **_problems(*_READING, problems.INVALID),
        },
    }


def _order() -> dict[str, Any]:
    return {
        "operationId": "getOrder",
        "tags": ["orders"],
        "summary": "One order of the buyer",
        "parameters": [_path_id("order_id", examples.ORDER_ID)],
        "responses": {
            "200": {"description": "The order.", "content": _json("OrderView", order=examples.ORDER)},
            **_problems(*_READING, problems.NOT_FOUND),
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


def _path_id(name: str, example: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": _UUID}
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def _json(schema: str, **values: Any) -> dict[str, Any]:
    named = {name: {"value": value} for name, value in values.items()}
    return {"application/json": {"schema": _ref(schema), "examples": named}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


_READING = (problems.UNAUTHORIZED, problems.METHOD_NOT_ALLOWED, problems.INTERNAL, problems.UNAVAILABLE)


def _problems(*kinds: ProblemType) -> dict[str, Any]:
    """Responses by status. Where several kinds share a status, its description and examples name each."""
    by_status: dict[int, list[ProblemType]] = {}
    for kind in sorted(kinds, key=lambda kind: kind.status):
        by_status.setdefault(kind.status, []).append(kind)
    responses: dict[str, Any] = {}
    for status, of_status in by_status.items():
        if len(of_status) == 1:
            responses[str(status)] = {"$ref": f"#/components/responses/{of_status[0].code}"}
            continue
        responses[str(status)] = problem_response(*of_status)
    return responses


def problem_response(*kinds: ProblemType) -> dict[str, Any]:
    """A response with one of these problems, all of one status, and the headers that the status brings."""
    status = kinds[0].status
    headers: dict[str, Any] = {}
    if status == 503:
        headers["Retry-After"] = _RETRY_AFTER
    if status == 401:
        headers["WWW-Authenticate"] = {"description": "RFC 6750 §3.", "schema": {"type": "string"}}
    if status == 405:
        headers["Allow"] = {"description": "The methods that are.", "schema": {"type": "string"}}
    named = {kind.code: {"value": examples.problem(kind)} for kind in kinds}
    return {
        "description": "; ".join(f"{kind.title} (`{kind.code}`)" for kind in kinds),
        **({"headers": headers} if headers else {}),
        "content": {problems.CONTENT_TYPE: {"schema": _ref("Problem"), "examples": named}},
    }
