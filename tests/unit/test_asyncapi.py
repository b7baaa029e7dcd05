"""The AsyncAPI document, its examples and the reference page say what is published."""

import re
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from contracts.asyncapi import document
from contracts.commands import Close, PatchProduct, Restock
from contracts.event_data import KINDS
from contracts.events import Event
from contracts.messages import Money
from tests.desk import PARTITIONS, Desk, asked, notice_of, order_from, step_of, whole_order
from tests.harness import line_of, product_in, product_of

A, B = product_in(0, PARTITIONS), product_in(1, PARTITIONS)
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "events.md"
EXAMPLES = [(name, e) for name in KINDS for e in document()["components"]["messages"][name]["examples"]]


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    """Of a schema in the document."""
    whole = {**schema, "$defs": document()["components"]["schemas"]}
    text = orjson.dumps(whole).replace(b"#/components/schemas/", b"#/$defs/")
    return Draft202012Validator(orjson.loads(text), format_checker=FormatChecker())


def check(name: str, headers: dict[str, str], data: bytes) -> None:
    """By the document, and by the types, which know every field."""
    message = document()["components"]["messages"][name]
    validator(message["headers"]).validate(headers)
    validator(message["payload"]).validate(orjson.loads(data))
    validator(message["bindings"]["kafka"]["key"]).validate(headers["ce_subject"])
    fitting = []
    for kind in KINDS[name].data:
        try:
            msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            continue
        fitting.append(kind)
    assert len(fitting) == 1, f"{name}: {data!r} is {fitting} of {KINDS[name].data}"


def sold() -> list[Event]:
    """A sale with every type of event, and every form of its data."""
    desk = Desk()
    for product_id in (A, B):
        desk.put(product_of(product_id), 99)
    order_from(desk, line_of(1, A, 2), "pay", "pick", "ship", "complete")
    order = order_from(desk, line_of(2, A, 2))
    desk.obey(
        notice_of(order, "failed"), notice_of(order, amount=Money("1.00", "CNY")), notice_of(order),
        asked(Close, order_id=order.order_id, why="damaged"), notice_of(order, "refunded"),
    )  # fmt: skip
    order_from(desk, line_of(3, A), "expire")
    order_from(desk, line_of(4, A), "cancel")
    whole_order(desk, [line_of(5, A), line_of(5, B)])
    desk.sell(line_of(6, A, 200))
    for n, product_id in enumerate((A, B)):
        desk.sell(line_of(7, product_id, 1 + 200 * n, policy="all_or_nothing", line=n, lines=2))
    desk.deliver()
    desk.obey(
        asked(Restock, product_id=A, units=5, why="delivery 4711"),
        asked(PatchProduct, product_id=A, sale_price="99.00"),
        asked(PatchProduct, product_id=B, slices=2),
    )
    desk.deliver()
    return desk.events


def test_everything_that_is_published_is_described() -> None:
    forms = set()
    for key, data, headers in sold():
        told = {name: value.decode() for name, value in headers}
        assert told["ce_subject"] == key.decode()
        check(told["ce_type"], told, data)
        forms.add((told["ce_type"], b'"command_offset"' in data))
    assert {name for name, _ in forms} == set(KINDS)
    assert len(forms) == sum(len(kind.data) for kind in KINDS.values())


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_an_example_is_what_it_is_an_example_of(name: str, example: dict[str, Any]) -> None:
    check(name, example["headers"], orjson.dumps(example["payload"]))
    wrong = {key: value for key, value in example["payload"].items() if key != "partition"}
    assert not validator(document()["components"]["messages"][name]["payload"]).is_valid(wrong)


def test_every_form_has_its_example() -> None:
    assert len(EXAMPLES) == sum(len(kind.data) for kind in KINDS.values())


def test_the_document_is_whole_by_itself() -> None:
    whole = document()
    assert whole["asyncapi"] == "3.0.0"
    text = orjson.dumps(whole).decode()
    for reference in set(re.findall(r'"\$ref":"#/([^"]+)"', text)):
        found: Any = whole
        for part in reference.split("/"):
            found = found[part]
    assert r"\\Z" not in text
    assert whole["channels"]["events"]["messages"].keys() == whole["components"]["messages"].keys()
    for schema in whole["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_page_tells_of_every_type_and_its_fields() -> None:
    page = PAGE.read_text()
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (.+) \|$", page, re.MULTILINE))
    assert set(KINDS) <= set(rows)
    for name, kind in KINDS.items():
        own = set.union(*(set(data.__struct_fields__) for data in kind.data))
        missing = [field for field in own if f"`{field}`" not in page]
        assert not missing, f"{name}: {missing}"
    for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL):
        data = orjson.loads(block)
        check_any(orjson.dumps(data))


def check_any(data: bytes) -> None:
    """Whether some event may have this data."""
    name = orjson.loads(data).get("type")
    kinds = KINDS[name].data if name else (*KINDS["order.created"].data, *KINDS["checkout.refused"].data)
    for kind in kinds:
        try:
            msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            continue
        return
    raise AssertionError(f"no event has the data {data!r}")


def test_a_step_that_is_refused_tells_nothing() -> None:
    desk = Desk()
    desk.put(product_of(A))
    order = order_from(desk, line_of(1, A))
    told = len(desk.events)
    desk.obey(step_of(order, "ship"))
    assert len(desk.events) == told
