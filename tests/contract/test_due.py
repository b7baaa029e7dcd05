"""What is due by time, in memory and in Postgres."""

from datetime import timedelta

import pytest

from contracts.commands import Abandon
from contracts.errors import Unavailable
from contracts.settings import Settings
from contracts.topics import partition_of
from stock_ledger.batch import Stock
from stock_ledger.commands.due import DueReads, DueStore, Position
from stock_ledger.commands.fakes import MemoryCommandLedger, MemoryDue
from stock_ledger.ledger import Claim
from tests.contract.command_world import CHECKOUT, A, World, need, world, world_settings
from tests.contract.test_ledger import PostgresWorld, postgres_world
from tests.desk import HOLD_TTL_S, PARTITIONS, answer_of, asked, notice_of, step_of
from tests.harness import NOON, line_of, product_in, product_of, uuid_of

__all__ = ["world", "world_settings"]


@pytest.fixture
def due(world: World) -> DueReads:
    if isinstance(world.base, PostgresWorld):
        return DueStore(world.base.pool)
    assert isinstance(world.commands, MemoryCommandLedger)
    return MemoryDue(world.commands)


async def test_payments_are_due_in_the_order_of_their_time_and_in_pieces(world: World, due: DueReads) -> None:
    claim = await world.open()
    minute, soon = (product_in(0, PARTITIONS, n) for n in (3, 4))
    await world.base.put(product_of(minute, payment_ttl_s=60), Stock(99, 1), 0)
    await world.base.put(product_of(soon, payment_ttl_s=30), Stock(99, 1), 0)
    orders = await world.sell(
        claim, line_of(1, minute), line_of(2, A), *(line_of(n, soon) for n in range(3, 8))
    )
    ids = [o.order_id for o in orders]
    start = Position(1.0).start(NOON)
    assert await due.payments(NOON + timedelta(seconds=29.9), start, 10) == []
    at_30, at_60 = NOON + timedelta(seconds=30), NOON + timedelta(seconds=60)
    assert await due.payments(at_30, start, 10) == [(at_30, i) for i in sorted(ids[2:])]
    first = await due.payments(at_60, start, 2)
    more = await due.payments(at_60, first[-1], 10)
    assert first + more == [*((at_30, i) for i in sorted(ids[2:])), (at_60, ids[0])]
    assert await due.payments(at_60, more[-1], 10) == []
    states = (await world.commands.load(need(orders=ids))).orders
    await world.obey(
        await world.claim(), notice_of(states[ids[0]]), notice_of(states[ids[2]], "failed"),
        step_of(states[ids[3]], "cancel"), step_of(states[ids[4]], "expire"), step_of(states[ids[5]], "close"),
        now=at_30,
    )  # fmt: skip
    later = NOON + timedelta(days=1)
    assert [i for _, i in await due.payments(later, start, 10)] == [*sorted([ids[2], ids[6]]), ids[1]]


async def test_checkouts_are_due_until_they_are_decided(world: World, due: DueReads) -> None:
    claim = await world.open()
    other = next(n for n in range(CHECKOUT + 1, 3000) if partition_of(uuid_of(n), PARTITIONS) == 0)
    await world.obey(claim, answer_of(CHECKOUT, 0, 2, A))
    later = NOON + timedelta(seconds=1)
    await world.obey(Claim(1, 0, 1), answer_of(other, 0, 2, A, reason="sold_out"), now=later)
    start = Position(1.0).start(NOON)
    ttl = timedelta(seconds=HOLD_TTL_S)
    first, second = (NOON + ttl, uuid_of(CHECKOUT)), (later + ttl, uuid_of(other))
    assert await due.gatherings(NOON + ttl - timedelta(milliseconds=1), start, 10) == []
    assert await due.gatherings(NOON + ttl, start, 10) == [first]
    assert await due.gatherings(later + ttl, start, 10) == [first, second]
    assert await due.gatherings(later + ttl, first, 10) == [second]
    await world.obey(Claim(1, 0, 2), asked(Abandon, checkout_id=uuid_of(CHECKOUT)), now=NOON + ttl)
    assert await due.gatherings(later + ttl, start, 10) == [second]


async def test_nothing_is_due_while_postgres_is_away(offline_settings: Settings) -> None:
    async with postgres_world(offline_settings) as base:
        for read in (DueStore(base.pool).payments, DueStore(base.pool).gatherings):
            with pytest.raises(Unavailable):
                await read(NOON, Position(1.0).start(NOON), 10)
