"""The OpenAPI document and the request schema say what the code does."""

import ast
import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import OpenAPIV31SpecValidator

from api.catalogue import MEDIA_TYPES
from contracts import openapi_examples as examples
from contracts import problems
from contracts.docs_page import page
from contracts.openapi import document, request_schema
from contracts.outcomes import OrderStatus, PaymentStatus
from contracts.requests import CheckoutRequest

ROOT = Path(__file__).parent.parent.parent
SHIPPING = examples.REQUEST["shipping"]
ITEM = {"product_id": "sku-1", "quantity": 1}

GOOD: list[dict[str, Any]] = [
    examples.REQUEST,
    {"items": [ITEM], "address_id": "home"},
    {"items": [ITEM], "address_id": None, "shipping": SHIPPING, "expected_total": None},
    {"items": [ITEM, ITEM], "address_id": "home", "policy": "all_or_nothing", "note": "ring\ntwice 🛎"},
    {"items": [{"product_id": "a" * 64, "quantity": 1_000_000}], "address_id": "home"},
    {"items": [ITEM], "address_id": "home", "expected_total": {"amount": "0.0001", "currency": "CNY"}},
]
BAD: list[Any] = [
    {},
    [],
    None,
    {"items": []},
    {"items": {}},
    {"items": [{**ITEM, "quantity": 0}]},
    {"items": [{**ITEM, "quantity": 1_000_001}]},
    {"items": [{**ITEM, "quantity": True}]},
    {"items": [{**ITEM, "quantity": "1"}]},
    {"items": [{**ITEM, "quantity": 1.5}]},
    {"items": [{**ITEM, "color": "red"}]},
    {"items": [{"product_id": "sku-1"}]},
    {"items": [{**ITEM, "product_id": ""}]},
    {"items": [{**ITEM, "product_id": "a" * 65}]},
    {"items": [{**ITEM, "product_id": "sku 1"}]},
    {"items": [{**ITEM, "product_id": "sku-1\n"}]},
    {"items": [ITEM], "unknown": 1},
    {"items": [ITEM], "policy": "any"},
    {"items": [ITEM], "policy": None},
    {"items": [ITEM], "note": "a" * 10_001},
    {"items": [ITEM], "note": "\x00"},
    {"items": [ITEM], "payment_method": "We Chat"},
    {"items": [ITEM], "address_id": 1},
    {"items": [ITEM], "shipping": {**SHIPPING, "contact_name": ""}},
    {"items": [ITEM], "shipping": {**SHIPPING, "phone": "call me"}},
    {"items": [ITEM], "shipping": {k: v for k, v in SHIPPING.items() if k != "address"}},
    {"items": [ITEM], "expected_total": {"amount": 129, "currency": "CNY"}},
    {"items": [ITEM], "expected_total": {"amount": "1e3", "currency": "CNY"}},
    {"items": [ITEM], "expected_total": {"amount": "1", "currency": "cny"}},
]


def of_component(name: str) -> Draft202012Validator:
    components = {"$defs": document()["components"]["schemas"]}
    text = orjson.dumps({"$ref": f"#/$defs/{name}", **components}).replace(
        b"#/components/schemas/", b"#/$defs/"
    )
    return Draft202012Validator(orjson.loads(text), format_checker=FormatChecker())


def test_the_document_is_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(copy.deepcopy(document())).validate()


def test_the_request_schema_is_whole_by_itself() -> None:
    schema = request_schema()
    Draft202012Validator.check_schema(schema)
    refs = re.findall(r'"\$ref":"([^"]+)"', orjson.dumps(schema).decode())
    assert refs
    assert all(ref.removeprefix("#/$defs/") in schema["$defs"] for ref in refs)


@pytest.mark.parametrize("body", GOOD)
def test_what_decodes_is_valid_by_both_schemas(body: dict[str, Any]) -> None:
    msgspec.json.decode(orjson.dumps(body), type=CheckoutRequest)
    Draft202012Validator(request_schema()).validate(body)
    of_component("CheckoutRequest").validate(body)


@pytest.mark.parametrize("body", BAD)
def test_what_does_not_decode_is_invalid_by_both_schemas(body: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(orjson.dumps(body), type=CheckoutRequest)
    assert not Draft202012Validator(request_schema()).is_valid(body)
    assert not of_component("CheckoutRequest").is_valid(body)


def test_every_error_is_found_with_its_place() -> None:
    body = {"items": [ITEM, {**ITEM, "quantity": 0}], "note": 7, "shipping": {**SHIPPING, "phone": "?"}}
    places = {e.json_path for e in Draft202012Validator(request_schema()).iter_errors(body)}
    assert places == {"$.items[1].quantity", "$.note", "$.shipping"}


@pytest.mark.parametrize("given", [{}, {"address_id": "home", "shipping": SHIPPING}, {"address_id": None}])
def test_the_document_asks_for_exactly_one_address(given: dict[str, Any]) -> None:
    assert not of_component("CheckoutRequest").is_valid({"items": [ITEM], **given})


def test_patterns_are_ecma_in_the_document_and_python_in_the_request_schema() -> None:
    assert r"\\Z" not in orjson.dumps(document()).decode()
    assert request_schema()["properties"]["payment_method"]["pattern"].endswith(r"\Z")


def test_every_example_is_valid_by_its_schema() -> None:
    checked = 0
    for item in document()["paths"].values():
        for operation in item.values():
            contents = [operation.get("requestBody", {}), *operation["responses"].values()]
            for media in (media for c in contents for media in c.get("content", {}).values()):
                for example in media.get("examples", {}).values():
                    schema = media["schema"]
                    named = "$ref" in schema
                    (
                        of_component(schema["$ref"].rsplit("/", 1)[1])
                        if named
                        else Draft202012Validator(schema)
                    ).validate(example["value"])
                    checked += 1
    assert checked > 10


def test_every_operation_tells_its_errors() -> None:
    operations = [o for item in document()["paths"].values() for o in item.values()]
    assert len({o["operationId"] for o in operations}) == len(operations)
    submit = document()["paths"]["/v1/checkouts"]["post"]["responses"]
    assert set(submit) == {"202", "400", "401", "405", "409", "413", "415", "422", "500", "503"}
    assert set(submit["202"]["headers"]) == {"Location", "Retry-After"}
    assert "Retry-After" in submit["503"]["headers"]
    secured = [o for o in operations if any(o.get("security", [{"bearerAuth": []}]))]
    assert all({"400", "401", "405", "500"} <= o["responses"].keys() for o in secured)
    codes = document()["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
    assert codes == [kind.code for kind in problems.ALL]


def test_the_statuses_of_orders_and_payments_are_told() -> None:
    schemas = document()["components"]["schemas"]
    for name, statuses in (("OrderView", OrderStatus), ("OrderPayment", PaymentStatus)):
        named = schemas[name]["properties"]["status"]["$ref"].rsplit("/", 1)[1]
        assert set(schemas[named]["enum"]) == set(statuses)


def test_only_who_needs_a_bearer_token_is_told_so() -> None:
    responses = document()["components"]["responses"]
    assert "WWW-Authenticate" in responses["unauthorized"]["headers"]
    assert "WWW-Authenticate" in responses["forbidden"]["headers"]
    assert "headers" not in responses["bad_signature"]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/v1/checkouts/{checkout_id}", {"Retry-After", "Cache-Control"}),
        ("/v1/commands/{command_id}", {"Retry-After", "Cache-Control"}),
        ("/v1/products/export", {"Content-Disposition"}),
    ],
)
def test_what_is_said_in_headers_is_told(path: str, names: set[str]) -> None:
    assert document()["paths"][path]["get"]["responses"]["200"]["headers"].keys() == names


def test_a_file_may_be_of_every_type_that_is_read() -> None:
    files = document()["paths"]["/v1/products/import"]["post"]["requestBody"]["content"]
    assert files.keys() == MEDIA_TYPES.keys()


def test_every_member_of_a_problem_is_in_its_schema() -> None:
    """Whoever raises one may give members of its own."""
    given = {
        keyword.arg
        for folder in ("contracts", "ingest", "api")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem"
        for keyword in node.keywords
    }
    known = document()["components"]["schemas"]["Problem"]["properties"]
    assert {"product_ids", "order_status", "idempotency_key"} <= given
    assert given - {"errors", "headers", None} <= known.keys()


def test_reasons_stand_in_their_order_of_precedence() -> None:
    assert document()["components"]["schemas"]["Reason"]["enum"][0] == "idempotency_conflict"


class _Page(HTMLParser):
    """Collects ids and links, and that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "img", "iframe"}
        named = dict(attrs)
        self.ids.update(value for value in [named.get("id")] if value)
        self.links.extend(value for value in [named.get("href")] if value)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_its_links_lead_somewhere() -> None:
    text = page(document(), problems.ALL)
    parsed = _Page()
    parsed.feed(text)
    assert parsed.open == []
    assert {link.removeprefix("#") for link in parsed.links if link != "openapi.json"} <= parsed.ids
    assert not re.search(r"(src=|url\(|@import|https?://)", text)
    for kind in problems.ALL:
        assert kind.code in text
    assert "Idempotency-Key: cart-7f3a" in text
    assert "?status=paid&amp;status=shipped&amp;from=" in text


def test_the_page_escapes_what_it_shows() -> None:
    changed = copy.deepcopy(document())
    changed["info"]["title"] = "<script>alert(1)</script>"
    assert "<script>" not in page(changed, problems.ALL)
