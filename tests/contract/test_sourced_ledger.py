"""What every ledger must keep for batches that ask a second stock source, in memory and in Postgres."""

import msgspec
import pytest

from contracts.errors import FenceLost, Unavailable
from contracts.messages import CheckoutLine
from contracts.settings import Settings
from stock_ledger.batch import Decided, OpenRow, Received, Stock
from stock_ledger.decide import decide
from stock_ledger.ledger import Advance, Claim, need_of
from stock_ledger.upstream.fakes import MemoryOpen
from stock_ledger.upstream.settle import MadeGood, Short
from stock_ledger.upstream.source import GiveBack, Intended, Outstanding, Reserve, Unsettled
from stock_ledger.upstream.store import Open, PostgresOpen
from tests.contract.command_world import A, B, World, need, world, world_settings
from tests.contract.test_ledger import MemoryWorld, PostgresWorld, postgres_world
from tests.desk import step_of
from tests.harness import NOON, line_of, product_of

__all__ = ["world", "world_settings"]
FIVE = Reserve(A, "0-0", 5)


@pytest.fixture
def open_(world: World) -> Open:
    if isinstance(world.base, PostgresWorld):
        return PostgresOpen(world.base.pool)
    return MemoryOpen(world.base.ledger)


async def opened(world: World) -> Claim:
    """A has a second source, B has none."""
    await world.base.put(product_of(A, stock_source="refuse"), Stock(10, 1), 0)
    await world.base.put(product_of(B), Stock(10, 1), 0)
    return (await world.ledger.claim([0], "a", NOON))[0]


async def persist(
    world: World, claim: Claim, *lines: CheckoutLine, left_open: list[OpenRow] | None
) -> Decided:
    """What a writer persists that the source has granted enough."""
    batch = [Received(0, claim.next_offset + n, line) for n, line in enumerate(lines)]
    entries = await world.ledger.products(sorted({line.product_id for line in lines}))
    loaded = await world.ledger.load(need_of(batch, {i: p for i, (p, _) in entries.items()}), entries)
    loaded.granted = {A: 9}
    decided = msgspec.structs.replace(decide(batch, loaded, NOON), left_open=left_open)
    await world.ledger.persist([Advance(0, claim, claim.next_offset + len(lines))], decided, loaded)
    return decided


async def test_what_is_intended_stays_until_the_batch_is_decided(world: World, open_: Open) -> None:
    claim = await opened(world)
    advances = [Advance(0, claim, 2)]
    assert await world.ledger.intend(advances, [FIVE]) == Intended([FIVE])
    other = Reserve(B, "0-0", 1)
    assert await world.ledger.intend(advances, [Reserve(A, "0-0", 7), other]) == Intended(
        [FIVE, other], frozenset({A})
    )
    assert await open_.open(9) == Outstanding([], []), "its batch is not decided yet"
    left = Outstanding([GiveBack(A, "unused-0-0", 3)], [Unsettled(other, 1)])
    rows: list[OpenRow] = [("return", A, "unused-0-0", 3, 0), ("request", B, "0-0", 1, 1)]
    await persist(world, claim, line_of(1, A, 2), line_of(2, "x"), left_open=rows)
    assert await open_.open(9) == left
    assert await open_.open(1) == Outstanding(left.give_back, [])
    claim = await world.claim()
    assert await world.ledger.intend([Advance(0, claim, 3)], []) == Intended([])


async def test_only_the_owner_may_intend(world: World) -> None:
    claim = await opened(world)
    await world.ledger.claim([0], "b", NOON)
    with pytest.raises(FenceLost):
        await world.ledger.intend([Advance(0, claim, 1)], [FIVE])
    now = await world.claim()
    with pytest.raises(FenceLost):
        await world.ledger.intend([Advance(0, Claim(now.epoch, 7), 8)], [FIVE])
    assert await world.ledger.intend([Advance(0, now, 1)], []) == Intended([])


async def test_the_next_owner_finds_what_was_intended(world: World) -> None:
    claim = await opened(world)
    await world.ledger.intend([Advance(0, claim, 1)], [FIVE])
    claim = (await world.ledger.claim([0], "b", NOON))[0]
    assert await world.ledger.intend([Advance(0, claim, 4)], []) == Intended([FIVE], frozenset({A}))


async def test_what_a_batch_was_decided_without_is_open_with_nothing_sold(world: World, open_: Open) -> None:
    """As after a crash, when the batch that is decided again ends before the product's first line."""
    claim = await opened(world)
    await world.ledger.intend([Advance(0, claim, 2)], [FIVE])
    await persist(world, claim, line_of(1, B), left_open=None)
    expected = Outstanding([], [Unsettled(FIVE, 0)])
    assert await open_.open(9) == await open_.open(9) == expected


async def test_what_is_made_good_is_not_open_any_more(world: World, open_: Open) -> None:
    claim = await opened(world)
    back, asked = GiveBack(A, "x", 1), Unsettled(Reserve(A, "0-0", 5), 5)
    rows: list[OpenRow] = [("return", A, "x", 1, 0), ("request", A, "0-0", 5, 5)]
    await persist(world, claim, line_of(1, B), left_open=rows)
    before = await open_.open(9)
    assert before == Outstanding([back], [asked])
    more = Unsettled(Reserve(A, "0-0-more", 2), 2)
    for _ in range(2):  # somebody else has done the same
        await open_.made_good(before, MadeGood(Outstanding([back], [more]), []))
        assert await open_.open(9) == Outstanding([back], [more])
    await open_.made_good(await open_.open(9), MadeGood(Outstanding([], []), [Short(A, "0-0", 2)]))
    assert await open_.open(9) == Outstanding([], [])
    assert await open_.local() == {A: 10}


async def test_units_of_an_order_that_is_closed_go_back(world: World, open_: Open) -> None:
    claim = await opened(world)
    decided = await persist(world, claim, line_of(1, A, 2), line_of(2, B), left_open=[])
    ids = [d.order.order_id for d in decided.decisions if d.order is not None]
    states = (await world.commands.load(need(orders=ids))).orders.values()
    await world.obey(await world.claim(), *(step_of(state, "cancel") for state in states))
    place = next(n for n, state in enumerate(states) if state.items[0].product_id == A)
    assert await open_.open(9) == Outstanding([GiveBack(A, f"command-0-{place}", 2)], [])


async def test_units_that_come_back_fill_what_is_short_first(world: World, open_: Open) -> None:
    """The source has never granted them, and must not have them twice."""
    claim = await opened(world)
    decided = await persist(world, claim, line_of(1, A, 1), line_of(2, A, 3), line_of(3, A, 2), left_open=[])
    before = await open_.open(9)
    await open_.made_good(before, MadeGood(Outstanding([], []), [Short(A, "0-0", 1), Short(A, "0-1", 2)]))
    ids = [d.order.order_id for d in decided.decisions if d.order is not None]
    first, second, third = (await world.commands.load(need(orders=ids))).orders.values()
    await world.obey(await world.claim(), step_of(first, "cancel"))
    assert await open_.open(9) == Outstanding([], [])
    await world.obey(await world.claim(), step_of(second, "cancel"), step_of(third, "cancel"))
    assert await open_.open(9) == Outstanding(
        [GiveBack(A, "command-0-1", 1), GiveBack(A, "command-0-2", 2)], []
    )


async def test_nothing_is_intended_while_postgres_is_away(offline_settings: Settings) -> None:
    async with postgres_world(offline_settings) as base:
        with pytest.raises(Unavailable):
            await base.ledger.intend([Advance(0, Claim(1, 0), 1)], [FIVE])
        with pytest.raises(Unavailable):
            await PostgresOpen(base.pool).open(9)
    memory = MemoryWorld()
    memory.ledger.available = False
    with pytest.raises(Unavailable):
        await memory.ledger.intend([Advance(0, Claim(1, 0), 1)], [FIVE])
    with pytest.raises(Unavailable):
        await MemoryOpen(memory.ledger).open(9)
