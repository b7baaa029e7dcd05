"""What a buyer is told of an all-or-nothing checkout: lines by themselves, then the one answer to all of them."""

from typing import Any

import msgspec
import pytest

from contracts.commands import HoldAnswer
from contracts.decisions import BY_COMMAND, number_of, order_id_of
from contracts.errors import Unavailable
from contracts.keys import WHOLE
from contracts.outcomes import Kind, Reason
from contracts.requests import (
    CheckoutStatus,
    CreatedLine,
    DeadLetteredLine,
    HeldLine,
    QueuedLine,
    RefusedLine,
)
from contracts.times import to_ms
from stock_ledger.commands.book import Gathering
from stock_ledger.commands.holds import answer_to
from stock_ledger.commands.whole import whole_answer
from stock_ledger.view import Progress
from tests.unit.api_fakes import BUYER, CHECKOUT, NOW, created, decided, held, refused
from tests.unit.test_api_status import Bench

A, B = (7, 150), (8, 3)
ORDER_ID = order_id_of(to_ms(NOW), 2, 5 | BY_COMMAND)


class WholeBench(Bench):
    """A checkout of two lines, sku-1 at A and sku-2 at B."""

    def __init__(self) -> None:
        super().__init__()
        self.view.shown = {7: Progress(1, 151, 50, 1), 8: Progress(1, 4, 50, 1)}
        self.decide(held(*A, "sku-1", line=0), held(*B, "sku-2", line=1))

    def decide(self, *decisions: Any) -> None:
        for decision in decisions:
            self.reads.decisions = [
                d
                for d in self.reads.decisions
                if (d.partition, d.offset) != (decision.partition, decision.offset)
            ] + [decision]
            self.view.show(decision)

    def end(self, *products: str, order_id: str | None = None) -> None:
        """The one answer, of the answers of these products."""
        answers = [answer_to(d) for d in self.reads.decisions if d.product_id in products]
        self.reads.gathering = gathering(*(a for a in answers if a is not None), order_id=order_id)

    def show_end(self) -> None:
        assert self.reads.gathering is not None
        self.view.documents[CHECKOUT][WHOLE] = whole_answer(self.reads.gathering) or b""

    async def both(self) -> CheckoutStatus:
        return await self.of(A, B)


def gathering(*answers: HoldAnswer, order_id: str | None = None) -> Gathering:
    state = "confirmed" if order_id else "refused"
    return Gathering(CHECKOUT, 2, state, NOW, answers, order_id, NOW, 5)


@pytest.fixture
def bench() -> WholeBench:
    return WholeBench()


async def test_a_held_line_is_told_while_another_waits(bench: WholeBench) -> None:
    bench.view.shown[8] = Progress(1, 1, 2, 1)
    del bench.view.documents[CHECKOUT]["sku-2"]
    status = await bench.both()
    assert (status.status, status.ahead, status.eta_s) == ("queued", 2, 1.0)
    assert status.lines == [HeldLine(0, *A, NOW, "sku-1", 2), QueuedLine(1, *B, 2, 1.0)]
    assert "whole_answer" not in bench.reads.calls


@pytest.mark.parametrize(
    "second", [held(*B, "sku-2", line=1), refused(*B, "sku-2", line=1, lines=2, whole=True)]
)
async def test_lines_that_are_all_decided_are_no_answer_yet(bench: WholeBench, second: Any) -> None:
    bench.decide(second)
    status = await bench.both()
    assert (status.status, status.ahead, status.eta_s) == ("queued", 0, None)
    without = await bench.checkouts.of_buyer(CHECKOUT, BUYER)
    assert without == status


async def test_a_refused_line_keeps_its_reason_before_and_after(bench: WholeBench) -> None:
    bench.decide(refused(*A, "sku-1", line=0, lines=2, whole=True))
    before = await bench.both()
    bench.end("sku-1", "sku-2")
    after = await bench.both()
    assert (before.status, after.status) == ("queued", "refused")
    assert before.lines[0] == after.lines[0] == RefusedLine(0, *A, NOW, "sku-1", 2, Reason.SOLD_OUT, True)
    assert after.lines[1] == RefusedLine(1, *B, NOW, "sku-2", 2, Reason.OTHER_LINE_REFUSED, True)


async def test_all_held_become_one_order(bench: WholeBench) -> None:
    bench.end("sku-1", "sku-2", order_id=ORDER_ID)
    bench.show_end()
    status = await bench.both()
    assert (status.status, status.ahead) == ("created", 0)
    lines = [line for line in status.lines if isinstance(line, CreatedLine)]
    assert [(line.line, line.product_id, line.offset) for line in lines] == [
        (0, "sku-1", 150),
        (1, "sku-2", 3),
    ]
    orders = {line.order.order_id for line in lines}
    assert orders == {ORDER_ID}
    assert lines[0].order.number == number_of(ORDER_ID)
    assert lines[0].order.number.endswith("C")
    assert (lines[0].order.total.amount, lines[0].order.price.amount) == ("516.00", "129.00")
    assert (lines[0].order.payment.method, lines[0].order.name) == ("wechat", "Kettle")
    assert bench.reads.calls == []


@pytest.mark.parametrize("order_id", [ORDER_ID, None])
@pytest.mark.parametrize("cache", ["whole", "flushed", "down", "unreadable"])
async def test_the_answer_is_the_same_from_postgres(cache: str, order_id: str | None) -> None:
    told = []
    for lost in (False, True):
        bench = WholeBench()
        bench.end("sku-1", "sku-2", order_id=order_id)
        bench.show_end()
        if lost:
            bench.reads.next = {7: 151, 8: 4}
            bench.view.down = cache == "down"
            if cache == "flushed":
                bench.view.documents, bench.view.shown = {}, {}
            if cache == "unreadable":
                bench.view.documents[CHECKOUT][WHOLE] = b"{"
        told.append((await bench.both(), await bench.checkouts.of_buyer(CHECKOUT, BUYER)))
    assert told[0] == told[1]
    assert told[0][0] == told[0][1]
    assert told[0][0].status == ("created" if order_id else "refused")


async def test_what_was_ended_is_never_told_to_wait_again(bench: WholeBench) -> None:
    """The view has lost the answer, or never had it, and Postgres is away: another replica may have told it."""
    bench.end("sku-1", "sku-2", order_id=ORDER_ID)
    assert (await bench.both()).status == "created"
    bench.reads.down = True
    with pytest.raises(Unavailable):
        await bench.both()
    with pytest.raises(Unavailable):
        await bench.checkouts.of_buyer(CHECKOUT, BUYER)


async def test_a_line_is_not_told_to_be_refused_and_then_held_again(bench: WholeBench) -> None:
    """The deadline came while a line still waits, and then the view lost the answer."""
    bench.end("sku-1")
    bench.show_end()
    bench.view.shown[8] = Progress(1, 0, 50, 1)
    del bench.view.documents[CHECKOUT]["sku-2"]
    before = await bench.both()
    del bench.view.documents[CHECKOUT][WHOLE]
    assert await bench.both() == before
    assert isinstance(before.lines[0], HeldLine)


async def test_a_line_that_came_after_the_deadline_is_refused_for_it(bench: WholeBench) -> None:
    bench.end("sku-1")
    status = await bench.both()
    assert status.status == "refused"
    reasons = [line.reason for line in status.lines if isinstance(line, RefusedLine)]
    assert reasons == [Reason.HOLD_EXPIRED, Reason.HOLD_EXPIRED]


async def test_a_line_held_for_another_payload_is_a_conflict(bench: WholeBench) -> None:
    """Both payloads were decided at once, in two partitions: only one of them was gathered."""
    bench.end("sku-1", "sku-2", order_id=ORDER_ID)
    bench.decide(held(9, 1, "sku-3", line=1))
    status = await bench.of((7, 150), (9, 1))
    assert isinstance(status.lines[0], CreatedLine)
    assert isinstance(status.lines[1], RefusedLine)
    assert (status.lines[1].reason, status.lines[1].retryable) == (Reason.IDEMPOTENCY_CONFLICT, False)


async def test_a_conflicting_payload_has_its_answer_at_once(bench: WholeBench) -> None:
    for at, product_id in (((7, 180), "sku-1"), ((8, 9), "sku-2")):
        bench.decide(
            decided(
                *at, product_id, kind=Kind.CONFLICT, reason=Reason.IDEMPOTENCY_CONFLICT, whole=True, lines=2
            )
        )
    assert (await bench.of((7, 180), (8, 9))).status == "refused"
    assert bench.reads.calls == []


async def test_a_retry_has_the_same_answer(bench: WholeBench) -> None:
    bench.end("sku-1", "sku-2", order_id=ORDER_ID)
    first = await bench.both()
    bench.view.shown = {7: Progress(1, 181, 50, 2), 8: Progress(1, 10, 50, 2)}
    bench.reads.decisions += [
        decided(7, 180, "sku-1", kind=Kind.REPEATED, first_offset=150, whole=True, lines=2),
        decided(8, 9, "sku-2", kind=Kind.REPEATED, first_offset=3, whole=True, lines=2),
    ]
    assert await bench.of((7, 180), (8, 9)) == first


async def test_a_dead_line_leaves_the_others_to_the_deadline(bench: WholeBench) -> None:
    bench.reads.decisions = [d for d in bench.reads.decisions if d.product_id == "sku-1"]
    bench.reads.decisions.append(
        decided(*B, "", checkout_id=None, buyer_id="", kind=Kind.DEAD, detail="bad key")
    )
    del bench.view.documents[CHECKOUT]["sku-2"]
    assert (await bench.both()).status == "queued"
    bench.end("sku-1")
    status = await bench.both()
    assert status.status == "refused"
    assert [type(line) for line in status.lines] == [RefusedLine, DeadLetteredLine]


@pytest.mark.parametrize("shown", [True, False])
async def test_without_a_receipt_a_dead_line_does_not_keep_the_others_waiting(
    bench: WholeBench, shown: bool
) -> None:
    bench.reads.decisions = [d for d in bench.reads.decisions if d.product_id == "sku-1"]
    del bench.view.documents[CHECKOUT]["sku-2"]
    before = await bench.checkouts.of_buyer(CHECKOUT, BUYER)
    bench.end("sku-1")
    if shown:
        bench.show_end()
    after = await bench.checkouts.of_buyer(CHECKOUT, BUYER)
    assert before is not None
    assert before.status == "queued"
    expired = RefusedLine(0, *A, NOW, "sku-1", 2, Reason.HOLD_EXPIRED, True)
    assert after == CheckoutStatus(CHECKOUT, "refused", [expired], 0, 0.0)


async def test_without_a_receipt_a_part_is_no_end(bench: WholeBench) -> None:
    """Of what the view has lost, while Postgres is away; or before Postgres had it."""
    bench.end("sku-1", "sku-2")
    bench.show_end()
    del bench.view.documents[CHECKOUT]["sku-2"]
    bench.reads.down = True
    told = [await bench.checkouts.of_buyer(CHECKOUT, BUYER)]
    bench.reads.down = False
    bench.end("sku-1", "sku-2", order_id=ORDER_ID)
    bench.show_end()
    bench.reads.decisions.pop()
    told.append(await bench.checkouts.of_buyer(CHECKOUT, BUYER))
    assert [status.status for status in told if status is not None] == ["queued", "queued"]


async def test_another_buyers_answer_is_not_told(bench: WholeBench) -> None:
    bench.end("sku-1", "sku-2", order_id=ORDER_ID)
    bench.show_end()
    document = msgspec.json.decode(bench.view.documents[CHECKOUT][WHOLE])
    bench.view.documents[CHECKOUT][WHOLE] = msgspec.json.encode({**document, "buyer_id": "buyer-2"})
    bench.reads.gathering = None
    assert (await bench.both()).status == "queued"


async def test_an_independent_line_is_not_touched_by_an_answer_under_its_checkout(bench: WholeBench) -> None:
    """The same key came with two policies."""
    bench.end("sku-2")
    bench.show_end()
    bench.decide(created(7, 160, "sku-9"))
    status = await bench.of((7, 160))
    assert status.status == "created"
    assert bench.reads.calls == []
