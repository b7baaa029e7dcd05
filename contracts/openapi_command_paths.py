"""The paths of the OpenAPI document under which commands about orders are given, and payments are told."""

from typing import Any

from contracts import openapi_examples as examples
from contracts import problems
from contracts.openapi_parts import CACHE_CONTROL, READING, RETRY_AFTER, json_of, path_id, problems_of, ref
from contracts.problems import ProblemType

_JSON = ("application/json",)
KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same thing asked under the same key is the same command, done once, and answered alike. "
    "Without one, a retry is another command, unless it is under the key that a 503 `not_acknowledged` tells.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
BODY = (
    problems.MALFORMED_JSON,
    problems.TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.INVALID,
    problems.IDEMPOTENCY_CONFLICT,
    problems.NOT_ACKNOWLEDGED,
)
_BUYER = (*READING, *BODY, problems.NOT_FOUND, problems.TRANSITION_FORBIDDEN)
_MERCHANT = (*_BUYER, problems.FORBIDDEN)
_SHIPMENT = {"carrier": "SF Express", "tracking": "SF1029384756"}


def command_paths() -> dict[str, Any]:
    """The paths, patterns as Python reads them."""
    order = path_id("order_id", examples.ORDER_ID)
    steps = {
        "cancel": ("Cancel an order (its buyer)", "NoRequest", {}, _BUYER),
        "close": ("Close an order (merchant)", "CloseRequest", {"why": "damaged"}, _MERCHANT),
        "pick": ("Take an order's goods from the shelf (merchant)", "NoRequest", {}, _MERCHANT),
        "ship": ("Send an order off (merchant)", "ShipRequest", _SHIPMENT, _MERCHANT),
        "complete": ("The buyer has the goods (merchant)", "NoRequest", {}, _MERCHANT),
    }
    log = {"commands": [examples.COMMAND]}
    paying = (
        *READING,
        problems.NOT_FOUND,
        problems.TRANSITION_FORBIDDEN,
        problems.METHOD_NOT_SERVED,
        problems.PAYMENT_REFUSED,
    )
    paths: dict[str, Any] = {
        f"/v1/orders/{{order_id}}/{action}": {"post": ask(f"{action}Order", "orders", order, *of_action)}
        for action, of_action in steps.items()
    }
    return {
        **paths,
        "/v1/orders/{order_id}/events": {
            "get": read(
                "listOrderEvents", "orders", order, "What was asked of an order, oldest first", "CommandLog", log,
                (*READING, problems.NOT_FOUND),
            )
        },
        "/v1/orders/{order_id}/payment": {
            "post": read(
                "startPayment", "payments", order, "What the buyer needs to pay an order", "PaymentStarted",
                examples.PAYMENT_STARTED, paying,
            )
        },
        "/v1/payments/callbacks/{provider}": {"post": _callback()},
        "/v1/commands/{command_id}": {"get": _command()},
    }  # fmt: skip


def _command() -> dict[str, Any]:
    receipt = {
        "name": "receipt",
        "in": "query",
        "description": "The receipt of the 202, as its `Location` has it.",
        "schema": {"type": "string"},
        "example": examples.COMMAND_RECEIPT,
    }
    return {
        "operationId": "getCommand",
        "tags": ["commands"],
        "summary": "What became of a command",
        "description": "For who gave it. Without the receipt only what is decided is known, to merchants also what others "
        "asked; a command with nothing decided is not found.",
        "parameters": [path_id("command_id", examples.COMMAND_ID), receipt],
        "responses": {
            "200": {
                "description": "What is known. While `status` is `queued`, ask again after `Retry-After`.",
                "headers": {"Retry-After": RETRY_AFTER, "Cache-Control": CACHE_CONTROL},
                "content": json_of("CommandStatus", queued=examples.COMMAND_QUEUED, applied=examples.COMMAND),
            },
            **problems_of(*READING, problems.NOT_FOUND, problems.INVALID),
        },
    }


def ask(
    operation_id: str, tag: str, about: Any, summary: str, body: str, example: Any, kinds: tuple[ProblemType, ...],
    media_types: tuple[str, ...] = _JSON,
) -> dict[str, Any]:  # fmt: skip
    location = {
        "description": "Where to ask what became of it; it carries a receipt.",
        "schema": {"type": "string", "format": "uri-reference"},
    }
    return {
        "operationId": operation_id,
        "tags": [tag],
        "summary": summary,
        "description": "202 once it is in the log: it will be decided in its turn, and what becomes of it stands at "
        "`Location`. What cannot be is refused at once where that is known already.",
        "parameters": [about, KEY],
        "requestBody": {
            "required": True,
            "content": {
                media_type: {"schema": ref(body), "examples": {"one": {"value": example}}}
                for media_type in media_types
            },
        },
        "responses": {
            "202": {
                "description": "In the log, to be decided.",
                "headers": {"Location": location, "Retry-After": RETRY_AFTER},
                "content": json_of("CommandAccepted", accepted=examples.COMMAND_ACCEPTED),
            },
            **problems_of(*kinds),
        },
    }


def read(
    operation_id: str, tag: str, about: Any, summary: str, schema: str, example: Any, kinds: tuple[ProblemType, ...]
) -> dict[str, Any]:  # fmt: skip
    return {
        "operationId": operation_id,
        "tags": [tag],
        "summary": summary,
        "parameters": [about],
        "responses": {
            "200": {"description": summary, "content": json_of(schema, one=example)},
            **problems_of(*kinds),
        },
    }


def _callback() -> dict[str, Any]:
    told = {"id": "event-1", "type": "payment.paid", "order_id": examples.ORDER_ID}
    json_body = {
        "application/json": {"schema": ref("ProviderCallback"), "examples": {"as_sent": {"value": told}}}
    }
    return {
        "operationId": "tellPayment",
        "tags": ["payments"],
        "summary": "A provider tells of a payment",
        "description": "Signed as the provider signs. Acknowledged, as the provider expects it, once it is in the log; "
        "the same event again changes nothing.",
        "security": [],
        "parameters": [
            {
                "name": "provider",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "pattern": r"^[a-z0-9_]{1,32}\Z"},
                "example": "stripe",
            }
        ],
        "requestBody": {"required": True, "content": json_body},
        "responses": {
            "200": {"description": "Taken in."},
            "204": {"description": "Taken in."},
            **problems_of(
                problems.BAD_REQUEST,
                problems.BAD_SIGNATURE,
                problems.NOT_FOUND,
                problems.METHOD_NOT_ALLOWED,
                problems.TOO_LARGE,
                problems.UNSUPPORTED_MEDIA_TYPE,
                problems.CALLBACK_UNREADABLE,
                problems.INTERNAL,
                problems.NOT_ACKNOWLEDGED,
            ),
        },
    }
