"""Products with slices at the edge: whose slice a line goes to, when all of them are sold out, and which are behind."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from contracts.errors import BacklogFull
from contracts.messages import decode_checkout_line
from contracts.settings import Settings
from contracts.slices import slice_of_buyer, stock_ids
from contracts.topics import partition_of
from ingest.backpressure import Backpressure
from stock_ledger.batch import Stock
from stock_ledger.view import Progress, Shown
from tests.harness import Clock, product_in, product_of
from tests.unit.ingest_fakes import Edge

PARTITIONS = 4
LAG_MAX = 50
SLICES = 3
HOT, PLAIN = product_in(1, PARTITIONS), product_in(1, PARTITIONS, 1)  # in the same partition
PLACES = {name: partition_of(name, PARTITIONS) for name in stock_ids(HOT, SLICES)}
BUYERS = [f"buyer-{number}" for number in range(20)]
NOBODY: dict[str, Any] = {"headers": {"authorization": None}}


@pytest.fixture
def settings(offline_settings: Settings) -> Settings:
    return msgspec.structs.replace(offline_settings, lag_max=LAG_MAX)


@pytest.fixture
def edge(settings: Settings) -> Edge:
    return Edge(settings)


class Writers:
    """What the writers of HOT show; the gate looks after every time, so that they are seen to live."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.beats = 0

    async def show(
        self,
        available: Mapping[str, int],
        slices: int = SLICES,
        next_offset: int = 0,
        *,
        are_open: bool = True,
        whole: bool = False,
    ) -> None:
        """Units by stock id, of a product of so many slices. Whether they are open, the first one tells."""
        for _ in range(2):
            self.beats += 1
            progress = Progress(1, next_offset, 4, self.beats)
            parts = [
                Shown(
                    partition_of(name, PARTITIONS),
                    progress,
                    {name: Stock(units, self.beats)},
                    {name: product_of(name, slices=slices, slices_open=are_open or name != HOT)},
                    whole=whole,
                )
                for name, units in available.items()
            ]
            await self.edge.view.show(parts, ())
            await self.edge.gate.refresh()

    async def show_all(self, units: int = 5) -> None:
        await self.show(dict.fromkeys(stock_ids(HOT, SLICES), units))


@pytest.fixture
def writers(edge: Edge) -> Writers:
    return Writers(edge)


async def post(edge: Edge, *product_ids: str, **changes: Any) -> tuple[int, str]:
    """Status and problem code."""
    items = [{"product_id": product_id, "quantity": 1} for product_id in product_ids or (HOT,)]
    answer = await edge.post({"items": items, "address_id": "home"}, **changes)
    return answer.status, answer.json().get("code", "")


async def slices_asked(edge: Edge) -> dict[str, int]:
    """The slice that a line of each buyer goes to, as its writer reads it."""
    there = {partition: len(records) for partition, records in edge.log.items()}
    for buyer in BUYERS:
        assert await post(edge, buyer=buyer) == (202, "")
    lines = [
        decode_checkout_line(value, key, partition, PARTITIONS)
        for partition, records in edge.log.items()
        for key, value in records[there.get(partition, 0) :]
    ]
    return {line.buyer_id: line.slice for line in lines}


def buyer_of(number: int, slices: int = SLICES) -> str:
    return next(buyer for buyer in BUYERS if slice_of_buyer(buyer, slices) == number)


ALL = {buyer: slice_of_buyer(buyer, SLICES) for buyer in BUYERS}
FIRST = dict.fromkeys(BUYERS, 0)


async def test_a_line_goes_to_its_buyers_slice(edge: Edge, writers: Writers) -> None:
    await writers.show_all()
    assert await slices_asked(edge) == ALL
    assert set(ALL.values()) == {0, 1, 2}
    keys = {partition: {key for key, _ in log} for partition, log in edge.log.items()}
    assert keys == {place: {name.encode()} for name, place in PLACES.items()}


async def test_a_buyer_is_told_of_the_product_and_of_where_the_line_lies(
    edge: Edge, writers: Writers
) -> None:
    await writers.show_all()
    items = [{"product_id": HOT, "quantity": 1}, {"product_id": PLAIN, "quantity": 1}]
    buyer = buyer_of(2)
    told = (await edge.post({"items": items, "address_id": "home"}, buyer=buyer)).json()
    assert {line["product_id"]: line["partition"] for line in told["lines"]} == {
        HOT: PLACES[f"{HOT}~2"],
        PLAIN: PLACES[HOT],
    }
    receipt = edge.signer.verify(told["receipt"], told["checkout_id"], buyer)
    assert set(receipt.positions) == {(PLACES[f"{HOT}~2"], 0), (PLACES[HOT], 0)}


async def test_a_line_of_a_product_without_slices_is_as_ever(edge: Edge, writers: Writers) -> None:
    await writers.show_all()
    assert await post(edge, PLAIN) == (202, "")
    [(key, value)] = edge.log[PLACES[HOT]]
    assert key == PLAIN.encode()
    assert b"slice" not in (value or b"")


async def test_where_the_number_is_not_known_lines_go_to_the_first_slice(edge: Edge) -> None:
    await edge.gate.refresh()
    assert await slices_asked(edge) == FIRST


async def test_the_number_counts_once_the_first_slice_has_opened_them(edge: Edge, writers: Writers) -> None:
    await writers.show({HOT: 5}, are_open=False)
    assert await slices_asked(edge) == FIRST
    await writers.show({f"{HOT}~1": 0, f"{HOT}~2": 0})
    assert await slices_asked(edge) == FIRST
    assert edge.gate.slices == {}
    await writers.show({HOT: 5})
    assert edge.gate.slices == {HOT: 3}
    assert await slices_asked(edge) == ALL


async def test_what_is_known_stays_while_the_cache_does_not_tell(edge: Edge, writers: Writers) -> None:
    await writers.show_all()
    edge.view.available = False
    await edge.gate.refresh()
    assert await slices_asked(edge) == ALL
    edge.view.available = True
    edge.view.flush()
    await edge.gate.refresh()
    assert await slices_asked(edge) == ALL


async def test_a_view_rebuilt_from_before_the_split_is_believed(edge: Edge, writers: Writers) -> None:
    await writers.show_all()
    await writers.show({HOT: 5}, slices=1, whole=True)
    assert await slices_asked(edge) == FIRST


async def test_sold_out_is_what_is_sold_out_in_every_slice(edge: Edge, writers: Writers) -> None:
    for name in stock_ids(HOT, SLICES):
        await writers.show_all(units=0)
        await writers.show({name: 1})
        assert await post(edge) == (202, ""), f"{name} has one left"
    await writers.show_all(units=0)
    assert await post(edge) == (409, "sold_out")
    assert edge.gate.hopeless([HOT, PLAIN], "independent") == ()
    assert edge.gate.hopeless([HOT, PLAIN], "all_or_nothing") == [HOT]


async def test_the_slices_of_one_product_tell_nothing_of_another(edge: Edge, writers: Writers) -> None:
    await writers.show_all()
    await writers.show({PLAIN: 0}, slices=1)
    assert await post(edge, PLAIN) == (409, "sold_out")
    assert await post(edge, HOT) == (202, "")


async def test_a_first_slice_that_is_sold_out_is_not_all_of_a_product_that_was_split(
    edge: Edge, writers: Writers
) -> None:
    await writers.show({HOT: 0})
    assert await post(edge) == (202, "")


async def test_a_gate_that_the_cache_loses_closes_for_no_product_that_was_split(
    edge: Edge, writers: Writers
) -> None:
    await writers.show_all()
    await writers.show({HOT: 0})
    del edge.view.data.gates[edge.view.keys.gate(PLACES[HOT])]
    await edge.gate.refresh()
    assert await post(edge) == (202, "")
    await writers.show({HOT: 0})
    assert await post(edge) == (202, "")
    assert await slices_asked(edge) == ALL


async def test_a_first_slice_that_sells_alone_is_all_of_its_product(edge: Edge, writers: Writers) -> None:
    await writers.show({HOT: 0, f"{HOT}~1": 5}, are_open=False)
    assert await post(edge) == (409, "sold_out")
    await writers.show({HOT: 0})
    assert await post(edge) == (202, "")


async def test_a_slice_whose_writer_is_not_seen_to_live_may_have_some_left(
    edge: Edge, writers: Writers
) -> None:
    await writers.show_all(units=0)
    edge.clock.tick(edge.settings.gate_stale_s)
    await writers.show({HOT: 0, f"{HOT}~2": 0})
    assert await post(edge) == (202, "")
    await writers.show({f"{HOT}~1": 0})
    assert await post(edge) == (409, "sold_out")


async def fall_behind(edge: Edge, number: int) -> None:
    """One line more than may wait, in this slice."""
    posting = (post(edge, buyer=buyer_of(number)) for _ in range(LAG_MAX + 1))
    assert set(await asyncio.gather(*posting)) == {(202, "")}


async def test_only_buyers_of_a_slice_that_is_behind_are_turned_away(edge: Edge, writers: Writers) -> None:
    await writers.show_all()
    await fall_behind(edge, 2)
    taken_in = len(edge.log[PLACES[f"{HOT}~2"]])
    assert await post(edge, buyer=buyer_of(2)) == (503, "backlog_full")
    assert await post(edge, PLAIN, HOT, buyer=buyer_of(2)) == (503, "backlog_full")
    assert [await post(edge, buyer=buyer_of(number)) for number in (0, 1)] == [(202, "")] * 2
    assert await post(edge, buyer=buyer_of(2), **NOBODY) == (401, "unauthorized")
    assert len(edge.log[PLACES[f"{HOT}~2"]]) == taken_in
    await writers.show({f"{HOT}~2": 5}, next_offset=1)
    assert await post(edge, buyer=buyer_of(2)) == (202, "")


async def test_a_first_slice_that_is_behind_holds_up_only_its_buyers(edge: Edge, writers: Writers) -> None:
    await writers.show_all()
    await fall_behind(edge, 0)
    assert await post(edge, buyer=buyer_of(1)) == (202, "")
    assert await post(edge, buyer=buyer_of(0)) == (503, "backlog_full")
    assert await post(edge, PLAIN, HOT, buyer=buyer_of(1)) == (503, "backlog_full"), "for the other product"


async def test_when_all_slices_are_behind_nobody_is_asked_who_they_are(edge: Edge, writers: Writers) -> None:
    await writers.show_all()
    for number in range(SLICES):
        assert await post(edge, **NOBODY) == (401, "unauthorized")
        await fall_behind(edge, number)
    assert await post(edge, **NOBODY) == (503, "backlog_full")


async def test_what_is_sold_out_is_not_turned_away(edge: Edge, writers: Writers) -> None:
    await writers.show_all()
    await fall_behind(edge, 2)
    await writers.show_all(units=0)
    buyer = {"buyer": buyer_of(2)}
    assert await post(edge, **buyer) == (409, "sold_out")
    assert await post(edge, **buyer, headers={"idempotency-key": "new"}) == (409, "sold_out")


def test_turns_go_round_slices_that_are_all_behind(settings: Settings, clock: Clock) -> None:
    """All of them decide: together they have a turn for as many as they can."""
    backpressure = Backpressure(settings, clock.monotonic)
    names = stock_ids(HOT, 2)
    first, second = (PLACES[name] for name in names)
    for partition in (first, second):
        backpressure.acknowledged(partition, LAG_MAX, 1)
    behind = Progress(1, 0, 1, 1)
    backpressure.shown({first: behind, second: behind}, (first, second))

    def wait_s() -> int:
        with pytest.raises(BacklogFull) as caught:
            backpressure.check_slices(names)
        return caught.value.retry_after_s

    assert [wait_s() for _ in range(6)] == [2, 2, 3, 3, 4, 4]
    backpressure.shown({first: Progress(1, LAG_MAX, 1, 2), second: behind}, (first, second))
    backpressure.check_slices(names)
