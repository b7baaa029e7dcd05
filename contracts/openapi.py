"""The HTTP interface of ingest and api as one OpenAPI 3.1 document, made from the types that validate and answer."""

import inspect
from functools import cache
from typing import Any

import msgspec
import orjson

from contracts import asks, buyers, problems, requests
from contracts.docs_page import page
from contracts.http import JSON, Answer, Page
from contracts.openapi_buyer_paths import buyer_paths
from contracts.openapi_command_paths import command_paths
from contracts.openapi_parts import problem_response
from contracts.openapi_paths import paths
from contracts.openapi_product_paths import product_paths
from contracts.outcomes import Reason

VERSION = "0.1.0"

_REF = "#/components/schemas/{name}"
_DEFS = "#/$defs/{name}"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Everything in the page is in the page.
_CSP = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_NO_CACHE = ("cache-control", "no-cache")


class ProblemError(msgspec.Struct, omit_defaults=True):
    """One thing that is wrong: `pointer` is a JSON Pointer (RFC 6901) into the body as a URI fragment, `parameter`
    the name of a parameter; `line`, from 1, and `field` are of a file.
    """

    detail: str
    pointer: str = ""
    parameter: str = ""
    line: int = 0
    field: str = ""


class Problem(msgspec.Struct, omit_defaults=True):
    """Problem details (RFC 9457). `code` ends `type` and is stable: switch on it, never on the texts.

    Of a request that may have been taken in, `idempotency_key` is the key to ask again under, also where it was made
    here; `checkout_id` or `command_id` is what it is known by, and `status_url` is where its answer will be, if it was.
    Of `sold_out`, `product_ids` are those of which nothing is left; of `transition_forbidden`,
    `order_status` is where the order is, and `allowed` what may be asked of it there.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[ProblemError] = []
    idempotency_key: str = ""
    checkout_id: str = ""
    command_id: str = ""
    status_url: str = ""
    product_ids: list[str] = []
    order_status: str = ""
    allowed: list[str] = []


_TYPES = (
    requests.CheckoutRequest,
    requests.Accepted,
    requests.CheckoutStatus,
    requests.OrderView,
    requests.OrderPage,
    buyers.AddressRequest,
    buyers.AddressList,
    buyers.CartRequest,
    buyers.CartView,
    asks.CloseRequest,
    asks.ShipRequest,
    asks.NoRequest,
    asks.StockRequest,
    asks.MoveRequest,
    asks.ProductRequest,
    asks.ProductPatch,
    asks.CommandAccepted,
    asks.ImportAccepted,
    asks.CommandStatus,
    asks.CommandLog,
    asks.ProductStock,
    asks.ProductPage,
    asks.PaymentStarted,
    asks.ProviderCallback,
    Problem,
)
_TAGS = [
    {"name": "checkouts", "description": "Submit, and see what became of it."},
    {"name": "orders", "description": "What a buyer has ordered."},
    {"name": "addresses", "description": "Where a buyer has things sent to."},
    {"name": "cart", "description": "What a buyer means to buy."},
    {"name": "products", "description": "The catalogue, and stock."},
    {"name": "payments", "description": "Paying, and what providers tell."},
    {"name": "commands", "description": "What became of what was asked."},
    {"name": "service", "description": "Health and this description."},
]


def request_schema(kind: type = requests.CheckoutRequest) -> dict[str, Any]:
    """A self-contained JSON Schema (Draft 2020-12) of the type of a request's body, for the jsonschema library.

    Patterns keep Python's meaning. It refuses what decoding as that type refuses, but for numbers such as 1.0, which
    JSON Schema counts as integers and the decoder does not.
    """
    _, components = msgspec.json.schema_components([kind], ref_template=_DEFS)
    root = components.pop(kind.__name__)
    schema: dict[str, Any] = _without_indents({"$schema": _DIALECT, **root, "$defs": components})
    return schema


@cache
def document() -> dict[str, Any]:
    """The OpenAPI 3.1 document. Patterns are ECMA-262, as OpenAPI asks for. Shared: do not change it."""
    _, schemas = msgspec.json.schema_components(_TYPES, ref_template=_REF)
    schemas["Reason"]["enum"] = [reason.value for reason in Reason]  # in their order of precedence
    schemas["Problem"]["properties"]["code"]["enum"] = [kind.code for kind in problems.ALL]
    schemas["CheckoutRequest"]["oneOf"] = [
        {"title": "an address that is on file", "required": ["address_id"], "properties": {"address_id": {"type": "string"}}},
        {"title": "an address given here", "required": ["shipping"], "properties": {"shipping": {"type": "object"}}},
    ]  # fmt: skip
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": "Sluiceway",
            "version": VERSION,
            "summary": "A flash-sale order pipeline",
            "description": "Submit a checkout, keep the `Location` of the 202 and poll it until every line "
            "has its final answer. Errors are problem documents (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "servers": [{"url": "/", "description": "ingest and api behind one host"}],
        "security": [{"bearerAuth": []}],
        "tags": _TAGS,
        "paths": paths() | buyer_paths() | command_paths() | product_paths(),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": {kind.code: problem_response(kind) for kind in problems.ALL},
            "securitySchemes": {
                "bearerAuth": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "A JWT (RFC 7519) of at most 8192 characters with `exp` and, as the buyer's id, "
                    "`sub` (1-64 of A-Z a-z 0-9 _ -). A merchant's has `merchant` in its `scope` (RFC 8693 §4.2).",
                }
            },
        },
    }
    made: dict[str, Any] = for_documents(whole)
    return made


def for_documents(node: Any) -> Any:
    """A document whose texts come from docstrings and whose patterns come from Python's types, as others read it."""
    return _for_ecma(_without_indents(node))


def pages() -> dict[str, Page]:
    """/openapi.json, and /docs: the same for people."""

    async def openapi_json() -> Answer:
        return Answer(200, [JSON, _NO_CACHE], _document_json())

    async def docs() -> Answer:
        headers = [("content-type", "text/html; charset=utf-8"), _NO_CACHE, ("content-security-policy", _CSP)]
        return Answer(200, headers, _docs_html())

    return {"/openapi.json": openapi_json, "/docs": docs}


@cache
def _document_json() -> bytes:
    return orjson.dumps(document(), option=orjson.OPT_INDENT_2)


@cache
def _docs_html() -> bytes:
    return page(document(), problems.ALL).encode()


def _without_indents(node: Any) -> Any:
    """Descriptions come from docstrings: their indents and line ends are the source file's, not the text's."""
    if isinstance(node, list):
        return [_without_indents(item) for item in node]
    if isinstance(node, dict):
        return {
            key: _unwrapped(value)
            if key == "description" and isinstance(value, str)
            else _without_indents(value)
            for key, value in node.items()
        }
    return node


def _unwrapped(text: str) -> str:
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _for_ecma(node: Any) -> Any:
    r"""Python's `\Z` as ECMA-262's `$`: both only match at the very end."""
    if isinstance(node, list):
        return [_for_ecma(item) for item in node]
    if isinstance(node, dict):
        return {
            key: value.replace(r"\Z", "$")
            if key == "pattern" and isinstance(value, str)
            else _for_ecma(value)
            for key, value in node.items()
        }
    return node
