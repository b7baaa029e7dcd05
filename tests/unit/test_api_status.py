"""What a buyer is told of a checkout, from whichever of the cache and Postgres can tell."""

import asyncio

import pytest

from api.checkouts import Checkouts
from api.status import retry_after_s
from contracts.errors import Unavailable
from contracts.outcomes import Kind, Reason
from contracts.problems import Problem
from contracts.requests import CheckoutStatus, CreatedLine, DeadLetteredLine, QueuedLine, RefusedLine
from contracts.settings import Settings
from stock_ledger.view import Progress
from tests.unit.api_fakes import (
    BUYER,
    CHECKOUT,
    NOW,
    Clock,
    FakeReads,
    FakeView,
    created,
    decided,
    receipt,
    refused,
)


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.reads = FakeReads()
        self.view = FakeView()
        self.checkouts = Checkouts(self.reads, self.view, Settings(), self.clock.monotonic)

    async def of(self, *positions: tuple[int, int]) -> CheckoutStatus:
        return await self.checkouts.of_receipt(CHECKOUT, BUYER, receipt(*positions))

    async def ahead(self, offset: int) -> int | None:
        return (await self.of((7, offset))).ahead


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_queued_line_tells_its_place_and_estimate(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 100, 50, 1)}
    status = await bench.of((7, 150))
    assert status == CheckoutStatus(CHECKOUT, "queued", [QueuedLine(0, 7, 150, 50, 1.0)], 50, 1.0)
    assert bench.view.calls == ["checkouts"]


async def test_the_largest_wait_is_the_checkouts_and_an_unmeasured_one_is_unknown(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 100, 50, 1), 8: Progress(1, 0, 10, 1)}
    status = await bench.of((7, 150), (8, 30))
    assert (status.ahead, status.eta_s) == (50, 3.0)
    bench.view.shown[8] = Progress(1, 0, 0, 2)
    status = await bench.of((7, 150), (8, 30))
    assert (status.ahead, status.eta_s) == (50, None)


@pytest.mark.parametrize(("eta_s", "seconds"), [(None, 1), (0.0, 1), (1.2, 2), (500.0, 30)])
def test_retry_after_is_the_estimate_rounded_up_within_bounds(eta_s: float | None, seconds: int) -> None:
    assert retry_after_s(CheckoutStatus(CHECKOUT, "queued", [], 1, eta_s)) == seconds


async def test_ahead_never_grows_when_the_view_falls_back_to_older_data(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 100, 50, 9)}
    assert await bench.ahead(150) == 50
    bench.view.shown = {7: Progress(1, 60, 50, 5)}
    assert await bench.ahead(150) == 50


async def test_ahead_never_grows_when_the_view_is_lost_and_postgres_lags(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 100, 50, 9)}
    assert await bench.ahead(150) == 50
    bench.view.shown = {}
    bench.reads.next = {7: 90}
    assert await bench.ahead(150) == 50


async def test_postgres_tells_the_place_when_the_cache_has_no_progress(bench: Bench) -> None:
    bench.reads.next = {7: 120}
    status = await bench.of((7, 150))
    assert status.lines == [QueuedLine(0, 7, 150, 30, None)]


async def test_one_reading_of_postgres_serves_the_polls_that_come_soon_after(bench: Bench) -> None:
    bench.view.down = True
    bench.reads.next = {7: 120}
    assert [await bench.ahead(150), await bench.ahead(151)] == [30, 31]
    assert bench.reads.calls == ["next_offsets"]
    bench.clock.now_s += 0.3
    await bench.ahead(150)
    assert bench.reads.calls == ["next_offsets", "next_offsets"]


async def test_a_partition_never_claimed_has_decided_nothing(bench: Bench) -> None:
    assert await bench.ahead(3) == 3


async def test_a_view_that_is_behind_is_not_believed(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 100, 50, 9)}
    bench.reads.next = {7: 140}
    assert await bench.ahead(150) == 10


async def test_a_view_that_stands_still_gives_no_estimate(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 100, 50, 9)}
    assert (await bench.of((7, 150))).eta_s == 1.0
    bench.clock.now_s += 10
    assert (await bench.of((7, 150))).eta_s is None


async def test_a_reading_is_as_old_as_its_question(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Postgres is slow: what it tells may be long past when it is told."""
    bench.reads.next = {7: 120}
    read = bench.reads.next_offsets

    async def slowly(partitions: list[int]) -> dict[int, int]:
        told = await read(partitions)
        bench.clock.now_s += 0.5
        return told

    monkeypatch.setattr(bench.reads, "next_offsets", slowly)
    assert await bench.ahead(150) == 30
    bench.reads.next = {7: 140}
    bench.clock.now_s += 0.01
    assert await bench.ahead(150) == 10


async def test_a_view_that_was_gone_is_not_believed_while_postgres_is_away(bench: Bench) -> None:
    """It may have fallen back to older data, behind what another replica has told."""
    bench.view.shown = {7: Progress(1, 100, 50, 9)}
    await bench.ahead(150)
    bench.reads.down = bench.view.down = True
    bench.clock.now_s += 10
    with pytest.raises(Unavailable):
        await bench.ahead(150)
    bench.view.down = False
    bench.view.show(created(7, 140))
    bench.clock.now_s += 10
    assert (await bench.of((7, 140))).status == "created"
    with pytest.raises(Unavailable):
        await bench.ahead(150)
    bench.reads.down = False
    bench.clock.now_s += 10
    assert await bench.ahead(150) == 9


async def test_an_answer_to_an_older_question_ends_no_doubt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres was asked before the view was found gone: what it told says nothing of what was shown since."""
    bench.view.shown = {7: Progress(1, 100, 50, 9)}
    bench.reads.next = {7: 100}
    asked, answering = asyncio.Event(), asyncio.Event()
    read = bench.reads.next_offsets

    async def slowly(partitions: list[int]) -> dict[int, int]:
        told = await read(partitions)
        asked.set()
        await answering.wait()
        return told

    monkeypatch.setattr(bench.reads, "next_offsets", slowly)
    early = asyncio.create_task(bench.ahead(150))
    await asked.wait()
    bench.view.down = True
    bench.clock.now_s += 1
    assert await bench.checkouts.of_buyer(CHECKOUT, BUYER) is None, "it finds the view gone"
    answering.set()
    assert await early == 50
    bench.reads.down, bench.view.down = True, False
    bench.clock.now_s += 10
    with pytest.raises(Unavailable):
        await bench.ahead(150)


async def test_an_answer_of_before_the_view_was_back_ends_no_doubt(bench: Bench) -> None:
    """Others may have been told more by the view before it fell back."""
    bench.view.shown = {7: Progress(1, 100, 50, 9)}
    bench.reads.next = {7: 100}
    bench.view.down = True
    assert await bench.ahead(150) == 50
    bench.reads.down, bench.view.down = True, False
    bench.clock.now_s += 10
    with pytest.raises(Unavailable):
        await bench.ahead(150)
    bench.reads.down = False
    bench.clock.now_s += 10
    assert await bench.ahead(150) == 50
    bench.reads.down = True
    bench.clock.now_s += 10
    assert await bench.ahead(150) == 50, "it was at hand all the time since"


async def test_what_was_decided_once_never_waits_again(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 151, 50, 9)}
    bench.view.show(created(7, 150))
    assert (await bench.of((7, 150))).status == "created"
    bench.view.shown, bench.view.documents = {7: Progress(1, 100, 50, 5)}, {}
    bench.reads.decisions = [created(7, 150)]
    assert (await bench.of((7, 150))).status == "created"


async def test_a_view_that_stands_still_is_believed_while_postgres_is_away(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 100, 50, 9)}
    await bench.ahead(150)
    bench.clock.now_s += 10
    bench.reads.down = True
    assert [await bench.ahead(150), await bench.ahead(150)] == [50, 50]
    assert bench.reads.calls == ["next_offsets"] * 2, "an answer that failed holds off the next question"


async def test_a_postgres_that_answers_again_is_asked_as_often_as_before(bench: Bench) -> None:
    bench.reads.down = True
    with pytest.raises(Unavailable):
        await bench.ahead(150)
    bench.reads.down = False
    for next_offset in (120, 140):
        bench.reads.next = {7: next_offset}
        bench.clock.now_s += 1.1 if next_offset == 120 else 0.3
        assert await bench.ahead(150) == 150 - next_offset


async def test_a_decision_comes_from_the_view_alone(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 151, 50, 1)}
    bench.view.show(created(7, 150))
    status = await bench.of((7, 150))
    assert status.status == "created"
    [line] = status.lines
    assert isinstance(line, CreatedLine)
    assert (line.order.total.amount, line.order.payment.status) == ("258.00", "pending")
    assert bench.reads.calls == []


@pytest.mark.parametrize("cache", ["empty", "down", "unreadable"])
async def test_a_decision_comes_from_postgres_when_the_cache_cannot_tell(bench: Bench, cache: str) -> None:
    bench.view.shown = {} if cache == "empty" else {7: Progress(1, 151, 50, 1)}
    bench.view.down = cache == "down"
    bench.view.documents = {CHECKOUT: {"sku-1": b"{"}}
    bench.reads.next = {7: 151}
    bench.reads.decisions = [created(7, 150)]
    from_postgres = await bench.of((7, 150))
    other = Bench()
    other.view.show(created(7, 150))
    assert from_postgres == await other.of((7, 150))


async def test_a_passed_position_without_its_result_is_looked_up(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 151, 50, 1)}
    bench.reads.decisions = [refused(7, 150)]
    status = await bench.of((7, 150))
    assert status.status == "refused"
    assert bench.reads.calls == ["decisions_at"]


async def test_nothing_is_told_while_both_are_away(bench: Bench) -> None:
    bench.view.down = bench.reads.down = True
    with pytest.raises(Unavailable):
        await bench.of((7, 150))
    with pytest.raises(Unavailable):
        await bench.checkouts.of_buyer(CHECKOUT, BUYER)


async def test_a_cache_that_does_not_answer_is_left_alone_for_a_while(bench: Bench) -> None:
    bench.view.down = True
    for _ in range(3):
        await bench.ahead(150)
    assert bench.view.calls == ["checkouts"]
    bench.clock.now_s += Settings().cache_retry_s
    bench.view.down = False
    await bench.ahead(150)
    assert bench.view.calls == ["checkouts", "checkouts"]


async def test_polls_that_come_together_are_one_read(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 151, 50, 1), 8: Progress(1, 0, 10, 1)}
    bench.view.show(created(7, 150))
    places = ((7, 150), (7, 160), (8, 3))
    one, two, three = await asyncio.gather(*(bench.of(place) for place in places))
    assert (one.status, two.ahead, three.ahead) == ("created", 9, 3)
    assert bench.view.calls == ["checkouts"]
    bench.view.down = True
    answers = await asyncio.gather(*(bench.of(place) for place in places), return_exceptions=True)
    assert [type(answer) for answer in answers] == [CheckoutStatus] * 3, "Postgres tells"
    assert bench.view.calls == ["checkouts"] * 2


async def test_a_poller_who_left_is_nobody_elses_trouble(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 100, 50, 1)}
    gone = asyncio.ensure_future(bench.of((7, 150)))
    there = asyncio.ensure_future(bench.of((7, 160)))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await there).ahead == 60
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_conflicting_message_has_its_own_answer(bench: Bench) -> None:
    conflict = decided(7, 180, kind=Kind.CONFLICT, reason=Reason.IDEMPOTENCY_CONFLICT)
    bench.view.shown = {7: Progress(1, 181, 50, 1)}
    bench.view.show(created(7, 150))
    bench.view.show(conflict)
    [line] = (await bench.of((7, 180))).lines
    assert isinstance(line, RefusedLine)
    assert (line.reason, line.offset) == (Reason.IDEMPOTENCY_CONFLICT, 180)
    [line] = (await bench.of((7, 150))).lines
    assert isinstance(line, CreatedLine)


async def test_a_conflict_that_the_view_lost_is_not_answered_with_the_first_payloads_order(
    bench: Bench,
) -> None:
    bench.view.shown = {7: Progress(1, 181, 50, 1)}
    bench.view.show(created(7, 150))
    bench.reads.decisions = [decided(7, 180, kind=Kind.CONFLICT, reason=Reason.IDEMPOTENCY_CONFLICT)]
    assert (await bench.of((7, 180))).status == "refused"


async def test_a_repeated_line_is_answered_with_its_first_decision(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 181, 50, 1)}
    bench.view.show(created(7, 150))
    bench.reads.decisions = [created(7, 150), decided(7, 180, kind=Kind.REPEATED, first_offset=150)]
    [line] = (await bench.of((7, 180))).lines
    assert isinstance(line, CreatedLine)
    assert line.offset == 150


async def test_a_dead_letter_is_a_final_answer(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 151, 50, 1)}
    bench.reads.decisions = [
        decided(7, 150, "", checkout_id=None, buyer_id="", kind=Kind.DEAD, detail="bad key")
    ]
    status = await bench.of((7, 150))
    assert status == CheckoutStatus(CHECKOUT, "refused", [DeadLetteredLine(0, 7, 150, NOW, "bad key")])


async def test_some_created_and_some_refused_is_partly_created(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 151, 50, 1), 8: Progress(1, 0, 50, 1)}
    bench.view.show(created(7, 150, "sku-1", line=0, lines=2))
    status = await bench.of((7, 150), (8, 3))
    assert (status.status, [type(line) for line in status.lines]) == ("queued", [CreatedLine, QueuedLine])
    bench.view.show(refused(8, 3, "sku-2", line=1, lines=2))
    assert (await bench.of((7, 150), (8, 3))).status == "partly_created"


async def test_another_checkouts_decision_at_a_position_is_never_told(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 151, 50, 1)}
    bench.reads.next = {7: 151}
    bench.reads.decisions = [created(7, 150, buyer_id="buyer-2")]
    with pytest.raises(Problem) as told:
        await bench.of((7, 150))
    assert told.value.kind.status == 500


async def test_a_line_waits_again_after_postgres_was_restored_to_an_earlier_state(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 151, 50, 1)}
    bench.reads.next = {7: 140}
    assert (await bench.of((7, 150))).lines == [QueuedLine(0, 7, 150, 0, None)]


async def test_without_a_receipt_the_known_lines_are_told_and_the_rest_is_queued(bench: Bench) -> None:
    bench.view.show(created(7, 150, "sku-1", line=0, lines=2))
    status = await bench.checkouts.of_buyer(CHECKOUT, BUYER)
    assert status is not None
    assert (status.status, len(status.lines), status.ahead) == ("queued", 1, None)
    bench.reads.decisions = [refused(8, 3, "sku-2", line=1, lines=2)]
    status = await bench.checkouts.of_buyer(CHECKOUT, BUYER)
    assert status is not None
    assert (status.status, len(status.lines), status.ahead) == ("partly_created", 2, 0)


async def test_without_a_receipt_retries_that_number_their_lines_otherwise_lose_no_line(bench: Bench) -> None:
    bench.view.show(created(7, 150, "sku-1", line=0, lines=2))
    bench.view.show(created(8, 3, "sku-2", line=0, lines=2))
    status = await bench.checkouts.of_buyer(CHECKOUT, BUYER)
    assert status is not None
    assert (status.status, len(status.lines)) == ("created", 2)


async def test_without_a_receipt_a_part_is_told_while_postgres_is_away(bench: Bench) -> None:
    bench.view.show(created(7, 150, "sku-1", line=0, lines=2))
    bench.reads.down = True
    status = await bench.checkouts.of_buyer(CHECKOUT, BUYER)
    assert status is not None
    assert status.status == "queued"


@pytest.mark.parametrize("place", ["view", "postgres"])
async def test_without_a_receipt_another_buyers_checkout_is_not_there(bench: Bench, place: str) -> None:
    decision = created(7, 150, buyer_id="buyer-2")
    if place == "view":
        bench.view.show(decision)
    else:
        bench.reads.decisions = [decision]
    assert await bench.checkouts.of_buyer(CHECKOUT, BUYER) is None
