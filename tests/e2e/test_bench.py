"""The bench on real servers: a suite runs, and nothing of its ground is left behind."""

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from contracts.settings import Settings
from deploy.bench.ground import Bench, plentiful
from deploy.bench.suites import Result, measure
from deploy.local import local_settings
from deploy.stack import LocalStack


@pytest.fixture
def bench(offline_settings: Settings, stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    settings = local_settings(stack, offline_settings)
    return Bench(stack, settings, tmp_path_factory.mktemp("bench"), lambda _: None, quick=True)


async def databases(bench: Bench) -> set[str]:
    connection = await asyncpg.connect(bench.settings.postgres_url)
    try:
        return {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
    finally:
        await connection.close()


async def test_a_suite_runs_and_leaves_nothing_behind(bench: Bench) -> None:
    before = await databases(bench)
    after_each: list[int] = []
    result = await measure(bench, ["drain-hot"], lambda so_far: after_each.append(len(so_far.rows)))
    assert [row.suite for row in result.rows] == ["drain-hot"]
    assert after_each == [1], "what was measured is told after each suite"
    assert all(0 < row.ratio_min <= row.ratio <= row.ratio_max for row in result.rows)
    assert all(row.measured > 0 and row.other > 0 for row in result.rows)
    assert result.machine.cores > 0
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result
    assert await databases(bench) == before
    async with Redis.from_url(bench.settings.redis_url) as redis:
        assert [key async for key in redis.scan_iter(match="bench*")] == []


async def measure_beside_a_full_cache(bench: Bench) -> None:
    async with bench.ground(plentiful()), Redis.from_url(bench.settings.redis_url) as redis:
        allowed = str((await redis.config_get("maxmemory"))["maxmemory"])
        await redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(OutOfMemoryError):
                await redis.set("bench", "more")
        finally:
            await redis.config_set("maxmemory", allowed)


async def test_what_is_measured_beside_a_full_cache_counts_for_nothing(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="the cache was full"):
        await measure_beside_a_full_cache(bench)
