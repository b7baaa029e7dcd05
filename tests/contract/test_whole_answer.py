"""The one answer to an all-or-nothing checkout is read as it was told, in memory and from Postgres."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from api.checkouts import Decisions
from contracts.commands import Abandon, Command, HoldAnswer
from contracts.errors import Unavailable
from contracts.settings import Settings
from contracts.topics import Stream
from stock_ledger.commands.book import Given, Obeyed
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.commands.ledger import CommandLedger
from stock_ledger.commands.obey import need_of, obey
from stock_ledger.commands.postgres import PostgresCommandLedger
from stock_ledger.fakes import MemoryLedger, MemoryReads
from stock_ledger.ledger import Advance, Ledger
from stock_ledger.pool import connect_pool
from stock_ledger.postgres import PostgresLedger
from stock_ledger.reads import PostgresReads
from tests.contract.adapters import memory_or
from tests.harness import HOME, NOON, uuid_of

TTL_S = 30.0


class World(msgspec.Struct):
    """A writer's partition 0, and what is read of it. `now_s` seconds after noon."""

    ledger: Ledger
    commands: CommandLedger
    reads: Decisions
    now_s: float = 0.0
    decided: int = 0

    async def obey(self, command: Command) -> Obeyed:
        claim = (await self.ledger.claim([0], "me", NOON))[0]
        assert claim.next_of(Stream.COMMANDS) == self.decided
        batch = [Given(0, self.decided, command)]
        book = await self.commands.load(need_of(batch))
        obeyed = obey(batch, book, NOON + timedelta(seconds=self.now_s), 4, TTL_S)
        self.decided += 1
        await self.commands.persist([Advance(0, claim, self.decided)], obeyed)
        return obeyed


world_settings = memory_or("postgres", "database_settings")


@pytest.fixture
async def world(world_settings: Settings | None) -> AsyncIterator[World]:
    if world_settings is None:
        ledger = MemoryLedger()
        commands = MemoryCommandLedger(ledger)
        yield World(ledger, commands, MemoryReads(ledger, commands.gatherings))
        return
    pool = await connect_pool(world_settings)
    try:
        yield World(PostgresLedger(pool), PostgresCommandLedger(pool, 4), PostgresReads(pool))
    finally:
        await pool.close()


def answer(line: int, **fields: Any) -> HoldAnswer:
    """A line of two that is held; `fields` replace what it has."""
    values: dict[str, Any] = {
        "command_id": uuid_of(f"answer {line}"), "actor": "sluiceway", "asked_at_ms": 0, "checkout_id": uuid_of(1),
        "product_id": f"sku-{line}", "buyer_id": "buyer-1", "payload_hash": "0" * 32, "line": line, "lines": 2,
        "quantity": 2, "name": "Kettle", "cover": "kettle.jpg", "price": "129.00", "currency": "CNY",
        "payment_ttl_s": 900 + line, "shipping": HOME,
    }  # fmt: skip
    return HoldAnswer(**(values | fields))


def told(obeyed: Obeyed) -> list[bytes]:
    """The answers that were shown."""
    return [document for d in obeyed.decisions for _, _, document in d.told.results]


async def test_there_is_none_before_the_last_line_is_answered(world: World) -> None:
    assert await world.reads.whole_answer(uuid_of(1)) is None
    assert told(await world.obey(answer(1))) == []
    assert await world.reads.whole_answer(uuid_of(1)) is None


@pytest.mark.parametrize("reason", ["", "sold_out"])
async def test_it_is_read_word_for_word_as_it_was_shown(world: World, reason: str) -> None:
    await world.obey(answer(1))
    last = answer(0) if not reason else answer(0, reason=reason, name="", cover="", price="0", currency="")
    [shown] = told(await world.obey(last))
    assert await world.reads.whole_answer(uuid_of(1)) == shown
    assert await world.reads.whole_answer(uuid_of(2)) is None


async def test_one_that_came_by_the_deadline_is_read_too(world: World) -> None:
    await world.obey(answer(0))
    world.now_s = TTL_S
    command = Abandon(command_id=uuid_of("late"), actor="sluiceway", asked_at_ms=0, checkout_id=uuid_of(1))
    [shown] = told(await world.obey(command))
    assert await world.reads.whole_answer(uuid_of(1)) == shown
    assert msgspec.json.decode(shown)["lines"][0]["reason"] == "hold_expired"


async def test_a_payment_expires_as_the_order_says(world: World) -> None:
    await world.obey(answer(1))
    obeyed = await world.obey(answer(0))
    [order] = obeyed.new_orders.values()
    payment = msgspec.json.decode(told(obeyed)[0])["order"]["payment"]
    assert msgspec.convert(payment["expires_at"], type(order.state.expires_at)) == order.state.expires_at
    assert order.state.expires_at == NOON + timedelta(seconds=900)


async def test_a_ledger_that_is_away_does_not_say_that_there_is_none(offline_settings: Settings) -> None:
    ledger = MemoryLedger()
    ledger.available = False
    with pytest.raises(Unavailable):
        await MemoryReads(ledger, {}).whole_answer(uuid_of(1))
    pool = await connect_pool(offline_settings)
    try:
        with pytest.raises(Unavailable):
            await PostgresReads(pool).whole_answer(uuid_of(1))
    finally:
        await pool.close()
