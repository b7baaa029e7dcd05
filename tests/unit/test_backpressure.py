"""Turning checkouts away while their writer is behind: the policy, what feeds it, and what clients are told."""

import asyncio
import itertools
from typing import Any

import msgspec
import pytest

from contracts.errors import BacklogFull
from contracts.settings import Settings
from contracts.topics import partition_of
from ingest.backpressure import Backpressure, Policy
from stock_ledger.batch import Stock
from stock_ledger.view import Progress, Shown
from tests.harness import Clock, eventually, product_in, product_of
from tests.unit.ingest_fakes import Edge

LAG_MAX = 10
POLICY = Policy(LAG_MAX, 30)
PER_S = 4
A, B = product_in(0, 4), product_in(1, 4)


def progress(next_offset: int, beat: int = 1, per_s: int = PER_S) -> Progress:
    return Progress(1, next_offset, per_s, beat)


def turned_away(backpressure: Backpressure, *product_ids: str) -> int:
    """Retry-After of a checkout that is turned away."""
    with pytest.raises(BacklogFull) as caught:
        backpressure.check(product_ids)
    return caught.value.retry_after_s


@pytest.fixture
def settings(offline_settings: Settings) -> Settings:
    return msgspec.structs.replace(offline_settings, lag_max=LAG_MAX, produce_ack_deadline_s=0.3)


@pytest.fixture
def backpressure(settings: Settings, clock: Clock) -> Backpressure:
    return Backpressure(settings, clock.monotonic)


@pytest.fixture
def edge(settings: Settings) -> Edge:
    return Edge(settings)


def test_the_limit_itself_is_not_beyond_it() -> None:
    assert [POLICY.is_behind(lag) for lag in (0, LAG_MAX, LAG_MAX + 1)] == [False, False, True]


def test_the_end_of_a_log_that_is_gone_turns_nobody_away(backpressure: Backpressure) -> None:
    """Nobody would be taken in whose acknowledgement tells of the new one. One that is still there is told by the next."""
    backpressure.acknowledged(0, 0, 1000)
    backpressure.shown({0: progress(995)}, [0])
    backpressure.shown({}, [])
    backpressure.shown({0: progress(3)}, [0])
    backpressure.check([A])
    backpressure.acknowledged(0, 3, 1)
    backpressure.check([A])
    backpressure.acknowledged(0, 1000, 1)
    turned_away(backpressure, A)


def test_without_a_limit_nothing_is_behind() -> None:
    assert not Policy(0, 30).is_behind(10**9)


def test_turns_follow_each_other_at_the_rate_of_the_writer() -> None:
    turns = list(
        itertools.accumulate(
            range(5), lambda last, _: POLICY.turn_at(20, PER_S, PER_S / 2, 100.0, last), initial=0.0
        )
    )[1:]
    assert turns[0] == pytest.approx(100 + 10 / PER_S + 2 / PER_S), "first the lag must be down at the limit"
    assert [b - a for a, b in itertools.pairwise(turns)] == pytest.approx([2 / PER_S] * 4)


@pytest.mark.parametrize("per_s", [0, 1])
def test_the_longest_wait_is_told_where_the_true_one_is_longer_or_not_known(per_s: int) -> None:
    assert POLICY.turn_at(1000, per_s, per_s, 100.0, 0.0) == 130.0


def test_nobody_is_turned_away_until_the_view_tells_how_far_the_writer_is(
    backpressure: Backpressure,
) -> None:
    backpressure.acknowledged(0, 999, 1)
    backpressure.check([A])
    backpressure.shown({0: progress(989)}, [0])
    assert turned_away(backpressure, A) == 1
    backpressure.check([B])
    assert turned_away(backpressure, B, A) == 1
    backpressure.shown({}, ())
    backpressure.check([A])


def test_an_acknowledgement_shows_the_lag_at_once_and_progress_ends_it(backpressure: Backpressure) -> None:
    backpressure.shown({0: progress(100)}, [0])
    backpressure.acknowledged(0, 109, 1)
    backpressure.check([A])
    backpressure.acknowledged(0, 110, 50)
    backpressure.acknowledged(0, 89, 1)
    assert turned_away(backpressure, A) == 13, "50 beyond the limit, and itself, at 4 per second"
    backpressure.shown({0: progress(150)}, [0])
    backpressure.check([A])


def test_waits_are_whole_seconds_that_pass(backpressure: Backpressure, clock: Clock) -> None:
    backpressure.acknowledged(0, 13, 1)
    backpressure.shown({0: progress(0)}, [0])
    waits = [turned_away(backpressure, A) for _ in range(8)]
    assert waits == [2, 2, 2, 2, 3, 3, 3, 3]
    clock.tick(5.0)
    assert turned_away(backpressure, A) == 2, "a turn that has passed holds nobody up"


def test_turns_are_shared_with_the_other_processes(backpressure: Backpressure) -> None:
    """They count in the offsets: here three of four messages are theirs."""
    for round_ in range(1, 11):
        backpressure.acknowledged(0, 400 * round_, 100)
        backpressure.shown({0: progress(400 * round_, per_s=400)}, [0])
    waits = [turned_away(backpressure, A) for _ in range(100 * 10)]
    assert 9 <= waits[-1] <= 11


def test_a_writer_that_is_not_seen_to_live_has_no_rate(backpressure: Backpressure) -> None:
    backpressure.acknowledged(0, 14, 1)
    backpressure.shown({0: progress(0)}, ())
    assert turned_away(backpressure, A) == 30


def test_only_when_all_are_behind_is_everything_turned_away(backpressure: Backpressure) -> None:
    for partition in range(4):
        backpressure.check_any()
        backpressure.acknowledged(partition, 99, 1)
        backpressure.shown(dict.fromkeys(range(4), progress(0)), range(4))
    with pytest.raises(BacklogFull):
        backpressure.check_any()


async def show(edge: Edge, product_id: str, shown: Progress, available: int = 100) -> None:
    """By a writer that is seen to live."""
    partition = partition_of(product_id, 4)
    stock = {product_id: Stock(available, 2)}
    for beat in (shown.beat - 1, shown.beat):
        now = msgspec.structs.replace(shown, beat=beat)
        await edge.view.show([Shown(partition, now, stock, {product_id: product_of(product_id)})], [])
        await edge.gate.refresh()


async def post(edge: Edge, *product_ids: str, key: str = "", **changes: Any) -> tuple[int, str, str]:
    """Status, problem code and Retry-After."""
    items = [{"product_id": product_id, "quantity": 1} for product_id in product_ids]
    if key:
        changes["headers"] = {"idempotency-key": key}
    answer = await edge.post({"items": items, "address_id": "home"}, **changes)
    return answer.status, answer.json().get("code", ""), answer.headers.get("retry-after", "")


async def flood(edge: Edge, *product_ids: str) -> None:
    """As many checkouts as put the writers just beyond the limit, each partition at offset 0 and living."""
    for product_id in product_ids:
        await show(edge, product_id, progress(0))
        answers = await asyncio.gather(
            *(post(edge, product_id, key=f"{product_id}-{n}") for n in range(LAG_MAX + 1))
        )
        assert {status for status, _, _ in answers} == {202}


async def test_beyond_the_lag_503_tells_when_to_come_again(edge: Edge) -> None:
    await flood(edge, A)
    taken_in = len(edge.log[0])
    assert await post(edge, A) == (503, "backlog_full", "1")
    assert await post(edge, A, B) == (503, "backlog_full", "1")
    assert await post(edge, B) == (202, "", "1")
    assert len(edge.log[0]) == taken_in
    await show(edge, A, progress(1, beat=2))
    assert (await post(edge, A))[0] == 202


async def test_without_the_cache_nobody_is_turned_away(edge: Edge) -> None:
    await flood(edge, A)
    edge.view.available = False
    await edge.gate.refresh()
    assert (await post(edge, A))[0] == 202


async def test_what_is_sold_out_is_told_so_and_not_to_come_again(edge: Edge) -> None:
    await flood(edge, A)
    await show(edge, A, progress(0, beat=2), available=0)
    assert (await post(edge, A, key="new"))[:2] == (409, "sold_out")


async def test_who_is_turned_away_is_not_asked_who_they_are(edge: Edge) -> None:
    """A token that was not seen before costs more to verify than all the rest of an answer."""
    nobody: dict[str, Any] = {"headers": {"authorization": None}}
    await flood(edge, A)
    assert (await post(edge, A, **nobody))[:2] == (503, "backlog_full")
    assert (await post(edge, B, **nobody))[0] == 401


async def test_nor_is_anyone_told_what_is_wrong_with_a_body(edge: Edge) -> None:
    """To find it may take long, which whoever has no token must not ask for, least of all now."""
    await flood(edge, A)
    for body in (b"{", b"{}"):
        assert (await edge.post(body, headers={"authorization": None})).status == 401
    assert (await edge.post(b"{}")).status == 422


async def test_when_all_are_behind_nothing_is_looked_at(edge: Edge) -> None:
    await flood(edge, *(product_in(p, 4) for p in range(3)))
    assert (await edge.post(b"{")).status == 400
    await flood(edge, product_in(3, 4))
    assert (await edge.post(b"{")).status == 503


@pytest.mark.parametrize("limit", [{"produce_queue_max": 3}, {"produce_queue_bytes_max": 800}])
async def test_what_is_on_its_way_to_kafka_is_bounded_until_it_is_acknowledged(
    settings: Settings, limit: dict[str, int]
) -> None:
    edge = Edge(msgspec.structs.replace(settings, produce_ack_deadline_s=10.0, **limit))
    await edge.publisher.connect()
    edge.producer.hold = True
    tasks = [asyncio.create_task(post(edge, A))]
    await eventually(lambda: len(edge.producer.held) == 1)
    more = [asyncio.create_task(post(edge, A)) for _ in range(4)]
    await eventually(lambda: any(task.done() for task in more))
    refused = [task.result() for task in more if task.done()]
    assert set(refused) == {(503, "overloaded", "1")}
    assert len(refused) < len(more), "what fits is taken in"
    edge.producer.hold = False
    edge.producer.acknowledge()
    taken_in = [task for task in tasks + more if not task.done()]
    assert {status for status, _, _ in await asyncio.gather(*taken_in)} == {202}
    assert (await post(edge, A))[0] == 202
