"""What every view must do, in memory and in Redis."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
import pytest
from redis.asyncio import Redis

from contracts.errors import Unavailable
from contracts.keys import Keys
from contracts.settings import Settings
from stock_ledger import redis_view
from stock_ledger.batch import Product, Stock
from stock_ledger.redis_view import RedisView, connect_redis
from stock_ledger.view import CheckoutsView, Gate, PartitionView, Progress, Shown, View
from stock_ledger.view_fakes import MemoryView
from tests.contract.adapters import memory_or
from tests.harness import product_of, results_of, uuid_of


class World(Protocol):
    """A view, and a hand that writes anything under its keys."""

    @property
    def view(self) -> View: ...
    @property
    def keys(self) -> Keys: ...

    async def set_raw(self, key: str, value: bytes) -> None: ...
    async def lose(self, key: str) -> None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.view = MemoryView()
        self.keys = self.view.keys

    async def set_raw(self, key: str, value: bytes) -> None:
        self.view.data.values[key] = value

    async def lose(self, key: str) -> None:
        del self.view.data.gates[key]


class RedisWorld:
    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = redis
        self.view = RedisView(redis, settings)
        self.keys = Keys(settings.cache_prefix)

    async def set_raw(self, key: str, value: bytes) -> None:
        await self.redis.set(key, value)

    async def lose(self, key: str) -> None:
        assert await self.redis.delete(key) == 1


world_settings = memory_or("redis", "server_settings")


@pytest.fixture
async def redis(server_settings: Settings) -> AsyncIterator[Redis]:
    client = connect_redis(server_settings)
    yield client
    await client.aclose()


@pytest.fixture
async def world(world_settings: Settings | None) -> AsyncIterator[World]:
    if world_settings is None:
        yield MemoryWorld()
        return
    client = connect_redis(world_settings)
    yield RedisWorld(client, world_settings)
    await client.aclose()


def shown(
    epoch: int,
    next_offset: int,
    stock: dict[str, Stock] | None = None,
    *,
    beat: int = 1,
    whole: bool = False,
    after: Progress | None = None,
    products: bool = True,
) -> Shown:
    stock = stock or {}
    entries = {i: product_of(i) for i in stock} if products else {}
    return Shown(0, Progress(epoch, next_offset, 7, beat), stock, entries, whole=whole, after=after)


async def loaded(world: World, *product_ids: str) -> PartitionView:
    return (await world.view.load({0: product_ids}))[0]


async def test_empty(world: World) -> None:
    view = world.view
    assert await view.load({0: ["p"], 1: []}) == {0: PartitionView(None, {}), 1: PartitionView(None, {})}
    assert await view.load({}) == {}
    assert await view.progress([0, 1]) == {}
    assert await view.progress([]) == {}
    assert await view.gates([0]) == {0: Gate(None, frozenset())}
    assert await view.gates([]) == {}
    assert await view.checkouts([uuid_of(1)], []) == CheckoutsView([{}], {})
    assert await view.checkouts([uuid_of(1)], [0, 1]) == CheckoutsView([{}], {})
    assert await view.remember_payloads([]) == {}
    await view.show([], [])


async def test_what_is_shown_can_be_loaded(world: World) -> None:
    await world.view.show([shown(3, 10, {"a": Stock(5, 2), "b": Stock(0, 9)})], [])
    assert await loaded(world, "a", "b", "c") == PartitionView(
        Progress(3, 10, 7, 1), {"a": (product_of("a"), Stock(5, 2)), "b": (product_of("b"), Stock(0, 9))}
    )
    assert await world.view.progress([0, 1]) == {0: Progress(3, 10, 7, 1)}


async def test_every_field_of_a_product_comes_back(world: World) -> None:
    product = product_of("a", name="夜 \" ' \\", on_shelf=False, buyer_limit=10**9, version=2**40)
    part = Shown(0, Progress(1, 1, 0, 1), {"a": Stock(10**12, 2**50)}, {"a": product})
    await world.view.show([part], [])
    assert (await loaded(world, "a")).entries == {"a": (product, Stock(10**12, 2**50))}


@pytest.mark.parametrize(
    ("epoch", "next_offset", "is_written"),
    [(2, 10, True), (2, 11, True), (3, 0, True), (2, 9, False), (1, 99, False)],
)
@pytest.mark.parametrize("whole", [False, True])
async def test_progress_never_goes_back(
    world: World, epoch: int, next_offset: int, is_written: bool, whole: bool
) -> None:
    await world.view.show([shown(2, 10, {"a": Stock(5, 5)})], [])
    late = shown(epoch, next_offset, {"a": Stock(1, 9)}, beat=2, whole=whole)
    await world.view.show([late], [])
    seen = await loaded(world, "a")
    if is_written:
        assert seen == PartitionView(late.progress, {"a": (product_of("a"), Stock(1, 9))})
    else:
        assert seen == PartitionView(Progress(2, 10, 7, 1), {"a": (product_of("a"), Stock(5, 5))})


@pytest.mark.parametrize(("seq", "is_written"), [(4, False), (5, True), (6, True)])
async def test_stock_never_goes_back_within_an_epoch(world: World, seq: int, is_written: bool) -> None:
    await world.view.show([shown(2, 10, {"a": Stock(5, 5)})], [])
    await world.view.show([shown(2, 11, {"a": Stock(1, seq)})], [])
    assert (await loaded(world, "a")).entries["a"][1] == (Stock(1, seq) if is_written else Stock(5, 5))


async def test_a_later_epoch_overrules_a_higher_seq(world: World) -> None:
    await world.view.show([shown(2, 10, {"a": Stock(5, 5)})], [])
    await world.view.show([shown(3, 10, {"a": Stock(9, 2)})], [])
    assert (await loaded(world, "a")).entries["a"][1] == Stock(9, 2)


async def test_a_partition_leaves_others_alone(world: World) -> None:
    other = Shown(1, Progress(1, 1, 0, 1), {"a": Stock(0, 1)}, {"a": product_of("a")}, whole=True)
    await world.view.show([shown(9, 9, {"a": Stock(5, 5)}), other], [])
    assert (await world.view.load({0: ["a"], 1: ["a"]}))[0].entries["a"][1] == Stock(5, 5)
    assert (await world.view.gates([0, 1]))[0].sold_out == frozenset()
    assert (await world.view.gates([0, 1]))[1] == Gate(Progress(1, 1, 0, 1), frozenset({"a"}))


async def test_stock_without_its_product_keeps_the_product(world: World) -> None:
    await world.view.show([shown(1, 1, {"a": Stock(5, 1)})], [])
    await world.view.show([shown(1, 2, {"a": Stock(4, 2)}, products=False)], [])
    assert (await loaded(world, "a")).entries == {"a": (product_of("a"), Stock(4, 2))}


async def test_whole_wins_over_garbage_with_a_higher_seq(world: World) -> None:
    await world.view.show([shown(1, 5, {"a": Stock(0, 99), "gone": Stock(0, 3)})], [])
    await world.view.show([shown(1, 5, {"a": Stock(7, 2)}, beat=2, whole=True)], [])
    assert (await loaded(world, "a")).entries == {"a": (product_of("a"), Stock(7, 2))}
    assert (await world.view.gates([0]))[0] == Gate(Progress(1, 5, 7, 2), frozenset())


async def test_whole_of_a_new_epoch_drops_what_is_not_in_it(world: World) -> None:
    await world.view.show([shown(1, 5, {"a": Stock(3, 3), "gone": Stock(3, 3)})], [])
    await world.view.show([shown(2, 5, {"a": Stock(3, 3)}, whole=True)], [])
    assert (await loaded(world, "a", "gone")).entries == {"a": (product_of("a"), Stock(3, 3))}


async def test_whole_may_be_empty(world: World) -> None:
    await world.view.show([shown(1, 5, {"a": Stock(0, 3)})], [])
    await world.view.show([shown(2, 5, whole=True)], [])
    assert await loaded(world, "a") == PartitionView(Progress(2, 5, 7, 1), {})
    assert (await world.view.gates([0]))[0].sold_out == frozenset()


async def test_whole_larger_than_one_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_view, "ENTRIES_MAX", 3)
    await world.view.show([shown(1, 5, {"old": Stock(0, 3)})], [])
    stock = {f"p{n}": Stock(n % 2, 1) for n in range(10)}
    after = Progress(1, 5, 7, 1)
    await world.view.show([shown(1, 5, stock, beat=2, whole=True, after=after)], [])
    assert (await loaded(world, *stock)).entries == {i: (product_of(i), s) for i, s in stock.items()}
    gate = (await world.view.gates([0]))[0]
    assert gate == Gate(Progress(1, 5, 7, 2), frozenset(f"p{n}" for n in range(0, 10, 2)))
    await world.view.show([shown(1, 6, dict.fromkeys(stock, Stock(9, 2)), after=gate.progress)], [])
    assert (await world.view.gates([0]))[0] == Gate(Progress(1, 6, 7, 1), frozenset())


async def test_a_part_is_added_only_to_the_progress_it_follows(world: World) -> None:
    first, second = Progress(1, 5, 7, 1), Progress(1, 5, 7, 2)
    await world.view.show([shown(1, 6, {"a": Stock(1, 2)}, after=first)], [])
    assert await loaded(world, "a") == PartitionView(None, {})
    await world.view.show([shown(1, 5, {"a": Stock(2, 1)}, beat=1)], [])
    await world.view.show([shown(1, 6, {"a": Stock(1, 2)}, after=second)], [])
    assert await loaded(world, "a") == PartitionView(first, {"a": (product_of("a"), Stock(2, 1))})
    await world.view.show([shown(1, 6, {"a": Stock(1, 2)}, after=first, beat=3)], [])
    assert await loaded(world, "a") == PartitionView(
        Progress(1, 6, 7, 3), {"a": (product_of("a"), Stock(1, 2))}
    )


async def test_the_gate_follows_the_stock(world: World) -> None:
    await world.view.show([shown(1, 1, {"a": Stock(1, 1), "b": Stock(0, 1)})], [])
    assert (await world.view.gates([0]))[0].sold_out == {"b"}
    await world.view.show([shown(1, 2, {"a": Stock(0, 2)})], [])
    assert (await world.view.gates([0]))[0].sold_out == {"a", "b"}
    await world.view.show([shown(1, 3, {"b": Stock(4, 2)})], [])
    assert (await world.view.gates([0]))[0] == Gate(Progress(1, 3, 7, 1), frozenset({"a"}))


def sliced(
    stock: dict[str, int], slices: int, beat: int, *, are_open: bool = True, whole: bool = False
) -> Shown:
    """Units by stock id, of a product of so many slices."""
    entries = {name: product_of(name, slices=slices, slices_open=are_open) for name in stock}
    units = {name: Stock(available, beat) for name, available in stock.items()}
    return Shown(0, Progress(1, beat, 7, beat), units, entries, whole=whole)


async def slices_shown(world: World) -> dict[str, int]:
    return dict((await world.view.gates([0]))[0].slices)


async def test_the_gate_tells_slices_of_the_first_one_where_there_are_several(world: World) -> None:
    await world.view.show([sliced({"hot": 0, "hot~3": 2}, 4, 1), shown(1, 1, {"a": Stock(1, 1)})], [])
    assert (await world.view.gates([0]))[0] == Gate(Progress(1, 1, 7, 1), frozenset({"hot"}), {"hot": 4})
    assert (await loaded(world, "hot~3")).entries == {"hot~3": (product_of("hot~3", slices=4), Stock(2, 1))}
    other = Shown(1, Progress(1, 1, 0, 1), {"hot~1": Stock(1, 1)}, {"hot~1": product_of("hot~1", slices=4)})
    await world.view.show([other], [])
    gates = await world.view.gates([0, 1, 2])
    assert [gates[p].slices for p in (0, 1, 2)] == [{"hot": 4}, {}, {}]


async def test_slices_are_told_once_they_are_open(world: World) -> None:
    await world.view.show([sliced({"hot": 1, "warm": 1}, 3, 1, are_open=False)], [])
    assert await slices_shown(world) == {}
    await world.view.show([sliced({"warm": 1}, 3, 2)], [])
    assert await slices_shown(world) == {"warm": 3}
    await world.view.show([sliced({"hot": 1}, 3, 3)], [])
    assert await slices_shown(world) == {"hot": 3, "warm": 3}
    await world.view.show([shown(1, 4, {"hot": Stock(0, 4)}, products=False)], [])
    assert await slices_shown(world) == {"hot": 3, "warm": 3}


async def test_whole_drops_the_slices_of_what_is_not_in_it(world: World) -> None:
    await world.view.show([sliced({"hot": 1, "gone": 1}, 3, 1)], [])
    await world.view.show([sliced({"hot": 1}, 3, 2, whole=True)], [])
    assert await slices_shown(world) == {"hot": 3}
    await world.view.show([sliced({"hot": 1}, 3, 3, are_open=False, whole=True)], [])
    assert await slices_shown(world) == {}
    await world.view.show([shown(2, 2, whole=True)], [])
    assert await slices_shown(world) == {}


async def test_slices_are_shown_only_with_what_is_not_behind(world: World) -> None:
    await world.view.show([sliced({"hot": 1}, 3, 5)], [])
    await world.view.show([sliced({"hot": 1}, 2, 4)], [])
    await world.view.show([sliced({"hot": 1}, 2, 4, whole=True)], [])
    after = msgspec.structs.replace(sliced({"hot": 1}, 2, 6), after=Progress(1, 5, 7, 6))
    await world.view.show([after], [])
    assert await slices_shown(world) == {"hot": 3}


async def test_what_is_sold_out_is_lost_with_the_slices_and_shown_again_with_them(world: World) -> None:
    """A first slice that is sold out must never pass for all of its product."""
    await world.view.show([sliced({"hot": 0, "cold": 0}, 3, 1)], [])
    both = {"hot": 3, "cold": 3}
    assert (await world.view.gates([0]))[0] == Gate(Progress(1, 1, 7, 1), frozenset(both), both)
    await world.lose(world.keys.gate(0))
    assert (await world.view.gates([0]))[0] == Gate(Progress(1, 1, 7, 1), frozenset())
    await world.view.show([sliced({"hot": 0}, 3, 2)], [])
    assert (await world.view.gates([0]))[0] == Gate(Progress(1, 2, 7, 2), frozenset({"hot"}), {"hot": 3})


async def test_slices_of_more_than_one_call_are_all_shown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_view, "ENTRIES_MAX", 3)
    names = {f"p{n}": 1 for n in range(10)}
    await world.view.show([sliced(names, 2, 1, whole=True)], [])
    assert await slices_shown(world) == dict.fromkeys(names, 2)
    assert len((await loaded(world, *names)).entries) == 10
    more = {f"q{n}": 1 for n in range(10)}
    await world.view.show([sliced(more, 3, 2)], [])
    assert await slices_shown(world) == dict.fromkeys(names, 2) | dict.fromkeys(more, 3)


async def test_results_are_kept_by_field(world: World) -> None:
    one, two = uuid_of(1), uuid_of(2)
    await world.view.show([], [(one, "a", b"1a"), (two, "a", b"2a"), (one, "#0:7", b"conflict")])
    await world.view.show([shown(1, 1)], [(one, "a", b"1a again")])
    assert await results_of(world.view, one) == {"a": b"1a again", "#0:7": b"conflict"}
    assert await results_of(world.view, two) == {"a": b"2a"}


async def test_results_are_written_even_if_the_part_is_not(world: World) -> None:
    await world.view.show([shown(2, 1)], [])
    await world.view.show([shown(1, 1)], [(uuid_of(1), "a", b"late but true")])
    assert await world.view.checkouts([uuid_of(1)], [1, 0]) == CheckoutsView(
        [{"a": b"late but true"}], {0: Progress(2, 1, 7, 1)}
    )


async def test_several_checkouts_are_read_at_once_in_the_order_asked_for(world: World) -> None:
    one, two, none = uuid_of(1), uuid_of(2), uuid_of(3)
    await world.view.show([], [(one, "a", b"1a"), (two, "a", b"2a"), (two, "b", b"2b")])
    assert await world.view.checkouts([two, none, one], []) == CheckoutsView(
        [{"a": b"2a", "b": b"2b"}, {}, {"a": b"1a"}], {}
    )
    assert await world.view.checkouts([], []) == CheckoutsView([], {})


async def test_the_first_payload_is_remembered(world: World) -> None:
    one, two = uuid_of(1), uuid_of(2)
    x, y, z = "a" * 32, "b" * 32, "c" * 32
    assert await world.view.remember_payloads([(one, x), (two, y), (one, z)]) == {2: x}
    assert await world.view.remember_payloads([(two, x), (uuid_of(3), ""), (one, x)]) == {0: y, 2: x}
    assert await world.view.remember_payloads([(uuid_of(3), z), (uuid_of(3), "")]) == {1: z}


async def test_drop_leaves_nothing_to_trust(world: World) -> None:
    await world.view.show([shown(1, 1, {"a": Stock(0, 1)})], [(uuid_of(1), "a", b"stays")])
    before = await world.view.progress([0])
    await world.view.drop()
    assert await loaded(world, "a") == PartitionView(None, {})
    assert await world.view.progress(range(4)) == {}
    assert await results_of(world.view, uuid_of(1)) == {"a": b"stays"}
    await world.view.show([shown(1, 2, {"a": Stock(0, 1)}, after=before[0])], [])
    assert await loaded(world, "a") == PartitionView(None, {})
    await world.view.drop()


@pytest.mark.parametrize("garbage", [b"", b"1", b"1:2", b"a:b:c:d", b"1:2:3:4:5", b"\xff\x00"])
async def test_unreadable_progress_counts_as_absent(world: World, garbage: bytes) -> None:
    await world.set_raw(world.keys.progress(0), garbage)
    assert await world.view.progress([0]) == {}
    assert (await world.view.gates([0]))[0].progress is None
    assert (await loaded(world)).progress is None
    part = shown(5, 9, {"a": Stock(1, 1)}, whole=True)
    await world.view.show([part], [])
    assert await loaded(world, "a") == PartitionView(part.progress, {"a": (product_of("a"), Stock(1, 1))})


@pytest.mark.parametrize("garbage", [b"", b"1:2", b"x:1:1", b"1:x:1", b"1:1:1:1", b"\xff"])
async def test_unreadable_stock_counts_as_absent(world: World, garbage: bytes) -> None:
    await world.view.show([shown(1, 1, {"a": Stock(1, 1), "b": Stock(2, 2)})], [])
    await world.set_raw(world.keys.stock(0, "a"), garbage)
    assert (await loaded(world, "a", "b")).entries == {"b": (product_of("b"), Stock(2, 2))}


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"{}", b'{"product_id":1}', b"null", b"\xff"])
async def test_an_unreadable_product_counts_as_absent(world: World, garbage: bytes) -> None:
    await world.view.show([shown(1, 1, {"a": Stock(1, 1)})], [])
    await world.set_raw(world.keys.product(0, "a"), garbage)
    assert (await loaded(world, "a")).entries == {}


async def test_redis_forgets_results_and_payloads_in_time(redis: Redis, server_settings: Settings) -> None:
    view, keys = RedisView(redis, server_settings), Keys(server_settings.cache_prefix)
    await view.show([shown(1, 1, {"a": Stock(1, 1)})], [(uuid_of(1), "a", b"x")])
    await view.remember_payloads([(uuid_of(1), "a" * 32)])
    ttl = server_settings.result_ttl_s
    assert ttl - 5 <= await redis.ttl(keys.result(uuid_of(1))) <= ttl
    ttl = server_settings.idempotency_ttl_s
    assert ttl - 5 <= await redis.ttl(keys.payload(uuid_of(1))) <= ttl
    for key in (keys.progress(0), keys.stock(0, "a"), keys.product(0, "a")):
        assert await redis.ttl(key) == -1


async def test_memory_is_unavailable_when_switched_off() -> None:
    view = MemoryView()
    view.available = False
    await assert_unavailable(view)


async def test_redis_is_unavailable_when_nothing_listens(offline_settings: Settings) -> None:
    client = connect_redis(offline_settings)
    await assert_unavailable(RedisView(client, offline_settings))
    await client.aclose()


async def test_redis_tells_why_it_is_unavailable(offline_settings: Settings) -> None:
    client = connect_redis(offline_settings)
    with pytest.raises(Unavailable, match=r"ConnectionError: .*127\.0\.0\.1:1"):
        await RedisView(client, offline_settings).gates([0])
    await client.aclose()


async def assert_unavailable(view: View) -> None:
    product: Product = product_of("a")
    with pytest.raises(Unavailable):
        await view.load({0: [product.product_id]})
    with pytest.raises(Unavailable):
        await view.show([shown(1, 1)], [])
    with pytest.raises(Unavailable):
        await view.progress([0])
    with pytest.raises(Unavailable):
        await results_of(view, uuid_of(1))
    with pytest.raises(Unavailable):
        await view.gates([0])
    with pytest.raises(Unavailable):
        await view.remember_payloads([(uuid_of(1), "a" * 32)])
    with pytest.raises(Unavailable):
        await view.drop()


async def test_more_commands_than_connections_wait_for_one(server_settings: Settings) -> None:
    settings = msgspec.structs.replace(server_settings, redis_pool_max=2)
    client = connect_redis(settings)
    try:
        view = RedisView(client, settings)
        found = await asyncio.gather(*(results_of(view, uuid_of(n)) for n in range(300)))
    finally:
        await client.aclose()
    assert found == [{}] * 300
