"""Messages on the commands topic: the examples that other programs may rely on, and what must not get in."""

from pathlib import Path
from typing import Any, get_args

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.commands import Command, PutProduct, Restock, decode_command, encode_command
from contracts.decisions import order_partition
from contracts.errors import UndecodableMessage
from contracts.slices import stock_id
from contracts.topics import partition_of
from tests.conftest import PARTITIONS, examples
from tests.desk import answer_of, asked
from tests.harness import NOON

GOOD = sorted(examples().glob("command.good.*.json"))
BAD = sorted(examples().glob("command.bad.*.json"))
OF_PRODUCT = {
    "restock", "adjust", "set_stock", "put_product", "patch_product", "take_over", "open_slices", "take_in", "move",
    "settle",
}  # fmt: skip
OF_CHECKOUT = {"hold_answer", "abandon"}


def place_of(document: Any) -> tuple[bytes, int]:
    """Key and partition of a message, by its own account."""
    of = document if isinstance(document, dict) else {}
    action = of.get("action")
    if action in OF_PRODUCT or action in OF_CHECKOUT:
        subject = of["product_id" if action in OF_PRODUCT else "checkout_id"]
        if action == "move":
            subject = stock_id(subject, of["slice"])
        return subject.encode(), partition_of(subject, PARTITIONS)
    subject = of.get("order_id", "")
    try:
        return subject.encode(), order_partition(subject)
    except ValueError:
        return subject.encode(), 0


def decoded(value: bytes) -> Command:
    try:
        document = orjson.loads(value)
    except orjson.JSONDecodeError:
        document = None
    key, partition = place_of(document)
    return decode_command(value, key, partition, PARTITIONS)


def test_there_are_examples_of_every_command() -> None:
    actions = {orjson.loads(path.read_bytes())["action"] for path in GOOD}
    assert actions == {kind.__struct_config__.tag for kind in get_args(Command)}
    assert len(BAD) >= 40


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_example_decodes_to_what_it_says(path: Path) -> None:
    document = orjson.loads(path.read_bytes())
    command = decoded(path.read_bytes())
    assert (command.__struct_config__.tag, command.command_id) == (document["action"], document["command_id"])
    assert (command.subject().encode(), command.partition(PARTITIONS)) == place_of(document)
    told = orjson.loads(encode_command(command))
    defaults = {field.name: field.default for field in msgspec.structs.fields(command)}
    for field, value in document.items():
        if field in defaults:
            assert told.get(field, defaults[field]) == value
    assert decoded(encode_command(command)) == command


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_example_is_undecodable_and_says_why(path: Path) -> None:
    """Its key and partition are right: nothing but its value makes it undecodable."""
    with pytest.raises(UndecodableMessage, match=r"^(?!the key|.* does not belong)") as caught:
        decoded(path.read_bytes())
    assert 5 < len(str(caught.value)) <= 500
    assert str(caught.value).isprintable()


def test_no_value() -> None:
    with pytest.raises(UndecodableMessage, match="no value"):
        decode_command(None, b"sku-1001", 0, PARTITIONS)


@pytest.mark.parametrize("key", [None, b"", b"sku-1002", b"sku-1001\n"])
def test_another_key_than_what_it_is_about(key: bytes | None) -> None:
    restock = asked(Restock, product_id="sku-1001", units=1)
    with pytest.raises(UndecodableMessage, match="key"):
        decode_command(encode_command(restock), key, restock.partition(PARTITIONS), PARTITIONS)


def test_another_partition_than_its_own() -> None:
    restock = asked(Restock, product_id="sku-1001", units=1)
    wrong = (restock.partition(PARTITIONS) + 1) % PARTITIONS
    with pytest.raises(UndecodableMessage, match=f"partition {wrong}"):
        decode_command(encode_command(restock), b"sku-1001", wrong, PARTITIONS)


COMMANDS = [
    asked(
        PutProduct,
        product_id="sku-1001",
        name="夜",
        price="1.00",
        currency="CNY",
        sale_from=NOON,
        sale_to=NOON,
        stock_source="refuse",
    ),
    answer_of(1, 1, 2, "sku-1001", note="夜"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_what_is_encoded_decodes_to_the_same(command: Command) -> None:
    assert decoded(encode_command(command)) == command


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_at_all_raise_anything_else(value: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        decode_command(value, b"sku-1001", 0, PARTITIONS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
@settings(deadline=None)
@given(data=st.data())
def test_no_damage_raises_anything_else(command: Command, data: st.DataObject) -> None:
    good = encode_command(command)
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = good[:at] + data.draw(st.binary(max_size=3)) + good[at + 1 :]
    try:
        found = decode_command(damaged, command.subject().encode(), command.partition(PARTITIONS), PARTITIONS)
    except UndecodableMessage:
        return
    assert found.subject() == command.subject()
