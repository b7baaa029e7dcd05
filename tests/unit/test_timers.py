"""Timers: what is due is asked once, in pieces, again when nothing came of it, and never lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from contracts.commands import Abandon, Command, Expire, decode_command
from contracts.errors import NotAcknowledged
from contracts.settings import Settings
from contracts.times import to_ms
from stock_ledger.commands.fakes import MemoryDue
from tests.desk import PARTITIONS, Desk, answer_of
from tests.harness import Clock, line_of, product_in, product_of, uuid_of
from workers.timers import Timers

A, B = product_in(0, PARTITIONS), product_in(1, PARTITIONS)


class Asked:
    """Timers over what a desk has, and what they asked since it was last looked at."""

    def __init__(self, desk: Desk, settings: Settings, clock: Clock) -> None:
        self.timers = Timers(MemoryDue(desk.commands), settings, clock.now)
        self.commands: list[Command] = []
        self.refusing: set[int] = set()  # partitions

    async def ask(self) -> list[Command]:
        self.commands = []
        await self.timers.ask(self._send)
        return self.commands

    async def _send(self, key: bytes, value: bytes, partition: int) -> Awaitable[Any]:
        self.commands.append(decode_command(value, key, partition, PARTITIONS))
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if partition in self.refusing:
            ack.set_exception(NotAcknowledged("no answer"))
        else:
            ack.set_result(None)
        return ack


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.put(product_of(A, payment_ttl_s=60), 99)
    return desk


@pytest.fixture
def make(desk: Desk, offline_settings: Settings, clock: Clock) -> Callable[..., Asked]:
    def made(**fields: Any) -> Asked:
        return Asked(desk, msgspec.structs.replace(offline_settings, **fields), clock)

    return made


async def test_what_is_due_is_asked_once_and_ends(
    desk: Desk, make: Callable[..., Asked], clock: Clock
) -> None:
    asked = make()
    desk.sell(line_of(1, A), line_of(2, A))
    desk.obey(answer_of(3, 0, 2, A))
    assert await asked.ask() == []
    clock.tick(60)
    desk.tick(60)
    commands = await asked.ask()
    assert [type(c) for c in commands] == [Expire, Expire, Abandon]
    assert {c.subject() for c in commands} == {*desk.ledger.orders, uuid_of(3)}
    assert {c.actor for c in commands} == {"sluiceway"}
    desk.obey(*commands)
    assert {order.status for order in desk.orders()} == {"closed_by_timeout"}
    assert desk.commands.gatherings[uuid_of(3)].state == "refused"
    clock.tick(30)
    assert await asked.ask() == []


async def test_what_is_not_decided_yet_is_asked_again_later(
    desk: Desk, make: Callable[..., Asked], clock: Clock
) -> None:
    """Anew, as it may have come too early."""
    asked = make(timer_again_s=10.0)
    desk.sell(line_of(1, A))
    desk.obey(answer_of(3, 0, 2, A))
    clock.tick(60)
    first = await asked.ask()
    assert len(first) == 2
    clock.tick(9)
    assert await asked.ask() == []
    clock.tick(1)
    again = await asked.ask()
    assert [c.subject() for c in again] == [c.subject() for c in first]
    assert {c.command_id for c in again}.isdisjoint(c.command_id for c in first)
    assert {c.asked_at_ms for c in again} == {to_ms(clock.now())}
    desk.obey(*first)
    assert {order.status for order in desk.orders()} == {"pending_payment"}, "the desk's clock is behind"
    desk.tick(60)
    desk.obey(*again)
    assert {order.status for order in desk.orders()} == {"closed_by_timeout"}
    assert desk.commands.gatherings[uuid_of(3)].state == "refused"


async def test_much_is_asked_in_pieces(desk: Desk, make: Callable[..., Asked], clock: Clock) -> None:
    asked = make(timer_rows_max=3)
    desk.sell(*(line_of(n, A) for n in range(7)))
    clock.tick(60)
    pieces = [await asked.ask() for _ in range(4)]
    assert [len(piece) for piece in pieces] == [3, 3, 1, 0]
    assert len({c.subject() for piece in pieces for c in piece}) == 7


async def test_what_was_not_acknowledged_is_asked_again_at_once(
    desk: Desk, make: Callable[..., Asked], clock: Clock
) -> None:
    asked = make()
    desk.sell(line_of(1, A))
    clock.tick(60)
    asked.refusing = {0}
    first = await asked.ask()
    asked.refusing = set()
    again = await asked.ask()
    assert [c.command_id for c in again] == [c.command_id for c in first]
    assert await asked.ask() == []


async def test_much_that_cannot_be_asked_does_not_keep_what_is_late_after_it(
    desk: Desk, make: Callable[..., Asked], clock: Clock
) -> None:
    """However long it takes to read it all; then it is asked again."""
    asked = make(timer_rows_max=3)
    desk.put(product_of(B, payment_ttl_s=61), 99)
    desk.sell(*(line_of(n, A) for n in range(6)))
    desk.sell(line_of(7, B))
    clock.tick(61)
    asked.refusing = {0}
    pieces = []
    for _ in range(4):
        pieces.append([c.partition(PARTITIONS) for c in await asked.ask()])
        clock.tick(31)
    assert pieces == [[0, 0, 0], [0, 0, 0], [1], [0, 0, 0]]


async def test_while_postgres_is_away_nothing_is_asked_and_nothing_lost(
    desk: Desk, make: Callable[..., Asked], clock: Clock
) -> None:
    asked = make()
    desk.sell(line_of(1, A))
    clock.tick(60)
    desk.ledger.available = False
    assert await asked.ask() == []
    desk.ledger.available = True
    assert len(await asked.ask()) == 1
