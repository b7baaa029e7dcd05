"""Messages: the examples that other programs may rely on, and what must not get in."""

from pathlib import Path

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import UndecodableMessage
from contracts.messages import CheckoutLine, decode_checkout_line
from contracts.topics import partition_of
from tests.conftest import PARTITIONS, examples
from tests.harness import encoded, line_of

GOOD = sorted(examples().glob("checkout.good.*.json"))
BAD = sorted(examples().glob("checkout.bad.*.json"))


def decoded(value: bytes | None, product_id: str = "sku-1001") -> CheckoutLine:
    return decode_checkout_line(value, product_id.encode(), partition_of(product_id, PARTITIONS), PARTITIONS)


def test_there_are_examples() -> None:
    assert len(GOOD) >= 4
    assert len(BAD) >= 30


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_example_decodes_to_what_it_says(path: Path) -> None:
    document = orjson.loads(path.read_bytes())
    line = decoded(path.read_bytes(), document["product_id"])
    told = orjson.loads(msgspec.json.encode(line))
    defaults = {"lines": 1, "line": 0, "policy": "independent"}
    assert {k: v for k, v in document.items() if k in CheckoutLine.__struct_fields__} == {
        k: told.get(k, defaults.get(k)) for k in document if k in CheckoutLine.__struct_fields__
    }
    assert line.partition_key() == document["product_id"].encode()


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_example_is_undecodable_and_says_why(path: Path) -> None:
    with pytest.raises(UndecodableMessage) as caught:
        decoded(path.read_bytes())
    assert 5 < len(str(caught.value)) <= 500
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_example_is_bad_for_one_reason(path: Path) -> None:
    """Its key and partition are right: nothing but its value makes it undecodable."""
    with pytest.raises(UndecodableMessage, match=r"^(?!the key|product )"):
        decoded(path.read_bytes())


def test_no_value() -> None:
    with pytest.raises(UndecodableMessage, match="no value"):
        decoded(None)


@pytest.mark.parametrize("key", [None, b"", b"sku-1002", b"sku-1001\n"])
def test_another_key_than_the_product(key: bytes | None) -> None:
    value = encoded(line_of(1, "sku-1001"))
    with pytest.raises(UndecodableMessage, match="key"):
        decode_checkout_line(value, key, partition_of("sku-1001", PARTITIONS), PARTITIONS)


def test_another_partition_than_the_products() -> None:
    value = encoded(line_of(1, "sku-1001"))
    wrong = (partition_of("sku-1001", PARTITIONS) + 1) % PARTITIONS
    with pytest.raises(UndecodableMessage, match=f"partition {wrong}"):
        decode_checkout_line(value, b"sku-1001", wrong, PARTITIONS)


def test_invalid_utf8() -> None:
    value = encoded(line_of(1, "sku-1001", note="NOTE")).replace(b"NOTE", b"\xff\xfe")
    with pytest.raises(UndecodableMessage):
        decoded(value)


def test_a_deep_message_does_not_exhaust_the_stack() -> None:
    with pytest.raises(UndecodableMessage, match="recursion"):
        decoded(b'{"x":' + b'{"x":' * 200_000)


def test_a_long_error_is_cut() -> None:
    value = encoded(line_of(1, "sku-1001")).replace(b'"v":1', b'"v":1,"policy":"' + b"x" * 100_000 + b'"')
    with pytest.raises(UndecodableMessage) as caught:
        decoded(value)
    assert len(str(caught.value)) == 500


@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_else(value: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        decoded(value)


@given(st.data())
def test_no_damage_raises_anything_else(data: st.DataObject) -> None:
    good = encoded(line_of(1, "sku-1001", note="note"))
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = good[:at] + data.draw(st.binary(max_size=3)) + good[at + 1 :]
    try:
        line = decoded(damaged)
    except UndecodableMessage:
        return
    assert line.product_id == "sku-1001"


def test_what_is_encoded_decodes_to_the_same() -> None:
    line = line_of(1, "sku-1001", 3, note="夜", basket=[("sku-1001", 3), ("b", 1)], line=1, lines=2)
    assert decoded(encoded(line)) == line
