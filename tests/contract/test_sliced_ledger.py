"""What every ledger must do for products with slices, in memory and in Postgres."""

import msgspec
import pytest

from contracts.errors import SoldMeanwhile
from contracts.messages import CheckoutLine, read_checkout_line
from contracts.outcomes import Kind
from contracts.slices import slice_of_buyer
from stock_ledger.batch import Decided, Loaded, Received, Stock
from stock_ledger.decide import decide
from stock_ledger.ledger import Advance, Claim, need_of
from tests.contract.test_ledger import World, world, world_settings
from tests.harness import NOON, line_of, product_of, uuid_of

__all__ = ["world", "world_settings"]
OTHER = "p~1"
BUYER = next(name for name in (f"b{n}" for n in range(100)) if slice_of_buyer(name, 2) == 0)


async def put_slices(world: World, first: int, second: int, limit: int | None = None) -> dict[int, Claim]:
    await world.put(product_of("p", slices=2, buyer_limit=limit), Stock(first, 1), 0)
    await world.put(product_of(OTHER, name="Name of p", slices=2, buyer_limit=limit), Stock(second, 1), 1)
    return await world.ledger.claim([0, 1], "a", NOON)


async def test_what_is_forwarded_is_kept_as_it_is_sent_on(world: World) -> None:
    claim = (await put_slices(world, 0, 3))[0]
    line = line_of(1, quantity=2, buyer_id=BUYER, note="by night, 'quoted' \\ ; 夜")
    entries = await world.ledger.products(["p"])
    batch = [Received(0, 0, line), Received(0, 1, line)]
    need = need_of(batch, {i: product for i, (product, _) in entries.items()})
    loaded = await world.ledger.load(need, entries)
    loaded.elsewhere = {i: s.available for i, (_, s) in (await world.ledger.products([OTHER])).items()}
    decided = decide(batch, loaded, NOON)
    assert [d.kind for d in decided.decisions] == [Kind.FORWARDED, Kind.REPEATED]
    await world.ledger.persist([Advance(0, claim, 2)], decided, loaded)
    assert await world.ledger.decisions(0, 0, 10) == decided.decisions
    kept = (await world.reads.decisions_at([(0, 0)]))[0, 0]
    assert read_checkout_line(kept.detail) == msgspec.structs.replace(line, slice=1, forwarded=True)
    assert await world.reads.decisions_of_checkout(uuid_of(1)) == [], "it is not decided yet"
    again = await world.ledger.load(need, entries)
    assert (again.decided, again.forwarded) == ({}, {(uuid_of(1), "p"): 0})
    assert again.hashes == {(uuid_of(1), "p"): "0" * 32}


async def test_a_line_is_settled_in_the_slice_that_decided_it(world: World) -> None:
    claim = (await put_slices(world, 0, 3))[1]
    line = line_of(1, quantity=2, buyer_id=BUYER, slice=1, forwarded=True)
    entries = await world.ledger.products([OTHER])
    batch = [Received(1, 0, line)]
    need = need_of(batch, {i: product for i, (product, _) in entries.items()})
    loaded = await world.ledger.load(need, entries)
    decided = decide(batch, loaded, NOON)
    await world.ledger.persist([Advance(1, claim, 1)], decided, loaded)
    found = await world.ledger.decisions(1, 0, 10)
    assert found == decided.decisions
    assert (found[0].kind, found[0].product_id, found[0].slice) == (Kind.CREATED, "p", 1)
    assert (await world.ledger.products([OTHER]))[OTHER][1] == Stock(1, 2)
    assert (await world.ledger.products(["p"]))["p"][1] == Stock(0, 1)
    assert await world.reads.decisions_of_checkout(uuid_of(1)) == decided.decisions
    again = await world.ledger.load(need, entries)
    assert again.decided == {(uuid_of(1), OTHER): 0}


@pytest.mark.parametrize(("elsewhere", "stale"), [(0, False), (1, True)])
async def test_what_another_slice_sold_to_a_limited_buyer_is_stale(
    world: World, elsewhere: int, *, stale: bool
) -> None:
    """Both slices have read that the buyer has none. What both decide would be more than the limit."""
    claims = await put_slices(world, 3, 3, limit=1)
    made = []
    for partition, stock_id in ((1, OTHER), (0, "p")):
        line = line_of(stock_id, buyer_id=BUYER, slice=partition, forwarded=partition == 1)
        entries = await world.ledger.products([stock_id])
        batch = [Received(partition, 0, line)]
        need = need_of(batch, {i: product for i, (product, _) in entries.items()})
        assert need.limited == [("p", BUYER)]
        loaded = await world.ledger.load(need, entries)
        made.append((Advance(partition, claims[partition], 1), decide(batch, loaded, NOON), loaded))
    for advance, decided, loaded in made[: 1 if elsewhere else 0]:
        await world.ledger.persist([advance], decided, loaded)
    advance, decided, loaded = made[1]
    if stale:
        with pytest.raises(SoldMeanwhile):
            await world.ledger.persist([advance], decided, loaded)
        assert await world.ledger.decisions(0, 0, 10) == []
    else:
        await world.ledger.persist([advance], decided, loaded)
        assert (await world.ledger.load(need, {})).bought == {("p", BUYER): 1}


async def decided_here(
    world: World, stock_id: str, *lines: CheckoutLine
) -> tuple[list[Received], Decided, Loaded]:
    """What lines come to, each at the next offset of its stock id's partition, given what is persisted by now."""
    partition = 0 if stock_id == "p" else 1
    entries = await world.ledger.products([stock_id])
    offset = (await world.ledger.state([partition]))[partition].next_offset
    batch = [Received(partition, offset + n, line) for n, line in enumerate(lines)]
    loaded = await world.ledger.load(need_of(batch, {i: p for i, (p, _) in entries.items()}), entries)
    return batch, decide(batch, loaded, NOON), loaded


async def keep(world: World, batch: list[Received], decided: Decided, loaded: Loaded) -> None:
    partition = batch[0].partition
    claim = (await world.ledger.state([partition]))[partition]
    await world.ledger.persist([Advance(partition, claim, batch[-1].offset + 1)], decided, loaded)


@pytest.mark.parametrize("first", ["sent on", "decided"])
async def test_of_two_payloads_that_race_over_two_slices_one_is_refused(world: World, first: str) -> None:
    """One is sent on by the first slice, while the other comes to its buyer's, and neither has seen the other."""
    await put_slices(world, 3, 3)
    buyer = next(name for name in (f"b{n}" for n in range(100)) if slice_of_buyer(name, 2) == 1)
    sent_on = line_of(1, buyer_id=buyer)
    winner = line_of(1, buyer_id=buyer, quantity=2, payload_hash="f" * 32, slice=1)
    made = [await decided_here(world, "p", sent_on), await decided_here(world, OTHER, winner)]
    for one in made if first == "sent on" else reversed(made):
        await keep(world, *one)
    onward = read_checkout_line(made[0][1].decisions[0].detail)
    assert onward.slice == 1
    decided = (await decided_here(world, OTHER, onward, winner))[1]
    assert [d.kind for d in decided.decisions] == [Kind.CONFLICT, Kind.REPEATED]
    again = (await decided_here(world, "p", sent_on, msgspec.structs.replace(winner, slice=0)))[1]
    assert [d.kind for d in again.decisions] == [Kind.REPEATED, Kind.CONFLICT]


@pytest.mark.parametrize("first", ["p", "q"])
async def test_of_two_payloads_that_race_over_two_products_each_repeats_its_own(
    world: World, first: str
) -> None:
    for partition, product_id in enumerate(("p", "q")):
        await world.put(product_of(product_id), Stock(9, 1), partition)
    await world.ledger.claim([0, 1], "a", NOON)
    lines = {hashed: [line_of(1, i, payload_hash=hashed * 32) for i in ("p", "q")] for hashed in "xy"}
    made = [await decided_here(world, "p", lines["x"][0]), await decided_here(world, "q", lines["y"][1])]
    for one in made if first == "p" else reversed(made):
        await keep(world, *one)
    for n, product_id in enumerate(("p", "q")):
        decided = (await decided_here(world, product_id, lines["x"][n], lines["y"][n]))[1]
        kinds = [Kind.REPEATED, Kind.CONFLICT]
        assert [d.kind for d in decided.decisions] == (kinds if product_id == "p" else kinds[::-1])
