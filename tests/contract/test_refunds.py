"""What is due back, in memory and in Postgres."""

from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest

from api.orders import order_view
from contracts.errors import Unavailable
from contracts.settings import Settings
from stock_ledger.commands.fakes import MemoryCommandLedger, MemoryRefunds
from stock_ledger.commands.refunds import DueRefund, PostgresRefunds, Refunds
from stock_ledger.reads import PostgresReads
from tests.contract.command_world import A, World, need, world, world_settings
from tests.contract.test_ledger import MemoryWorld, PostgresWorld, postgres_world
from tests.desk import notice_of, step_of
from tests.harness import NOON, line_of

__all__ = ["world", "world_settings"]
LATER = NOON + timedelta(seconds=60)


@pytest.fixture
def refunds(world: World) -> Refunds:
    if isinstance(world.base, PostgresWorld):
        return PostgresRefunds(world.base.pool)
    assert isinstance(world.commands, MemoryCommandLedger)
    return MemoryRefunds(world.commands)


async def paid_and_closed(world: World) -> list[str]:
    """Two orders of which three payments are due back: the first's, then, a second later, both of the other's."""
    orders = await world.sell(await world.open(), line_of(1, A, 3), line_of(2, A))
    ids = [o.order_id for o in orders]
    first, other = (await world.commands.load(need(orders=ids))).orders.values()
    await world.obey(await world.claim(), notice_of(first), step_of(first, "cancel"))
    await world.obey(
        await world.claim(), notice_of(other, reference="夜-1", provider="stripe"), step_of(other, "cancel"),
        notice_of(other, reference="pay-2"), now=NOON + timedelta(seconds=1),
    )  # fmt: skip
    return ids


async def test_what_is_due_is_taken_once_and_again_after_its_time(world: World, refunds: Refunds) -> None:
    first, other = await paid_and_closed(world)
    assert await refunds.take(NOON - timedelta(seconds=1), LATER, 9) == []
    (one,) = await refunds.take(NOON, LATER, 9)
    state = (await world.commands.load(need(orders=[first]))).orders[first]
    assert one == DueRefund(first, "pay-1", "wechat", 1, "wechat", Decimal("387.00"), "CNY", state.expires_at)
    soon = NOON + timedelta(seconds=1)
    pieces = [await refunds.take(soon, LATER, 1) for _ in range(3)]
    assert sorted(r.reference for piece in pieces for r in piece) == ["pay-2", "夜-1"]
    assert {(r.order_id, r.tries) for piece in pieces for r in piece} == {(other, 1)}
    again = await refunds.take(LATER, LATER + timedelta(seconds=60), 9)
    assert sorted((r.reference, r.tries) for r in again) == [("pay-1", 2), ("pay-2", 2), ("夜-1", 2)]


async def test_what_was_noted_says_when_to_ask_again(world: World, refunds: Refunds) -> None:
    await paid_and_closed(world)
    (one,) = await refunds.take(NOON, LATER, 1)
    await refunds.note(one, NOON + timedelta(seconds=5), "no answer")
    (again,) = [
        r for r in await refunds.take(NOON + timedelta(seconds=5), LATER, 9) if r.reference == "pay-1"
    ]
    assert again.tries == 2
    await refunds.note(again, NOON + timedelta(seconds=9), "nobody was asked", counts=False)
    (last,) = await refunds.take(NOON + timedelta(seconds=9), LATER, 9)
    assert (last.reference, last.tries) == ("pay-1", 2)


async def test_what_a_provider_said_is_kept_but_not_shown_to_the_buyer(
    world: World, refunds: Refunds
) -> None:
    first, _ = await paid_and_closed(world)
    (one,) = await refunds.take(NOON, LATER, 1)
    await refunds.note(one, LATER, "account 4711 has no funds")
    if not isinstance(world.base, PostgresWorld):
        assert isinstance(refunds, MemoryRefunds)
        assert refunds.details == {"pay-1": "account 4711 has no funds"}
        return
    pool = world.base.pool
    kept = "SELECT detail FROM refunds WHERE reference = 'pay-1'"
    assert await pool.fetchval(kept) == "account 4711 has no funds"
    buyer_id = await pool.fetchval("SELECT buyer_id FROM orders WHERE order_id = $1", first)
    order = await PostgresReads(pool).order(first, buyer_id)
    assert order is not None
    shown = msgspec.json.decode(msgspec.json.encode(order_view(order)))
    assert shown["payment"]["refunds"] == [{"reference": "pay-1", "status": "due"}]


async def test_what_is_given_back_is_not_due_any_more(world: World, refunds: Refunds) -> None:
    ids = await paid_and_closed(world)
    first, other = (await world.commands.load(need(orders=ids))).orders.values()
    due = await refunds.take(NOON + timedelta(seconds=1), LATER, 9)
    obeyed = await world.obey(
        await world.claim(), notice_of(first, "refunded"), notice_of(other, "refunded", "pay-2")
    )
    assert (await world.commands.load(need(orders=ids))).orders == obeyed.orders
    for one in due:
        await refunds.note(one, LATER, "told too late")
    assert [r.reference for r in await refunds.take(LATER, LATER, 9)] == ["夜-1"]


async def test_nothing_is_due_while_postgres_is_away(offline_settings: Settings) -> None:
    async with postgres_world(offline_settings) as base:
        with pytest.raises(Unavailable):
            await PostgresRefunds(base.pool).take(NOON, LATER, 9)
    memory = MemoryWorld()
    memory.ledger.available = False
    with pytest.raises(Unavailable):
        await MemoryRefunds(MemoryCommandLedger(memory.ledger)).take(NOON, LATER, 9)
