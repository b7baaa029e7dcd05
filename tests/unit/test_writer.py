"""The writer in memory: what goes through it, and what it does with bad messages and servers that come back."""

from typing import Any

import msgspec
import pytest

from contracts.messages import CheckoutLine
from contracts.outcomes import Kind, Reason
from contracts.topics import Stream
from stock_ledger.batch import Stock
from tests.harness import (
    encoded,
    eventually,
    line_of,
    product_of,
    results_of,
    running,
    uuid_of,
)
from tests.unit.writer_world import PARTITIONS, A, B, World, distinct
from workers.fakes import MemoryMessage
from workers.log import Batch, pieces


async def test_a_batch_goes_all_the_way(world: World) -> None:
    writer, log = world.writer()
    world.send(line_of(1, A, 4), line_of(2, A, 7), line_of(1, A, 4), line_of(3, A, 6))
    world.send(line_of(1, B, line=1, lines=2), partition=1)
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == [Kind.CREATED, Kind.REFUSED, Kind.REPEATED, Kind.CREATED]
    assert world.kinds(1) == [Kind.CREATED]
    assert world.ledger.stock == {A: Stock(0, 3), B: Stock(9, 2)}
    assert world.event_ids() == [b"0-0", b"0-1", b"0-3"]
    assert world.event_ids(1) == [b"1-0"]
    assert (await results_of(world.view, uuid_of(1))).keys() == {A, B}
    assert (await results_of(world.view, uuid_of(2)))[A] == world.ledger.decided[0, 1].document()
    gates = await world.view.gates([0, 1])
    assert [gates[p].sold_out for p in (0, 1)] == [frozenset({A}), frozenset()]
    assert await world.shown() == (1, 4)
    assert (await world.view.load({0: [A]}))[0].entries == {A: (product_of(A), Stock(0, 3))}


async def test_what_was_read_is_decided_in_parts_of_bounded_size(world: World) -> None:
    lines = [line_of(n, A) for n in range(5)]
    size = len(encoded(lines[0])) + len(lines[0].partition_key())
    world.settings = msgspec.structs.replace(world.settings, batch_bytes_max=3 * size)
    writer, log = world.writer()
    persisted: list[int] = []
    persist = world.ledger.persist

    async def counted(advances: Any, decided: Any, loaded: Any) -> None:
        persisted.append(len(decided.decisions))
        await persist(advances, decided, loaded)

    world.ledger.persist = counted  # type: ignore[method-assign]
    world.send(*lines)
    world.send(*(line_of(n, B) for n in range(5, 7)), partition=1)
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert persisted == [3, 3, 1]
    assert world.kinds() == [Kind.CREATED] * 5
    assert world.kinds(1) == [Kind.CREATED] * 2


def test_a_batch_is_cut_in_order_and_nothing_is_left_out() -> None:
    values = {0: [b"a", b"bb", b"c" * 9, b"d"], 1: [b"e", b"f"], 2: [b"g" * 3]}
    batch: Batch = {
        p: [MemoryMessage(offset, None, value) for offset, value in enumerate(of_p)]
        for p, of_p in values.items()
    }
    cut = [{p: [m.value for m in of_p] for p, of_p in piece.items()} for piece in pieces(batch, 3)]
    assert cut == [{0: [b"a", b"bb"]}, {0: [b"c" * 9]}, {0: [b"d"], 1: [b"e", b"f"]}, {2: [b"g" * 3]}]
    assert list(pieces(batch, 100)) == [batch]
    assert list(pieces({}, 3)) == [{}]


async def test_events_are_the_decisions(world: World) -> None:
    writer, log = world.writer()
    world.send(line_of(1, A), line_of(1, A, payload_hash="f" * 32), line_of(2, A, 99))
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    documents = [world.ledger.decided[0, offset].document() for offset in range(3)]
    assert [value for _, value, _ in world.broker.events[0]] == documents
    assert (await results_of(world.view, uuid_of(1)))["#0:1"] == documents[1]


async def test_redelivery_of_decided_offsets_has_no_effect(world: World) -> None:
    writer, log = world.writer()
    world.send(line_of(1, A), line_of(2, A))
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
        before = (dict(world.ledger.decided), dict(world.ledger.stock), world.event_ids())
        log.positions[Stream.CHECKOUTS, 0] = 0
        await eventually(lambda: log.positions[Stream.CHECKOUTS, 0] == 2)
        world.send(line_of(3, A))
        log.positions[Stream.CHECKOUTS, 0] = 1
        await world.all_done()
    decided, stock, events = before
    assert world.ledger.decided.items() >= decided.items()
    assert len(world.ledger.decided) == len(decided) + 1
    assert world.ledger.stock[A] == Stock(stock[A].available - 1, stock[A].seq + 1)
    assert world.event_ids() == [*events, b"0-2"]


async def test_an_expected_total_over_products_of_other_partitions(world: World) -> None:
    total = {"amount": "387.00", "currency": "CNY"}
    basket = [(A, 1), (B, 2)]
    writer, log = world.writer()
    for checkout, amount in ((1, "387.00"), (2, "386.99")):
        expected = msgspec.convert(total | {"amount": amount}, CheckoutLine.__annotations__["expected_total"])
        world.send(line_of(checkout, A, 1, expected_total=expected, basket=basket))
        world.send(line_of(checkout, B, 2, expected_total=expected, basket=basket), partition=1)
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == world.kinds(1) == [Kind.CREATED, Kind.REFUSED]
    assert world.ledger.decided[0, 1].reason is Reason.PRICE_CHANGED


async def test_a_changed_catalogue_is_loaded_again(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        world.ledger.catalogue[A] = product_of(A, version=2, name="Another name")
        world.send(line_of(2, A))
        await world.all_done()
    order = world.ledger.decided[0, 1].order
    assert order is not None
    assert order.name == "Another name"


POISON = [
    (b"not json", A.encode(), "malformed"),
    (None, A.encode(), "no value"),
    (None, None, "no value"),
    (b"", None, "truncated"),
    (encoded(line_of(1, A)), b"another key", "key"),
    (encoded(line_of(1, B)), B.encode(), "does not belong to partition 0"),
    (encoded(line_of(1, A)).replace(b'"v":1', b'"policy":"\\u0000","v":1'), A.encode(), "policy"),
    (
        encoded(line_of(1, A)).replace(b'"v":1', b'"policy":"' + b"x" * 1_000_000 + b'","v":1'),
        A.encode(),
        "enum value",
    ),
    (b'{"x":' + b"[" * 100_000, A.encode(), "recursion"),
    (b"x" * 2_000_000, b"k" * 300_000, "malformed"),
]


@pytest.mark.parametrize(
    ("value", "key", "why"), POISON, ids=[f"{n}-{why}" for n, (*_, why) in enumerate(POISON)]
)
async def test_poison_is_set_aside_and_the_stream_goes_on(
    world: World, value: bytes | None, key: bytes | None, why: str
) -> None:
    writer, log = world.writer()
    world.send(line_of(1, A))
    world.broker.append(0, key, value)
    world.send(line_of(2, A))
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == [Kind.CREATED, Kind.DEAD, Kind.CREATED]
    [(letter_key, letter_value, headers)] = world.broker.dead_letters[0]
    told = dict(headers)
    assert why in told["reason"].decode()
    assert (told["partition"], told["offset"]) == (b"0", b"1")
    assert world.ledger.decided[0, 1].detail == told["reason"].decode()
    assert "\0" not in world.ledger.decided[0, 1].detail  # Postgres could not store it
    assert len(world.ledger.decided[0, 1].detail) <= 500
    assert len(letter_key or b"") + len(letter_value or b"") <= 600_000
    if "truncated-to" in told:
        assert (value or b"").startswith(letter_value or b"")
    else:
        assert (letter_key, letter_value) == (key, value)
    assert world.event_ids() == [b"0-0", b"0-2"]


async def test_a_lost_ack_publishes_the_same_again(world: World) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        await eventually(lambda: len(world.ledger.claims) == PARTITIONS)
        log.lose_acks = 2
        world.send(line_of(1, A), line_of(2, A))
        await world.all_done()
    assert world.kinds() == [Kind.CREATED] * 2
    assert world.event_ids() == [b"0-0", b"0-1"] * 3
    assert len(distinct(world.broker.events[0])) == 2
    assert world.ledger.claims[0].epoch == 1


async def test_lost_acks_of_dead_letters_decide_nothing_twice(world: World) -> None:
    writer, log = world.writer()
    log.lose_acks = 1
    world.broker.append(0, b"k", b"poison")
    async with running(writer):
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == [Kind.DEAD]
    assert len(world.broker.dead_letters[0]) == 2


@pytest.mark.parametrize("part", ["ledger", "log"])
async def test_servers_may_come_back(world: World, part: str) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A))
        await world.all_done()
        switch = world.ledger if part == "ledger" else log
        switch.available = False
        world.send(line_of(2, A))
        await eventually(lambda: "problem" in writer._health.report()[1])
        assert not writer._health.report()[0]
        switch.available = True
        await world.all_done()
        await eventually(lambda: writer._health.report()[0])
    assert world.kinds() == [Kind.CREATED] * 2
    assert world.event_ids() == [b"0-0", b"0-1"]


async def test_a_writer_may_start_before_its_log(world: World) -> None:
    writer, log = world.writer()
    log.available = False
    world.send(line_of(1, A))
    async with running(writer):
        await eventually(lambda: "switched off" in str(writer._health.report()[1].get("problem")))
        log.available = True
        await world.share_out(log)
        await world.all_done()
    assert world.kinds() == [Kind.CREATED]
    assert log not in world.broker.members


async def test_a_writer_whose_log_never_comes_can_be_stopped(world: World) -> None:
    writer, log = world.writer()
    log.available = False
    async with running(writer):
        await eventually(lambda: "switched off" in str(writer._health.report()[1].get("problem")))
    assert world.ledger.claims == {}
