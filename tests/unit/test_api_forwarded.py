"""What a buyer is told of a line that one slice of a product has sent on to another."""

from typing import Any

import pytest

from contracts.errors import Unavailable
from contracts.outcomes import Kind, Reason
from contracts.problems import Problem
from contracts.requests import CheckoutStatus, CreatedLine, HeldLine, QueuedLine, RefusedLine
from stock_ledger.view import Progress
from tests.unit import test_api_status
from tests.unit.api_fakes import (
    BUYER,
    CHECKOUT,
    created,
    decided,
    held,
    refused,
)
from tests.unit.api_service import Service

FIRST, OTHER = "a" * 32, "b" * 32  # payload hashes


class Bench(test_api_status.Bench):
    """A line at (7, 150) that was sent on; partition 7 is decided up to 200, at 50 per second."""

    def __init__(self) -> None:
        super().__init__()
        self.view.shown = {7: Progress(1, 200, 50, 1)}
        self.reads.next = {7: 200}
        self.send_on()

    def send_on(self, **changes: Any) -> None:
        forwarded: dict[str, Any] = {"kind": Kind.FORWARDED, "payload_hash": FIRST, "detail": '{"v":1}'}
        self.reads.decisions = [decided(7, 150, **(forwarded | changes))]

    async def of(self, *positions: tuple[int, int]) -> CheckoutStatus:
        return await super().of(*positions or ((7, 150),))


@pytest.fixture
def bench() -> Bench:
    return Bench()


QUEUED = CheckoutStatus(CHECKOUT, "queued", [QueuedLine(0, 7, 150, 0, None)], 0, None)


async def test_it_waits_with_nothing_ahead_until_it_is_decided_elsewhere(bench: Bench) -> None:
    bench.view.shown = {7: Progress(1, 148, 50, 1)}
    bench.reads.next = {7: 148}
    assert (await bench.of()).ahead == 2
    bench.view.shown = {7: Progress(1, 200, 50, 2)}
    assert await bench.of() == QUEUED
    assert await bench.of() == QUEUED
    bench.reads.decisions.append(created(9, 3, slice=1, payload_hash=FIRST))
    status = await bench.of()
    assert status.status == "created"
    [line] = status.lines
    assert isinstance(line, CreatedLine)
    assert (line.line, line.partition, line.offset, line.product_id) == (0, 9, 3, "sku-1")


async def test_it_is_told_from_postgres_while_the_cache_is_away(bench: Bench) -> None:
    bench.view.down = True
    assert await bench.of() == QUEUED
    bench.reads.decisions.append(refused(9, 3, slice=1, payload_hash=FIRST))
    [line] = (await bench.of()).lines
    assert isinstance(line, RefusedLine)
    assert line.reason is Reason.SOLD_OUT


async def test_what_the_view_shows_of_the_product_does_not_hide_that_it_waits(bench: Bench) -> None:
    """It may be the answer to another payload."""
    bench.view.show(created(9, 3, slice=1, payload_hash=OTHER))
    bench.reads.decisions.append(created(9, 3, slice=1, payload_hash=OTHER))
    assert await bench.of() == QUEUED


async def test_one_of_another_payload_is_told_its_conflict_not_the_first_ones_order(bench: Bench) -> None:
    bench.reads.decisions += [
        created(9, 3, slice=1, payload_hash=OTHER),
        decided(9, 4, slice=1, kind=Kind.CONFLICT, reason=Reason.IDEMPOTENCY_CONFLICT, payload_hash=FIRST),
    ]
    [line] = (await bench.of()).lines
    assert isinstance(line, RefusedLine)
    assert (line.reason, line.offset) == (Reason.IDEMPOTENCY_CONFLICT, 4)


async def test_it_is_followed_over_several_slices(bench: Bench) -> None:
    onward = decided(9, 3, slice=1, kind=Kind.FORWARDED, payload_hash=FIRST, detail='{"v":1}')
    bench.reads.decisions.append(onward)
    assert await bench.of() == QUEUED
    bench.reads.decisions.append(created(5, 1, slice=2, payload_hash=FIRST))
    [line] = (await bench.of()).lines
    assert (line.partition, line.offset) == (5, 1)


async def test_a_repeated_one_has_the_same_answer(bench: Bench) -> None:
    bench.reads.decisions.append(decided(7, 180, kind=Kind.REPEATED, first_offset=150, payload_hash=FIRST))
    assert (await bench.of((7, 180))).lines == [QueuedLine(0, 7, 180, 0, None)]
    bench.reads.decisions.append(created(9, 3, slice=1, payload_hash=FIRST))
    [line] = (await bench.of((7, 180))).lines
    assert isinstance(line, CreatedLine)
    assert (line.partition, line.offset) == (9, 3)


async def test_one_whose_first_copy_was_sold_elsewhere_is_answered_with_that(bench: Bench) -> None:
    bench.view.show(created(9, 3, slice=1, payload_hash=FIRST))
    bench.reads.decisions.append(created(9, 3, slice=1, payload_hash=FIRST))
    assert (await bench.of()).lines == (await bench.of((9, 3))).lines


async def test_other_lines_of_the_checkout_are_not_its_answer(bench: Bench) -> None:
    bench.send_on(lines=2)
    other = created(8, 5, "sku-2", line=1, lines=2, payload_hash=FIRST)
    bench.reads.decisions.append(other)
    bench.view.show(other)
    status = await bench.of((7, 150), (8, 5))
    assert (status.status, status.ahead, status.eta_s) == ("queued", 0, None)
    assert [type(line) for line in status.lines] == [QueuedLine, CreatedLine]
    bench.reads.decisions.append(refused(9, 3, lines=2, slice=1, payload_hash=FIRST))
    assert (await bench.of((7, 150), (8, 5))).status == "partly_created"


async def test_a_line_of_a_whole_that_is_held_elsewhere_waits_for_the_whole(bench: Bench) -> None:
    bench.send_on(whole=True, lines=2)
    other = held(8, 5, "sku-2", line=1, payload_hash=FIRST)
    bench.reads.decisions += [held(9, 3, "sku-1", slice=1, payload_hash=FIRST), other]
    bench.view.show(other)
    status = await bench.of((7, 150), (8, 5))
    assert status.status == "queued"
    assert [type(line) for line in status.lines] == [HeldLine, HeldLine]


async def test_anothers_forwarded_line_is_never_followed(bench: Bench) -> None:
    bench.send_on(buyer_id="buyer-2")
    bench.reads.decisions.append(created(9, 3, slice=1, payload_hash=FIRST))
    with pytest.raises(Problem) as told:
        await bench.of()
    assert told.value.kind.status == 500


async def test_nothing_is_told_while_postgres_is_away(bench: Bench) -> None:
    bench.reads.down = True
    with pytest.raises(Unavailable):
        await bench.of()


async def test_without_a_receipt_it_is_known_once_it_is_decided(bench: Bench) -> None:
    assert await bench.checkouts.of_buyer(CHECKOUT, BUYER) is None
    bench.reads.decisions.append(created(9, 3, slice=1, payload_hash=FIRST))
    status = await bench.checkouts.of_buyer(CHECKOUT, BUYER)
    assert status is not None
    assert (status.status, len(status.lines)) == ("created", 1)


async def test_over_http_it_is_queued_then_created() -> None:
    service = Service()
    service.view.shown = {7: Progress(1, 200, 20, 1)}
    service.reads.next = {7: 200}
    sent_on = decided(7, 150, kind=Kind.FORWARDED, payload_hash=FIRST, detail='{"v":1}')
    service.reads.decisions = [sent_on]
    queued = await service.get(service.location((7, 150)))
    assert (queued.status, queued.headers["retry-after"]) == (200, "1")
    assert queued.json["lines"] == [
        {"status": "queued", "line": 0, "partition": 7, "offset": 150, "ahead": 0, "eta_s": None}
    ]
    assert (await service.get(f"/v1/checkouts/{CHECKOUT}")).status == 404
    service.reads.decisions.append(created(9, 3, slice=1, payload_hash=FIRST))
    final = await service.get(service.location((7, 150)))
    assert (final.status, final.json["status"]) == (200, "created")
