"""Refunds: sent once, tried again with longer waits, and told to the order; whoever fails is left alone for a while."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from api.payments.provider import refund_key
from api.payments.sandbox import SandboxProvider
from contracts.commands import Command, Pay, decode_command
from contracts.errors import Invalid, PaymentRefused, Unavailable
from contracts.outcomes import Outcome
from contracts.outcomes import PaymentStatus as P
from contracts.payments import Charge, Refunded
from contracts.settings import Settings
from stock_ledger.commands.book import OrderState
from stock_ledger.commands.fakes import MemoryRefunds
from stock_ledger.commands.refunds import wait_s
from tests.desk import PARTITIONS, Desk, notice_of, order_from, step_of
from tests.harness import Clock, Wall, line_of, product_in, product_of
from workers.refunds import Refunding

A = product_in(0, PARTITIONS)
SECRET = "a secret of the sandbox with 32 bytes"


class Bank:
    """A provider that does as `answers` say, one after the other; the last one stays."""

    methods = frozenset({"wechat"})

    def __init__(self, name: str = "wechat") -> None:
        self.name = name
        self.answers: list[Refunded | BaseException] = [Refunded("refund-1")]
        self.asked: list[tuple[str, str, str]] = []

    async def refund(self, charge: Charge, reference: str, reason: str) -> Refunded:
        self.asked.append((charge.order_id, reference, f"{charge.amount} {charge.currency}"))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer


class World:
    """A desk with orders, and what gives back what is due of them."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.desk = Desk()
        self.desk.put(product_of(A), 99)
        self.bank = Bank()
        self.clock = clock
        self.refunds = MemoryRefunds(self.desk.commands)
        self.settings = settings
        self.commands: list[Command] = []
        self.configure(self.bank)

    def configure(self, *providers: Any) -> None:
        self.refunding = Refunding(self.refunds, providers, self.settings, self.clock.now)

    def due(self, number: int = 1, provider: str = "wechat") -> OrderState:
        """An order that was paid and then cancelled."""
        order = order_from(self.desk, line_of(number, A))
        paid = notice_of(order, reference=f"pay-{number}", provider=provider)
        self.desk.obey(paid, step_of(order, "cancel"))
        return self.desk.order(order.order_id)

    async def ask(self) -> list[Command]:
        """One round, and what it put into the log."""
        self.commands = []
        await self.refunding.ask(self._send)
        return self.commands

    async def _send(self, key: bytes, value: bytes, partition: int) -> Awaitable[Any]:
        self.commands.append(decode_command(value, key, partition, PARTITIONS))
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        ack.set_result(None)
        return ack

    def state(self, order: OrderState) -> P:
        return self.desk.order(order.order_id).payment


@pytest.fixture
def world(offline_settings: Settings, clock: Clock) -> World:
    settings = msgspec.structs.replace(
        offline_settings,
        refund_retry_s=10.0,
        refund_retry_max_s=100.0,
        refund_failures_max=3,
        refund_circuit_s=40.0,
    )
    return World(settings, clock)


async def test_a_payment_that_is_due_back_is_sent_and_told(world: World) -> None:
    order = world.due()
    (command,) = await world.ask()
    assert isinstance(command, Pay)
    assert (command.outcome, command.reference, command.event_id) == ("refunded", "pay-1", "refund-1")
    assert world.bank.asked == [(order.order_id, "pay-1", "129.00 CNY")]
    (decision,) = world.desk.obey(command)
    assert (decision.outcome, world.state(order)) == (Outcome.APPLIED, P.REFUNDED)
    world.clock.tick(1000)
    assert await world.ask() == []


async def test_an_answer_that_was_lost_is_asked_for_again_and_counts_once(world: World) -> None:
    """The provider knows the refund by its key; its callback may come before."""
    order = world.due()
    (lost,) = await world.ask()
    assert await world.ask() == [], "somebody has it"
    world.clock.tick(60)
    (again,) = await world.ask()
    assert again.command_id == lost.command_id
    callback = notice_of(order, "refunded")
    assert [d.outcome for d in world.desk.obey(callback, again, lost)] == [
        Outcome.APPLIED, Outcome.REFUSED, Outcome.REPEATED
    ]  # fmt: skip
    assert world.desk.told(order.order_id)[-1] == ("payment.refunded", 5)


async def test_whoever_does_not_answer_is_asked_again_after_longer_and_longer(world: World) -> None:
    world.due()
    world.bank.answers = [Unavailable("away"), Unavailable("away"), Refunded("refund-1")]
    assert await world.ask() == []
    assert world.refunds.details == {"pay-1": "away"}
    world.clock.tick(10)
    assert await world.ask() == []
    world.clock.tick(19)
    assert await world.ask() == []
    assert len(world.bank.asked) == 2
    world.clock.tick(1)
    assert len(await world.ask()) == 1


def test_waits_double_up_to_the_longest() -> None:
    assert [wait_s(tries, 5.0, 60.0) for tries in (1, 2, 3, 4, 5, 10_000)] == [5, 10, 20, 40, 60, 60]


@pytest.mark.parametrize("error", [PaymentRefused("the balance is too low"), Invalid("no unit for it")])
async def test_a_refusal_is_told_and_asked_again_after_the_longest_wait(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    order = world.due()
    world.bank.answers = [error, Refunded("refund-1")]
    assert await world.ask() == []
    assert world.refunds.details == {"pay-1": str(error)}
    assert [getattr(r, "action", "") for r in caplog.records] == ["refund_refused"]
    assert world.state(order) is P.REFUND_DUE
    world.clock.tick(99)
    assert await world.ask() == []
    world.clock.tick(1)
    assert len(await world.ask()) == 1


@pytest.mark.parametrize("error", [PaymentRefused, Unavailable, ValueError])
async def test_what_a_provider_says_that_is_not_text_is_kept_escaped(
    world: World, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Postgres would refuse it, and with it the whole round."""
    caplog.set_level(logging.CRITICAL, "workers.refunds")  # nor could what is logged of it be reported
    world.due()
    world.bank.answers = [
        error("no\x00 \ud800"),
        Refunded("r\x00 \ud800", final=False),
        Refunded("r\x00 \ud800"),
    ]
    assert await world.ask() == []
    assert is_storable(world.refunds.details["pay-1"])
    world.clock.tick(100)
    assert await world.ask() == []
    assert is_storable(world.refunds.details["pay-1"])
    world.clock.tick(100)
    (command,) = await world.ask()
    assert isinstance(command, Pay)
    assert command.event_id == "r\\x00 \\ud800"


def is_storable(text: str) -> bool:
    return "\\x00" in text and text.isprintable()


async def test_a_refund_that_is_on_its_way_stays_due_until_it_is_there(world: World) -> None:
    order = world.due()
    world.bank.answers = [Refunded("refund-1", final=False), Refunded("refund-1")]
    assert await world.ask() == []
    assert world.state(order) is P.REFUND_DUE
    assert "the money is on its way" in world.refunds.details["pay-1"]
    world.clock.tick(100)
    assert len(await world.ask()) == 1


async def test_without_its_provider_it_stays_due_and_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.due()
    world.configure(Bank("other"))
    assert await world.ask() == []
    assert world.refunds.details == {"pay-1": "the provider wechat is not configured"}
    assert [getattr(r, "action", "") for r in caplog.records] == ["refund_unserved"]
    world.configure(Bank("other"), world.bank)
    world.clock.tick(100)
    assert len(await world.ask()) == 1


async def test_where_it_is_not_known_who_took_it_the_methods_provider_is_asked(world: World) -> None:
    order = world.due()
    (refund,) = order.refunds
    unknown = order.with_refund(msgspec.structs.replace(refund, provider=""))
    world.desk.ledger.orders[order.order_id] = unknown
    world.configure()
    assert await world.ask() == []
    assert world.refunds.details == {"pay-1": "a provider for wechat is not configured"}
    world.clock.tick(100)
    other = Bank("other")
    world.configure(other, world.bank)
    assert len(await world.ask()) == len(other.asked) == 1


async def test_a_provider_that_fails_is_left_alone_then_one_call_tries(world: World, wall: Wall) -> None:
    for number in range(5):
        world.due(number)
    world.bank.answers = [Unavailable("away")]
    assert await world.ask() == []
    assert len(world.bank.asked) == 3
    assert (
        sorted(world.refunds.details.values()) == ["away"] * 3 + ["wechat has failed too often just now"] * 2
    )
    wall.now_s += 41
    world.clock.tick(41)
    await world.ask()
    assert len(world.bank.asked) == 4
    wall.now_s += 41
    world.clock.tick(100)
    world.bank.answers = [Refunded("refund-1")]
    assert len(await world.ask()) == 5


async def test_a_plug_in_that_breaks_does_not_keep_the_others(world: World) -> None:
    world.due()
    order = order_from(world.desk, line_of(2, A))
    world.desk.obey(
        notice_of(order, reference="pay-2", provider="other"),
        step_of(order, "cancel"),
    )
    world.bank.answers = [ZeroDivisionError("bug")]
    world.configure(world.bank, Bank("other"))
    (command,) = await world.ask()
    assert isinstance(command, Pay)
    assert command.reference == "pay-2"
    assert "ZeroDivisionError" in world.refunds.details["pay-1"]


async def test_a_provider_that_hangs_is_given_up_at_the_deadline(
    world: World, turn_on: Callable[[float], None]
) -> None:
    class Hanging(Bank):
        async def refund(self, charge: Charge, reference: str, reason: str) -> Refunded:
            turn_on(1000)
            await asyncio.Event().wait()
            raise AssertionError

    world.due()
    world.configure(Hanging())
    assert await world.ask() == []
    assert world.refunds.details == {"pay-1": "no answer within 30 s"}


@pytest.mark.parametrize("has_failed", [False, True])
async def test_a_provider_that_hangs_keeps_no_other_one_waiting(
    world: World, wall: Wall, has_failed: bool
) -> None:
    """Nor when both have failed, and are tried again."""
    other_asked = asyncio.Event()

    class Hanging(Bank):
        async def refund(self, charge: Charge, reference: str, reason: str) -> Refunded:
            await other_asked.wait()
            return await super().refund(charge, reference, reason)

    class Other(Bank):
        async def refund(self, charge: Charge, reference: str, reason: str) -> Refunded:
            other_asked.set()
            return await super().refund(charge, reference, reason)

    hanging, other = Hanging(), Other("other")
    world.settings = msgspec.structs.replace(world.settings, refund_calls_max=1, refund_failures_max=1)
    world.configure(hanging, other)
    world.due(1)
    world.due(2, "other")
    if has_failed:
        for bank in (hanging, other):
            bank.answers.insert(0, Unavailable("away"))
        assert await world.ask() == []
        wall.now_s += 41
        world.clock.tick(41)
        other_asked.clear()
    async with asyncio.timeout(5):
        assert len(await world.ask()) == 2


async def test_the_sandbox_gives_back(world: World) -> None:
    order = order_from(world.desk, line_of(1, A))
    world.desk.obey(notice_of(order, provider="sandbox"), step_of(order, "cancel"))
    world.configure(SandboxProvider([SECRET], 300))
    (command,) = await world.ask()
    assert isinstance(command, Pay)
    assert (command.provider, command.event_id) == ("sandbox", refund_key("pay-1"))
    world.desk.obey(command)
    assert world.state(order) is P.REFUNDED


async def test_while_postgres_is_away_nothing_is_asked(world: World) -> None:
    world.due()
    world.desk.ledger.available = False
    assert await world.ask() == []
    world.desk.ledger.available = True
    assert len(await world.ask()) == 1
