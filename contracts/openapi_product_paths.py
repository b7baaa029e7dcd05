"""The paths of the OpenAPI document of products: what sells, the catalogue and stock."""

from typing import Any

from contracts import openapi_examples as examples
from contracts import problems
from contracts.openapi_command_paths import BODY, KEY, ask, read
from contracts.openapi_parts import READING, json_of, problems_of

_PRODUCT_ID = {
    "name": "product_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,64}\Z"},
    "example": "sku-1001",
}
_ANYONE: list[dict[str, list[str]]] = [{}, {"bearerAuth": []}]
_PATCHES = ("application/merge-patch+json", "application/json")
_PAGE_PARAMETERS = [
    {
        "name": "limit",
        "in": "query",
        "description": "Products of a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
    },
    {
        "name": "cursor",
        "in": "query",
        "description": "Where the page before ended; follow `next` and leave it as it is.",
        "schema": {"type": "string"},
    },
]
_SHOP = (*READING, *BODY, problems.FORBIDDEN, problems.UNKNOWN_PRODUCT)
_MOVE = {"from": 1, "to": 0, "units": 40, "why": "queue is longer there"}
_DELIVERY = {"kind": "restock", "units": 100, "why": "delivery 4711"}


def product_paths() -> dict[str, Any]:
    """The paths, patterns as Python reads them."""
    patch = {"sale_price": "99.00", "buyer_limit": None}
    unknown = (*READING, problems.UNKNOWN_PRODUCT)
    return {
        "/v1/products": {"get": _products()},
        "/v1/products/import": {"post": _import()},
        "/v1/products/export": {"get": _export()},
        "/v1/products/{product_id}": {
            "get": {
                **read(
                    "getProduct", "products", _PRODUCT_ID, "A product as it sells now", "ProductView",
                    examples.PRODUCT_VIEW, unknown,
                ),
                "description": "For everyone; to merchants also one that is not on the shelf.",
                "security": _ANYONE,
            },
            "put": ask(
                "putProduct", "products", _PRODUCT_ID, "Add or replace a product (merchant)", "ProductRequest",
                examples.PRODUCT_REQUEST, _SHOP,
            ),
            "patch": ask(
                "patchProduct", "products", _PRODUCT_ID, "Change a product (merchant)", "ProductPatch", patch, _SHOP,
                _PATCHES,
            ),
        },
        "/v1/products/{product_id}/stock": {
            "get": read(
                "getStock", "products", _PRODUCT_ID, "Where a product's units are (merchant)", "ProductStock",
                examples.PRODUCT_STOCK, (*unknown, problems.FORBIDDEN),
            ),
            "post": ask(
                "changeStock", "products", _PRODUCT_ID, "Restock, adjust or set stock (merchant)", "StockRequest",
                _DELIVERY, _SHOP,
            ),
        },
        "/v1/products/{product_id}/stock/moves": {
            "post": ask(
                "moveStock", "products", _PRODUCT_ID, "Move units between slices of a product (merchant)", "MoveRequest",
                _MOVE, _SHOP,
            ),
        },
    }  # fmt: skip


def _products() -> dict[str, Any]:
    return {
        "operationId": "listProducts",
        "tags": ["products"],
        "summary": "What sells, by id",
        "description": "For everyone; to merchants also what is not on the shelf.",
        "security": _ANYONE,
        "parameters": _PAGE_PARAMETERS,
        "responses": {
            "200": {"description": "A page.", "content": json_of("ProductPage", page=examples.PRODUCT_PAGE)},
            **problems_of(*READING, problems.INVALID),
        },
    }


def _import() -> dict[str, Any]:
    files = {
        "text/csv": examples.CSV_FILE,
        "application/x-ndjson": examples.NDJSON_FILE,
        "application/ndjson": examples.NDJSON_FILE,
    }
    return {
        "operationId": "importProducts",
        "tags": ["products"],
        "summary": "Add or replace the products of a file (merchant)",
        "description": "CSV (RFC 4180, UTF-8) with the names of `ProductRequest`'s fields and `product_id` in its first line "
        "and empty values for what is not given, or NDJSON with a `ProductRequest` and its `product_id` a line. Every line "
        "is checked before any is taken in; a 422 tells what is wrong by `line` and `field`. Each product is a command of "
        "its own. After a 503 some may be in the log: send the file again with the same `Idempotency-Key`.",
        "parameters": [KEY],
        "requestBody": {
            "required": True,
            "content": {
                media_type: {"schema": {"type": "string"}, "examples": {"file": {"value": file}}}
                for media_type, file in files.items()
            },
        },
        "responses": {
            "202": {
                "description": "All in the log, to be decided.",
                "content": json_of("ImportAccepted", accepted=examples.IMPORT_ACCEPTED),
            },
            **problems_of(
                *READING,
                *(kind for kind in BODY if kind is not problems.MALFORMED_JSON),
                problems.FORBIDDEN,
            ),
        },
    }


def _export() -> dict[str, Any]:
    schema = {"type": "string"}
    return {
        "operationId": "exportProducts",
        "tags": ["products"],
        "summary": "All products as a file (merchant)",
        "description": "What the import takes. `stock` is what is available.",
        "parameters": [
            {
                "name": "format",
                "in": "query",
                "schema": {"type": "string", "enum": ["csv", "ndjson"], "default": "ndjson"},
                "example": "csv",
            }
        ],
        "responses": {
            "200": {
                "description": "The file.",
                "headers": {"Content-Disposition": {"description": "Its name.", "schema": schema}},
                "content": {"text/csv": {"schema": schema}, "application/x-ndjson": {"schema": schema}},
            },
            **problems_of(*READING, problems.FORBIDDEN, problems.INVALID),
        },
    }
