"""What every ledger must do, in memory and in Postgres."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

import asyncpg
import msgspec
import pytest

from api.checkouts import Decisions
from contracts.decisions import Decision
from contracts.errors import FenceLost, StaleView, Unavailable
from contracts.messages import CheckoutLine, Shipping
from contracts.outcomes import Kind, Reason
from contracts.settings import Settings
from stock_ledger.batch import Decided, Loaded, Product, Received, Stock
from stock_ledger.carts import Carts, PostgresCarts
from stock_ledger.decide import decide
from stock_ledger.fakes import MemoryLedger, MemoryReads
from stock_ledger.ledger import Advance, Claim, Ledger, Need, need_of
from stock_ledger.pool import connect_pool
from stock_ledger.postgres import PostgresLedger
from stock_ledger.reads import PostgresReads
from tests.contract.adapters import memory_or
from tests.harness import HOME, NOON, insert_product, line_of, product_of, uuid_of

ALL = list(range(4))


class World(Protocol):
    """A ledger, and the hands that change what it stands on from outside."""

    @property
    def ledger(self) -> Ledger: ...

    @property
    def reads(self) -> Decisions: ...

    @property
    def carts(self) -> Carts: ...

    async def put(self, product: Product, stock: Stock, partition: int) -> None: ...
    async def set_stock(self, product_id: str, stock: Stock) -> None: ...
    async def set_version(self, product_id: str, version: int) -> None: ...
    async def put_address(self, buyer_id: str, address_id: str, shipping: Shipping) -> None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.reads = MemoryReads(self.ledger, {})
        self.carts = self.ledger.carts

    async def put(self, product: Product, stock: Stock, partition: int) -> None:
        self.ledger.put(product, stock, partition)
        self.carts.catalogue[product.product_id] = (product, stock)

    async def set_stock(self, product_id: str, stock: Stock) -> None:
        self.ledger.stock[product_id] = stock

    async def set_version(self, product_id: str, version: int) -> None:
        changed = msgspec.structs.replace(self.ledger.catalogue[product_id], version=version)
        self.ledger.catalogue[product_id] = changed

    async def put_address(self, buyer_id: str, address_id: str, shipping: Shipping) -> None:
        self.ledger.address_book[buyer_id, address_id] = shipping


class PostgresWorld:
    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self.pool = pool
        self.ledger = PostgresLedger(pool)
        self.reads = PostgresReads(pool)
        self.carts = PostgresCarts(pool)

    async def put(self, product: Product, stock: Stock, partition: int) -> None:
        await insert_product(self.pool, product, stock.available, stock.seq, partition)

    async def set_stock(self, product_id: str, stock: Stock) -> None:
        query = "UPDATE stock SET available = $2, seq = $3 WHERE product_id = $1"
        await self.pool.execute(query, product_id, stock.available, stock.seq)

    async def set_version(self, product_id: str, version: int) -> None:
        await self.pool.execute("UPDATE products SET version = $2 WHERE product_id = $1", product_id, version)

    async def put_address(self, buyer_id: str, address_id: str, shipping: Shipping) -> None:
        values = (buyer_id, address_id, shipping.contact_name, shipping.phone, shipping.address)
        await self.pool.execute("INSERT INTO addresses VALUES ($1, $2, $3, $4, $5)", *values)


@asynccontextmanager
async def postgres_world(settings: Settings) -> AsyncIterator[PostgresWorld]:
    pool = await connect_pool(settings)
    try:
        yield PostgresWorld(pool)
    finally:
        await pool.close()


world_settings = memory_or("postgres", "database_settings")


@pytest.fixture
async def world(world_settings: Settings | None) -> AsyncIterator[World]:
    if world_settings is None:
        yield MemoryWorld()
        return
    async with postgres_world(world_settings) as made:
        yield made


async def decide_on(
    world: World, lines: list[CheckoutLine | None], claim: Claim, partition: int = 0
) -> tuple[Decided, Loaded]:
    """What a writer would decide on these lines, which begin at the claim's next offset."""
    batch = [
        Received(partition, claim.next_offset + n, line, "" if line else "broken")
        for n, line in enumerate(lines)
    ]
    entries = await world.ledger.products(sorted({line.product_id for line in lines if line}))
    need = need_of(batch, {product_id: product for product_id, (product, _) in entries.items()})
    loaded = await world.ledger.load(need, entries)
    return decide(batch, loaded, NOON), loaded


async def persist(
    world: World, lines: list[CheckoutLine | None], claim: Claim, partition: int = 0
) -> Decided:
    decided, loaded = await decide_on(world, lines, claim, partition)
    advance = Advance(partition, claim, claim.next_offset + len(lines))
    await world.ledger.persist([advance], decided, loaded)
    return decided


async def everything(world: World) -> tuple[Any, ...]:
    """All that persist may change."""
    ledger = world.ledger
    return (
        await ledger.state(ALL),
        {p: await ledger.partition_products(p) for p in ALL},
        [await ledger.decisions(p, 0, 1000) for p in ALL],
        await ledger.load(Need([], [("p", "buyer-1"), ("limited", "buyer-1")], []), {}),
    )


async def test_claim_starts_at_zero_and_bumps_the_epoch(world: World) -> None:
    assert await world.ledger.state([0, 1]) == {}
    assert await world.ledger.claim([1, 0], "a", NOON) == {0: Claim(1, 0), 1: Claim(1, 0)}
    assert await world.ledger.claim([1, 2], "b", NOON) == {1: Claim(2, 0), 2: Claim(1, 0)}
    assert await world.ledger.state(ALL) == {0: Claim(1, 0), 1: Claim(2, 0), 2: Claim(1, 0)}


async def test_claim_keeps_the_next_offset(world: World) -> None:
    claim = (await world.ledger.claim([3], "a", NOON))[3]
    await persist(world, [None, None], claim, partition=3)
    assert await world.ledger.claim([3], "b", NOON) == {3: Claim(2, 2)}


async def test_a_claim_voids_the_earlier_one(world: World) -> None:
    await world.put(product_of(), Stock(5, 1), 0)
    old = (await world.ledger.claim([0], "a", NOON))[0]
    new = (await world.ledger.claim([0], "b", NOON))[0]
    before = await everything(world)
    with pytest.raises(FenceLost):
        await persist(world, [line_of(1)], old)
    assert await everything(world) == before
    await persist(world, [line_of(1)], new)
    assert await world.ledger.products(["p"]) == {"p": (product_of(), Stock(4, 2))}


@pytest.mark.parametrize("next_offset", [1, 2, 4])
async def test_another_offset_than_the_next_is_fenced(world: World, next_offset: int) -> None:
    await world.put(product_of(), Stock(5, 1), 0)
    claim = (await world.ledger.claim([0], "a", NOON))[0]
    await persist(world, [None, None, None], claim)
    before = await everything(world)
    with pytest.raises(FenceLost):
        await persist(world, [line_of(1)], Claim(claim.epoch, next_offset))
    assert await everything(world) == before


async def test_one_lost_partition_fences_the_whole_batch(world: World) -> None:
    claims = await world.ledger.claim([0, 1], "a", NOON)
    await world.ledger.claim([1], "b", NOON)
    decided = decide(
        [Received(0, 0, None, "x"), Received(1, 0, None, "x")], Loaded({}, {}, {}, {}, {}, {}), NOON
    )
    advances = [Advance(0, claims[0], 1), Advance(1, claims[1], 1)]
    with pytest.raises(FenceLost):
        await world.ledger.persist(advances, decided, Loaded({}, {}, {}, {}, {}, {}))
    assert await world.ledger.decisions(0, 0, 10) == []
    assert (await world.ledger.state([0]))[0] == claims[0]


async def test_persist_writes_everything_and_decisions_give_it_back(world: World) -> None:
    await world.put(product_of(), Stock(5, 7), 0)
    await world.put(product_of("limited", buyer_limit=3, version=4), Stock(9, 1), 0)
    await world.put_address("buyer-1", "home", HOME)
    claim = (await world.ledger.claim([0], "a", NOON))[0]
    other = "f" * 32
    decided = await persist(
        world,
        [
            line_of(1, quantity=2, note="by night, 'quoted' \\ ; 夜"),
            line_of(1, "limited", 3, line=1, lines=2, shipping=None, address_id="home"),
            None,
            line_of(1, quantity=2),
            line_of(1, quantity=1, payload_hash=other),
            line_of(2, quantity=4),
            line_of(3, "limited", 4),
            line_of(4, "unknown"),
            line_of(5, quantity=3),
        ],
        claim,
    )
    assert [d.kind for d in decided.decisions] == [
        Kind.CREATED, Kind.CREATED, Kind.DEAD, Kind.REPEATED, Kind.CONFLICT,
        Kind.REFUSED, Kind.REFUSED, Kind.REFUSED, Kind.CREATED,
    ]  # fmt: skip
    assert await world.ledger.decisions(0, 0, 100) == decided.decisions
    assert await world.ledger.decisions(0, 2, 5) == decided.decisions[2:5]
    assert await world.ledger.decisions(1, 0, 100) == []
    documents = [d.document() for d in await world.ledger.decisions(0, 0, 100)]
    assert documents == [d.document() for d in decided.decisions]
    assert await world.ledger.state([0]) == {0: Claim(1, 9)}
    entries = await world.ledger.products(["p", "limited", "unknown"])
    assert entries == {
        "p": (product_of(), Stock(0, 9)),
        "limited": (product_of("limited", buyer_limit=3, version=4), Stock(6, 2)),
    }
    need = Need([uuid_of(n) for n in range(1, 6)], [("limited", "buyer-1"), ("limited", "x")], [])
    loaded = await world.ledger.load(need, entries)
    assert loaded.bought == {("limited", "buyer-1"): 3}
    assert loaded.decided == {
        (uuid_of(1), "p"): 0,
        (uuid_of(1), "limited"): 1,
        (uuid_of(2), "p"): 5,
        (uuid_of(3), "limited"): 6,
        (uuid_of(4), "unknown"): 7,
        (uuid_of(5), "p"): 8,
    }
    assert loaded.hashes == dict.fromkeys(loaded.decided, "0" * 32)


async def test_what_was_decided_is_read(world: World) -> None:
    for product_id in ("a", "b"):
        await world.put(product_of(product_id), Stock(1, 1), 0)
    claim = (await world.ledger.claim([0, 1], "me", NOON))[0]
    lines = [
        line_of(1, "b", line=1, lines=2),
        line_of(1, "a", lines=2),
        None,
        line_of(1, "b"),
        line_of(2, "b"),
    ]
    decided = await persist(world, [*lines, line_of(2, "b", payload_hash="f" * 32)], claim)
    assert [d.kind for d in decided.decisions] == [
        Kind.CREATED, Kind.CREATED, Kind.DEAD, Kind.REPEATED, Kind.REFUSED, Kind.CONFLICT,
    ]  # fmt: skip
    assert await world.reads.next_offsets([0, 1, 2]) == {0: 6, 1: 0}
    at = await world.reads.decisions_at([(0, 5), (0, 2), (0, 3), (0, 6), (1, 0)])
    assert at == {(0, n): decided.decisions[n] for n in (2, 3, 5)}
    assert await world.reads.decisions_at([]) == {}
    assert await world.reads.decisions_of_checkout(uuid_of(1)) == [decided.decisions[1], decided.decisions[0]]
    assert await world.reads.decisions_of_checkout(uuid_of(2)) == [decided.decisions[4]]
    assert await world.reads.decisions_of_checkout(uuid_of(3)) == []
    assert await world.reads.conflicts_of_checkout(uuid_of(2)) == [decided.decisions[5]]
    assert await world.reads.conflicts_of_checkout(uuid_of(1)) == []


async def test_load_gives_what_is_needed_and_no_more(world: World) -> None:
    away = Shipping("Han Meimei", "+86 139 0000 0000", "2 Short Street")
    await world.put_address("b1", "home", HOME)
    await world.put_address("b1", "away", away)
    await world.put_address("b2", "home", away)
    entries = {"p": (product_of(), Stock(1, 1))}
    loaded = await world.ledger.load(Need([], [], [("b1", "home"), ("b2", "nowhere")]), entries)
    assert loaded == Loaded({"p": product_of()}, {"p": Stock(1, 1)}, {}, {("b1", "home"): HOME}, {}, {})
    assert await world.ledger.load(Need([], [], []), {}) == Loaded({}, {}, {}, {}, {}, {})


async def test_purchases_add_up(world: World) -> None:
    await world.put(product_of("limited", buyer_limit=9), Stock(9, 1), 0)
    claim = (await world.ledger.claim([0], "a", NOON))[0]
    await persist(world, [line_of(1, "limited", 2, buyer_id="b")], claim)
    await persist(world, [line_of(2, "limited", 3, buyer_id="b")], Claim(claim.epoch, 1))
    loaded = await world.ledger.load(Need([], [("limited", "b")], []), {})
    assert loaded.bought == {("limited", "b"): 5}


async def put_in_carts(world: World, buyers: Sequence[str], products: str) -> None:
    """Each product in the cart of each buyer."""
    for buyer_id in buyers:
        for product_id in products:
            await world.carts.put(buyer_id, product_id, 7, NOON, lines_max=9)


async def carts_of(world: World, *buyers: str) -> list[str]:
    """The products in each buyer's cart."""
    carts = [await world.carts.lines(buyer_id) for buyer_id in buyers]
    return ["".join(sorted(line.product_id for line in lines)) for lines in carts]


async def test_what_is_bought_from_a_cart_leaves_it_and_what_is_refused_stays(world: World) -> None:
    for product_id, available in (("p", 9), ("q", 0), ("r", 9)):
        await world.put(product_of(product_id), Stock(available, 1), 0)
    claim = (await world.ledger.claim([0], "a", NOON))[0]
    await put_in_carts(world, ["b", "c"], "pqr")
    of_b: dict[str, Any] = {"buyer_id": "b", "from_cart": True}
    lines: list[CheckoutLine | None] = [
        line_of(1, "p", **of_b),
        line_of(1, "q", line=1, **of_b),
        line_of(2, "p", buyer_id="c"),
        line_of(3, "p", **of_b),
        line_of(4, "r", buyer_id="not-in-a-cart", from_cart=True),
        line_of(5, "r", policy="all_or_nothing", lines=2, **of_b),
    ]
    decided, loaded = await decide_on(world, lines, claim)
    with pytest.raises(FenceLost):
        await world.ledger.persist([Advance(0, Claim(9, 0), len(lines))], decided, loaded)
    assert await carts_of(world, "b", "c") == ["pqr", "pqr"]
    await world.ledger.persist([Advance(0, claim, len(lines))], decided, loaded)
    assert await carts_of(world, "b", "c") == ["qr", "pqr"], "of all or nothing nothing is bought yet"
    assert await world.ledger.decisions(0, 0, 9) == decided.decisions
    await put_in_carts(world, ["b"], "p")
    again = await persist(world, lines[:1], Claim(claim.epoch, len(lines)))
    assert [d.kind for d in again.decisions] == [Kind.REPEATED]
    assert await carts_of(world, "b") == ["pqr"], "a retry buys nothing"


@pytest.mark.parametrize("drifted", [Stock(4, 1), Stock(5, 2), Stock(6, 0)])
async def test_drifted_stock_is_stale_and_nothing_is_written(world: World, drifted: Stock) -> None:
    await world.put(product_of(), Stock(5, 1), 0)
    claim = (await world.ledger.claim([0], "a", NOON))[0]
    decided, loaded = await decide_on(world, [line_of(1)], claim)
    await world.set_stock("p", drifted)
    before = await everything(world)
    with pytest.raises(StaleView):
        await world.ledger.persist([Advance(0, claim, 1)], decided, loaded)
    assert await everything(world) == before


async def test_a_changed_product_is_stale_and_nothing_is_written(world: World) -> None:
    await world.put(product_of("limited", buyer_limit=3), Stock(5, 1), 0)
    claim = (await world.ledger.claim([0], "a", NOON))[0]
    decided, loaded = await decide_on(world, [line_of(1, "limited")], claim)
    await world.set_version("limited", 2)
    before = await everything(world)
    with pytest.raises(StaleView):
        await world.ledger.persist([Advance(0, claim, 1)], decided, loaded)
    assert await everything(world) == before


@pytest.mark.parametrize("available", [0, 5])
async def test_a_line_is_decided_first_only_once(world: World, available: int) -> None:
    await world.put(product_of(), Stock(available, 1), 0)
    claim = (await world.ledger.claim([0], "a", NOON))[0]
    decided, loaded = await decide_on(world, [line_of(1)], Claim(claim.epoch, 1))
    await persist(world, [line_of(1)], claim)
    await world.set_stock("p", Stock(available, 1))
    before = await everything(world)
    with pytest.raises(StaleView):
        await world.ledger.persist([Advance(0, Claim(claim.epoch, 1), 2)], decided, loaded)
    assert await everything(world) == before


async def test_partition_products(world: World) -> None:
    await world.put(product_of("a"), Stock(1, 1), 0)
    await world.put(product_of("b", on_shelf=False), Stock(0, 3), 0)
    await world.put(product_of("c"), Stock(5, 1), 1)
    assert await world.ledger.partition_products(0) == {
        "a": (product_of("a"), Stock(1, 1)),
        "b": (product_of("b", on_shelf=False), Stock(0, 3)),
    }
    assert await world.ledger.partition_products(2) == {}


async def test_refusals_alone_need_no_stock(world: World) -> None:
    claim = (await world.ledger.claim([0], "a", NOON))[0]
    decided = await persist(world, [line_of(1, "unknown")], claim)
    assert [d.reason for d in decided.decisions] == [Reason.UNKNOWN_PRODUCT]
    assert await world.ledger.decisions(0, 0, 9) == decided.decisions


async def test_the_longest_text_and_the_largest_numbers_fit(world: World) -> None:
    await world.put(product_of(), Stock(10**12, 1), 0)
    claim = (await world.ledger.claim([0], "a", NOON))[0]
    decided: list[Decision] = (
        await persist(world, [line_of(1, quantity=1_000_000, note="夜" * 10_000)], claim)
    ).decisions
    assert decided[0].order is not None
    assert await world.ledger.decisions(0, 0, 1) == decided
    assert decided[0].order.expires_at - decided[0].decided_at == timedelta(seconds=900)


async def test_memory_is_unavailable_when_switched_off() -> None:
    ledger = MemoryLedger()
    ledger.available = False
    await assert_unavailable(ledger)


async def test_postgres_is_unavailable_when_nothing_listens(offline_settings: Settings) -> None:
    async with postgres_world(offline_settings) as world:
        await assert_unavailable(world.ledger)


async def test_a_transaction_that_is_left_alone_does_not_keep_a_partition_for_ever(
    database_settings: Settings,
) -> None:
    settings = msgspec.structs.replace(database_settings, session_timeout_ms=200)
    async with postgres_world(database_settings) as world, postgres_world(settings) as zombie:
        await world.ledger.claim([0], "a", NOON)
        async with zombie.pool.acquire() as connection:
            await connection.execute("BEGIN; UPDATE partition_state SET next_offset = 7")
            assert await world.ledger.claim([0], "b", NOON) == {0: Claim(2, 0)}
            # The second, if the connection is being closed at that very moment.
            with pytest.raises((asyncpg.InterfaceError, asyncpg.InternalClientError)):
                await connection.execute("COMMIT")


async def test_a_server_that_only_reads_is_unavailable(database_settings: Settings) -> None:
    pool = await asyncpg.create_pool(
        database_settings.postgres_url,
        min_size=0,
        max_size=1,
        server_settings={"default_transaction_read_only": "on"},
    )
    async with pool:
        with pytest.raises(Unavailable):
            await PostgresLedger(pool).claim([0], "a", NOON)


async def assert_unavailable(ledger: Ledger) -> None:
    nothing = Loaded({}, {}, {}, {}, {}, {})
    with pytest.raises(Unavailable):
        await ledger.claim([0], "a", NOON)
    with pytest.raises(Unavailable):
        await ledger.state([0])
    with pytest.raises(Unavailable):
        await ledger.products(["p"])
    with pytest.raises(Unavailable):
        await ledger.partition_products(0)
    with pytest.raises(Unavailable):
        await ledger.load(Need([], [], []), {})
    with pytest.raises(Unavailable):
        await ledger.decisions(0, 0, 1)
    with pytest.raises(Unavailable):
        await ledger.persist([Advance(0, Claim(1, 0), 1)], Decided([], {}, {}, {}), nothing)
