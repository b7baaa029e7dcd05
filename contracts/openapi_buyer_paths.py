"""The paths of the OpenAPI document under which buyers keep addresses and a cart."""

from typing import Any

from contracts import openapi_examples as examples
from contracts import problems
from contracts.openapi_parts import READING, json_of, problems_of, ref

_ID = r"^[A-Za-z0-9_-]{1,64}\Z"
_BODY = (
    problems.MALFORMED_JSON,
    problems.LIMIT_REACHED,
    problems.TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.INVALID,
)
_GONE = {"204": {"description": "It is gone."}}


def buyer_paths() -> dict[str, Any]:
    """The paths, patterns as Python reads them."""
    return {
        "/v1/addresses": {"get": _addresses(), "post": _add_address()},
        "/v1/addresses/{address_id}": {
            "get": _address(),
            "put": _put_address(),
            "delete": _remove_address(),
        },
        "/v1/cart": {"get": _cart(), "delete": _clear_cart()},
        "/v1/cart/{product_id}": {"put": _put_line(), "delete": _remove_line()},
    }


def _addresses() -> dict[str, Any]:
    return {
        "operationId": "listAddresses",
        "tags": ["addresses"],
        "summary": "The buyer's addresses",
        "description": "A buyer who has addresses has one default: the one that was last made it, and is still there; "
        "if there is none, the oldest. It is for clients to offer: a checkout always names an address.",
        "responses": {
            "200": {
                "description": "All of them.",
                "content": json_of("AddressList", addresses=examples.ADDRESSES),
            },
            **problems_of(*READING),
        },
    }


def _add_address() -> dict[str, Any]:
    return {
        "operationId": "addAddress",
        "tags": ["addresses"],
        "summary": "Add an address",
        "description": "Sent twice, it is there twice: a client that may have to try again makes an id of its own and "
        "uses PUT.",
        "requestBody": _request("AddressRequest", examples.ADDRESS_REQUEST),
        "responses": {
            "201": {
                "description": "Added, under an id made here.",
                "headers": {
                    "Location": {
                        "description": "The address.",
                        "schema": {"type": "string", "format": "uri-reference"},
                    }
                },
                "content": json_of("AddressView", address=examples.ADDRESS),
            },
            **problems_of(*READING, *_BODY),
        },
    }


def _address() -> dict[str, Any]:
    return {
        "operationId": "getAddress",
        "tags": ["addresses"],
        "summary": "One address of the buyer",
        "parameters": [_id("address_id", examples.ADDRESS["address_id"])],
        "responses": {
            "200": {
                "description": "The address.",
                "content": json_of("AddressView", address=examples.ADDRESS),
            },
            **problems_of(*READING, problems.NOT_FOUND),
        },
    }


def _put_address() -> dict[str, Any]:
    stored = json_of("AddressView", address=examples.ADDRESS)
    return {
        "operationId": "putAddress",
        "tags": ["addresses"],
        "summary": "Add an address under an id of the client's, or replace the one with this id",
        "description": "Orders that were made with it keep it as it was.",
        "parameters": [_id("address_id", examples.ADDRESS["address_id"])],
        "requestBody": _request("AddressRequest", examples.ADDRESS_REQUEST),
        "responses": {
            "200": {"description": "Replaced.", "content": stored},
            "201": {"description": "Added.", "content": stored},
            **problems_of(*READING, *_BODY),
        },
    }


def _remove_address() -> dict[str, Any]:
    return {
        "operationId": "removeAddress",
        "tags": ["addresses"],
        "summary": "Remove an address",
        "description": "Orders that were made with it keep it. Behind a default that is removed stands the one before "
        "it, else the oldest. A checkout that still waits for its decision is refused with `address_unknown`.",
        "parameters": [_id("address_id", examples.ADDRESS["address_id"])],
        "responses": {**_GONE, **problems_of(*READING, problems.NOT_FOUND)},
    }


def _cart() -> dict[str, Any]:
    return {
        "operationId": "getCart",
        "tags": ["cart"],
        "summary": "The buyer's cart",
        "description": "With names, prices and stock as they are now. A checkout's items with `from_cart` leave it "
        "once they are bought.",
        "responses": {
            "200": {"description": "All of it.", "content": json_of("CartView", cart=examples.CART)},
            **problems_of(*READING),
        },
    }


def _clear_cart() -> dict[str, Any]:
    return {
        "operationId": "clearCart",
        "tags": ["cart"],
        "summary": "Remove everything from the cart",
        "responses": {"204": {"description": "It is empty."}, **problems_of(*READING)},
    }


def _put_line() -> dict[str, Any]:
    stored = json_of("CartLineView", line=examples.CART_LINE)
    return {
        "operationId": "putInCart",
        "tags": ["cart"],
        "summary": "Put a product into the cart, or change its quantity",
        "description": "The quantity replaces what was there, so it can be sent again safely. A product that is sold out "
        "is taken too: the checkout decides. So is a change of a line whose product is not on the shelf any more.",
        "parameters": [_id("product_id", examples.CART_LINE["product_id"])],
        "requestBody": _request("CartRequest", examples.CART_REQUEST),
        "responses": {
            "200": {"description": "Changed.", "content": stored},
            "201": {"description": "Added.", "content": stored},
            **problems_of(*READING, *_BODY, problems.UNKNOWN_PRODUCT),
        },
    }


def _remove_line() -> dict[str, Any]:
    return {
        "operationId": "removeFromCart",
        "tags": ["cart"],
        "summary": "Remove a product from the cart",
        "parameters": [_id("product_id", examples.CART_LINE["product_id"])],
        "responses": {**_GONE, **problems_of(*READING, problems.NOT_FOUND)},
    }


def _id(name: str, example: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": _ID}
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def _request(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": ref(schema), "examples": {"request": {"value": example}}}
    return {"required": True, "content": {"application/json": content}}
