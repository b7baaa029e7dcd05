"""Repairing the view of a running sale, on real servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from contracts.errors import SettingsError, Unavailable
from deploy.repair import repair
from stock_ledger.audit.report import DEVIATIONS_KEPT_MAX
from tests.harness import eventually, line_of, real_writer, running, uuid_of
from tests.integration.audit_sale import Sale

CACHE_LAWS = {"cache-stock", "cache-products", "cache-sold-out", "cache-progress", "cache-results"}


async def spoil(sale: Sale) -> None:
    """Wrong stock, a price that nobody set, a gate without its product, progress ahead of the truth, a result nobody decided."""
    keys, redis = sale.keys, sale.redis
    await redis.set(keys.stock(1, sale.plain), b"9:9999:7777")
    product = await redis.get(keys.product(0, sale.hot))
    assert isinstance(product, bytes)
    await redis.set(keys.product(0, sale.hot), product.replace(b'"129.00"', b'"1.00"'))
    await redis.srem(keys.gate(0), sale.hot)
    await redis.sadd(keys.gate(1), "never-there")
    await redis.set(keys.progress(2), b"99:99999:0:1")
    document = await redis.hget(keys.result(uuid_of(100)), sale.plain)
    assert isinstance(document, bytes)
    await redis.hset(keys.result(uuid_of(100)), sale.plain, document.replace(b'"created"', b'"refused"'))


async def truth(sale: Sale) -> list[str]:
    tables = ("decisions", "orders", "order_items", "payments", "ledger", "stock", "products")
    return [str(await sale.pool.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")) for table in tables]  # noqa: S608


@asynccontextmanager
async def buyers(sale: Sale) -> AsyncIterator[None]:
    """Go on buying."""
    over = asyncio.Event()

    async def buy() -> None:
        async with sale.producing() as producer:
            for n in range(1000, 100_000):
                partition, key, value = sale.sent(line_of(n, sale.plain))
                await producer.send_and_wait(sale.topics.checkouts, value, key=key, partition=partition)
                if over.is_set():
                    return

    buying = asyncio.create_task(buy())
    try:
        yield
    finally:
        over.set()
        await buying


async def test_a_spoilt_view_is_rebuilt_while_the_sale_goes_on(sale: Sale) -> None:
    await sale.sell()
    async with real_writer(sale.settings, "w2") as writer, running(writer), buyers(sale):
        before = await sale.decided()
        await eventually(lambda: _more_than(sale, before + 10))
        await spoil(sale)
        repaired = await repair(sale.settings, 10.0)
        after = await sale.decided()
        await eventually(lambda: _more_than(sale, after + 10))
    assert "cache-results" in repaired.before.broken()
    assert set(repaired.before.broken()) <= CACHE_LAWS
    assert repaired.after.ok, repaired.after.broken()
    assert any("removed the results of 1 checkouts" in done for done in repaired.done)
    assert repaired.after.totals.decided > repaired.before.totals.decided


async def test_without_a_writer_it_says_so_and_postgres_is_not_touched(sale: Sale) -> None:
    await sale.sell()
    await spoil(sale)
    before = await truth(sale)
    repaired = await repair(sale.settings, 1.0, rebuild_timeout_s=0.3)
    assert set(repaired.before.broken()) == CACHE_LAWS
    assert any("no writer has them" in done for done in repaired.done)
    assert "cache-results" not in repaired.after.broken()
    assert await truth(sale) == before


async def test_all_wrong_results_are_removed_however_many(sale: Sale) -> None:
    await sale.sell()
    many = DEVIATIONS_KEPT_MAX + 100
    async with sale.redis.pipeline(transaction=False) as pipe:
        for n in range(many):
            pipe.hset(sale.keys.result(uuid_of(f"never {n}")), sale.plain, b"?")
        await pipe.execute()
    repaired = await repair(sale.settings, 1.0)
    assert repaired.before.law("cache-results").deviation_count == many
    assert repaired.done == [f"removed the results of {many} checkouts, which polls now read from Postgres"]
    assert repaired.ok, repaired.after.broken()


async def test_keys_of_another_type_are_told_and_made_anew(sale: Sale) -> None:
    await sale.sell()
    keys = sale.keys
    spoilt = {
        "cache-stock": keys.stock(1, sale.plain),
        "cache-products": keys.product(0, sale.hot),
        "cache-sold-out": keys.gate(0),
        "cache-progress": keys.progress(2),
        "cache-results": keys.result(uuid_of(100)),
    }
    for key in spoilt.values():
        await sale.redis.delete(key)
        await sale.redis.rpush(key, "?")
    repaired = await repair(sale.settings, 1.0, rebuild_timeout_s=0.3)
    assert repaired.before.broken() == list(spoilt)
    for law, key in spoilt.items():
        told = [deviation.detail for deviation in repaired.before.law(law).deviations]
        assert f"drifted: the key {key} is a list" in told
    assert "cache-results" not in repaired.after.broken()
    async with real_writer(sale.settings, "w2") as writer, running(writer):
        await eventually(lambda: _all_shown(sale))
    report = await sale.audit()
    assert report.ok, report.broken()


async def test_a_cache_that_cannot_be_read_is_not_taken_for_one_without_drift(sale: Sale) -> None:
    await sale.sell()
    away = msgspec.structs.replace(sale.settings, redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(Unavailable, match="the cache could not be read"):
        await repair(away, 1.0)
    stranger = sale.settings.redis_url.replace("redis://", "redis://nobody:wrong@")
    with pytest.raises(SettingsError, match="SLUICEWAY_REDIS_URL"):
        await repair(msgspec.structs.replace(sale.settings, redis_url=stranger), 1.0)


async def test_nothing_is_done_where_nothing_deviates(sale: Sale) -> None:
    await sale.sell()
    repaired = await repair(sale.settings, 1.0)
    assert repaired.ok
    assert (repaired.done, repaired.after) == ([], repaired.before)


async def test_what_is_not_about_the_view_is_left_as_evidence(sale: Sale) -> None:
    await sale.sell()
    await sale.pool.execute("UPDATE stock SET available = available + 1 WHERE product_id = $1", sale.plain)
    before = await truth(sale)
    async with real_writer(sale.settings, "w2") as writer, running(writer):
        repaired = await repair(sale.settings, 10.0)
    assert not repaired.ok
    assert repaired.after.broken() == ["conservation"]
    assert repaired.after.law("conservation").deviations[0].product_id == sale.plain
    assert await truth(sale) == before


async def _more_than(sale: Sale, count: int) -> bool:
    return await sale.decided() > count


async def _all_shown(sale: Sale) -> bool:
    partitions = sale.settings.partitions
    shown: int = await sale.redis.exists(*map(sale.keys.progress, range(partitions)))
    return shown == partitions
