"""What is kept of products with slices beside sales: the catalogue's files, and the data of buyers."""

from typing import Any

import msgspec
import orjson
import pytest

from contracts.decisions import Decision
from contracts.errors import Invalid
from contracts.messages import CheckoutLine, read_checkout_line
from contracts.outcomes import Kind
from contracts.settings import Settings
from contracts.slices import slice_of_buyer
from contracts.topics import partition_of
from deploy.buyer import erase
from stock_ledger import buyer_data
from stock_ledger.batch import Received, Stock
from stock_ledger.catalogue import read_products, store
from stock_ledger.commands.reads import PostgresCommandReads
from stock_ledger.decide import decide
from stock_ledger.ledger import Advance, need_of
from tests.contract.test_ledger import PostgresWorld, postgres_world
from tests.harness import NOON, line_of, product_of, uuid_of

EVE = next(name for name in (f"eve-{n}" for n in range(99)) if slice_of_buyer(name, 2) == 0)
LINE: dict[str, Any] = {"product_id": "p", "name": "Cup", "price": "1", "currency": "CNY", "stock": 8}


async def test_slices_and_their_stock_are_stored_once(database_settings: Settings) -> None:
    found = []
    async with postgres_world(database_settings) as base:
        reads = PostgresCommandReads(base.pool)
        for changes in ({"slices": 3}, {"slices": 2, "stock": 50}):
            await store(base.pool, read_products(orjson.dumps(LINE | changes)), (), 4)
            [shelf] = await reads.products(["p"])
            parts = shelf.slices()
            found.append(
                [(s.product.name, s.product.version, s.product.slices, s.stock.available) for s in parts]
            )
        partitions = await base.pool.fetch("SELECT product_id, partition FROM stock")
        given = await base.pool.fetchval("SELECT sum(delta)::bigint FROM ledger")
        for wrong in ({"product_id": "q", "slices": 5}, {"product_id": "q", "slices": 2, "stock_source": "refuse"},
                      {"stock_source": "refuse"}, {"name": "Mug"}, {"price": "2"}, {"buyer_limit": 1}):  # fmt: skip
            with pytest.raises(Invalid, match="slices"):
                await store(base.pool, read_products(orjson.dumps(LINE | wrong)), (), 4)
        assert await reads.products(["q"]) == []
        assert {s.product.name for s in (await reads.products(["p"]))[0].slices()} == {"Cup"}
    assert found == [[("Cup", 1, 3, units) for units in (4, 2, 2)]] * 2
    assert given == 8
    assert {r["product_id"]: r["partition"] for r in partitions} == {
        i: partition_of(i, 4) for i in ("p", "p~1", "p~2")
    }


async def test_a_file_changes_nothing_of_a_product_that_is_being_split(database_settings: Settings) -> None:
    """An entry of its own would keep a slice from telling that it has taken over, and its stock would be from nowhere."""
    async with postgres_world(database_settings) as base:
        await base.put(product_of("p", slices=3, slices_open=False), Stock(8, 1), 0)
        before = await base.ledger.products(["p", "p~1", "p~2"])
        same = {"name": "Name of p", "cover": "https://img.example/p.jpg", "price": "129.0"}
        await store(base.pool, read_products(orjson.dumps(LINE | same)), (), 4)
        with pytest.raises(Invalid, match="slices"):
            await store(base.pool, read_products(orjson.dumps(LINE | same | {"name": "Mug"})), (), 4)
        assert await base.ledger.products(["p", "p~1", "p~2"]) == before


async def sell(base: PostgresWorld, place: int, offset: int, line: CheckoutLine) -> Decision:
    """Decide and persist one line of p, of which slice 1 has 5 units, in the partition of its slice."""
    claim = (await base.ledger.state([place]))[place]
    batch = [Received(place, offset, line)]
    entries = await base.ledger.products(["p", "p~1"])
    products = {i: product for i, (product, _) in entries.items()}
    loaded = await base.ledger.load(need_of(batch, products), entries)
    loaded.elsewhere = {"p~1": 5}
    decided = decide(batch, loaded, NOON)
    await base.ledger.persist([Advance(place, claim, offset + 1)], decided, loaded)
    return decided.decisions[0]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({}, Kind.CREATED), ({"on_shelf": False}, Kind.REFUSED), ({"policy": "all_or_nothing"}, Kind.HELD)],
)
async def test_a_line_on_its_way_to_another_slice_is_open_until_it_is_decided_there(
    database_settings: Settings, fields: dict[str, Any], kind: Kind
) -> None:
    """What is stored of it may still be sent: without the buyer it would be another one. A conflict there is another one."""
    line = line_of(1, "p", buyer_id=EVE, policy=fields.pop("policy", "independent"))
    async with postgres_world(database_settings) as base:
        await base.put(product_of("p", slices=2), Stock(0, 1), 0)
        await base.put(product_of("p~1", slices=2, **fields), Stock(5, 1), 1)
        await base.ledger.claim([0, 1], "a", NOON)
        sent = await sell(base, 0, 0, line)
        other = await sell(base, 1, 0, msgspec.structs.replace(line, payload_hash="f" * 32, slice=1))
        assert (sent.kind, other.kind) == (Kind.FORWARDED, Kind.CONFLICT)
        what = f"checkout {sent.checkout_id}, on its way to another slice"
        assert [row[0] for row in await base.pool.fetch(buyer_data.OPEN, EVE)] == [what]
        with pytest.raises(Invalid, match=what):
            await erase(database_settings, EVE)
        assert (await sell(base, 1, 1, read_checkout_line(sent.detail))).kind is kind
        left = [row[0] for row in await base.pool.fetch(buyer_data.OPEN, EVE)]
    assert what not in left
    assert len(left) == (kind is not Kind.REFUSED), "an order or a hold"


async def test_a_line_that_is_in_conflict_where_it_was_sent_is_not_open(database_settings: Settings) -> None:
    """As if what the checkout was first had been another payload, decided since for another of its products."""
    async with postgres_world(database_settings) as base:
        await base.put(product_of("p", slices=2), Stock(0, 1), 0)
        await base.put(product_of("p~1", slices=2), Stock(5, 1), 1)
        await base.ledger.claim([0, 1], "a", NOON)
        line = line_of(1, "p", buyer_id=EVE)
        sent = await sell(base, 0, 0, line)
        await base.pool.execute("UPDATE decisions SET payload_hash = $1", "f" * 32)
        assert (await sell(base, 1, 0, read_checkout_line(sent.detail))).kind is Kind.CONFLICT
        await base.pool.execute("UPDATE decisions SET payload_hash = $1", line.payload_hash)
        assert await base.pool.fetch(buyer_data.OPEN, EVE) == []


async def test_of_a_slice_a_buyer_is_told_its_product_and_nothing_of_the_buyer_stays(
    database_settings: Settings,
) -> None:
    """Also in the line as it was sent on to another slice."""
    async with postgres_world(database_settings) as base:
        await base.put(product_of("p", slices=2), Stock(0, 1), 0)
        await base.put(product_of("p~1", slices=2), Stock(5, 1), 1)
        await base.ledger.claim([0, 1], "a", NOON)
        sent = await sell(base, 0, 0, line_of(1, "p", buyer_id=EVE, note="ring twice"))
        line = read_checkout_line(sent.detail)
        await sell(base, 1, 0, line)
        assert line.slice == 1
        async with base.pool.acquire() as connection, connection.transaction():
            rows = await buyer_data.find(connection, EVE)
            document = buyer_data.document_of(rows.rows)
            await buyer_data.replace(connection, EVE, "nobody", rows)
        told = [item["product_id"] for table in ("decisions", "order_items") for item in document[table]]
        assert told == ["p"] * 3
        kept = await base.pool.fetch("SELECT kind, detail, d::text AS whole FROM decisions AS d")
    assert {row["kind"] for row in kept} == {"forwarded", "created"}
    assert not [row["whole"] for row in kept if EVE in row["whole"] or "ring twice" in row["whole"]]
    (detail,) = (row["detail"] for row in kept if row["detail"])
    assert read_checkout_line(detail).checkout_id == uuid_of(1)
