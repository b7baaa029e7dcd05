"""Bugs planted one at a time in what decides commands: each takes a guarantee away, and the simulation must find it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from contracts.commands import Cancel, Pay
from contracts.outcomes import OrderStatus
from stock_ledger import lifecycle
from stock_ledger.commands import holds, orders, payments
from stock_ledger.commands import obey as obeying
from stock_ledger.commands.book import Book, Gathering, Need, OrderState
from stock_ledger.commands.fakes import MemoryCommandLedger, MemoryDue
from stock_ledger.commands.work import Work
from workers.commands import CommandLane
from workers.intake import Intake
from workers.lines import LineLane


@contextmanager
def commands_decided_again() -> Iterator[None]:
    """What was asked twice has its effect twice."""
    original = MemoryCommandLedger.load

    async def load(self: MemoryCommandLedger, need: Need) -> Book:
        return msgspec.structs.replace(await original(self, need), decided={})

    def check(self: MemoryCommandLedger, advances: Any, obeyed: Any) -> None:
        self._check_versions(obeyed)

    with (
        patch.object(MemoryCommandLedger, "load", load),
        patch.object(MemoryCommandLedger, "check", check),
    ):
        yield


def commands_without_a_fence() -> AbstractContextManager[Any]:
    """A writer that lost its partition goes on deciding its commands."""
    return patch.object(MemoryCommandLedger, "check", lambda self, advances, obeyed: None)


def commands_not_told_again_at_a_claim() -> AbstractContextManager[Any]:
    async def publish_again(self: CommandLane, partition: int, start: int, end: int) -> None:
        return

    return patch.object(CommandLane, "publish_again", publish_again)


def commands_committed_before_they_are_told() -> AbstractContextManager[Any]:
    original = CommandLane._publish

    async def publish(self: CommandLane, told: Any) -> None:
        told = list(told)
        places = {p: 0 for p, _ in told}
        ends = await self._log.end_offsets(self.stream, sorted(places))
        await self._log.commit(self.stream, ends)
        await original(self, told)

    return patch.object(CommandLane, "_publish", publish)


def units_given_back_twice() -> AbstractContextManager[Any]:
    """An order that its buyer cancelled can be closed once more."""
    again = {(OrderStatus.CLOSED_BY_USER, "close"): OrderStatus.CLOSED_BY_MERCHANT}
    return patch.dict(lifecycle.TRANSITIONS, again)


def units_not_given_back() -> AbstractContextManager[Any]:
    """An order that timed out keeps its units."""
    original = orders.give_back

    def give_back(work: Work, order: OrderState, action: str) -> None:
        if action != "expire":
            original(work, order, action)

    return patch.object(orders, "give_back", give_back)


def limit_not_given_back() -> AbstractContextManager[Any]:
    """What a buyer cancelled still counts against the limit."""
    return patch.object(Work, "count_purchase", lambda self, product_id, buyer_id, units: None)


def late_payment_taken_after_a_cancel() -> AbstractContextManager[Any]:
    late = {(OrderStatus.CLOSED_BY_USER, "pay"): OrderStatus.PAID}
    return patch.dict(lifecycle.TRANSITIONS, late)


def late_payment_sells_what_is_gone() -> AbstractContextManager[Any]:
    """An order that timed out is taken as paid, whatever is left."""

    def take_again(work: Work, order: OrderState) -> bool:
        return True

    return patch.object(payments, "_take_again", take_again)


def any_amount_is_enough() -> AbstractContextManager[Any]:
    def pay(work: Work, notice: Any) -> Any:
        order = work.book.orders.get(notice.order_id)
        if order is not None:
            money = msgspec.structs.replace(notice.amount, amount=str(order.total), currency=order.currency)
            notice = msgspec.structs.replace(notice, amount=money)
        return payments.pay(work, notice)

    return patch.dict(obeying.HANDLERS, {Pay: pay})


def others_may_cancel() -> AbstractContextManager[Any]:
    def cancel(work: Work, command: Any) -> Any:
        order = work.book.orders.get(command.order_id)
        if order is not None:
            command = msgspec.structs.replace(command, buyer_id=order.buyer_id)
        return orders.cancel(work, command)

    return patch.dict(obeying.HANDLERS, {Cancel: cancel})


def command_poison_dropped() -> AbstractContextManager[Any]:
    """A command that cannot be decoded is passed over without a decision."""
    original = Intake.take

    async def take(self: Intake, *arguments: Any) -> Any:
        taken, advances = await original(self, *arguments)
        return [one for one in taken if one.error == ""], advances

    return patch.object(Intake, "take", take)


def coordinator_forgets_a_hold() -> AbstractContextManager[Any]:
    """After a refusal only the line that was answered last is released."""
    original = holds._release

    def release(work: Work, answers: Any) -> None:
        original(work, list(answers)[-1:])

    return patch.object(holds, "_release", release)


def late_answers_keep_their_hold() -> AbstractContextManager[Any]:
    """What is held after the checkout was refused stays held."""
    original = holds._release

    def release(work: Work, answers: Any) -> None:
        if len(answers) > 1:
            original(work, answers)

    return patch.object(holds, "_release", release)


def double_release() -> AbstractContextManager[Any]:
    """What was held is given back twice."""
    moves = {("pending", "released"): (2, 0, -1, 0), ("held", "released"): (2, -1, 0, 0)}
    return patch.dict(holds._MOVES, moves)


def some_of_it_is_enough() -> AbstractContextManager[Any]:
    """An all-or-nothing checkout becomes an order of the lines that are held."""
    original = holds._refuse

    def refuse(work: Work, gathering: Gathering) -> None:
        held = tuple(a for a in gathering.answers if not a.reason)
        if held:
            holds._confirm(work, msgspec.structs.replace(gathering, answers=held))
        else:
            original(work, gathering)

    return patch.object(holds, "_refuse", refuse)


def answers_not_told_again_at_a_claim() -> AbstractContextManager[Any]:
    original = LineLane.publish_again

    async def publish_again(self: LineLane, partition: int, start: int, end: int) -> None:
        async def send(*_: Any) -> None:
            return

        with patch("deploy.simulation.broker.WriterLog.send", send):
            await original(self, partition, start, end)

    return patch.object(LineLane, "publish_again", publish_again)


def no_deadline_for_holds() -> AbstractContextManager[Any]:
    """Nobody looks for checkouts whose lines were not all answered."""

    async def gatherings(*_: Any) -> list[Any]:
        return []

    return patch.object(MemoryDue, "gatherings", gatherings)


COMMAND_PLANTS = (
    commands_decided_again,
    commands_without_a_fence,
    commands_not_told_again_at_a_claim,
    commands_committed_before_they_are_told,
    units_given_back_twice,
    units_not_given_back,
    limit_not_given_back,
    late_payment_taken_after_a_cancel,
    late_payment_sells_what_is_gone,
    any_amount_is_enough,
    others_may_cancel,
    command_poison_dropped,
    coordinator_forgets_a_hold,
    late_answers_keep_their_hold,
    double_release,
    some_of_it_is_enough,
    answers_not_told_again_at_a_claim,
    no_deadline_for_holds,
)
