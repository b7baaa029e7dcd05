"""Whole sales over HTTP on real servers and real processes, with faults in the middle."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from contracts.settings import Settings
from deploy import audit, sample
from deploy.demo.buyers import Crowd, Tally
from deploy.demo.plan import plan
from deploy.fleet import Fleet
from deploy.local import local_settings, prepare, running, token
from deploy.stack import LocalStack
from stock_ledger.audit.report import AuditReport
from stock_ledger.pool import connect_pool
from stock_ledger.redis_view import connect_redis
from tests.harness import eventually

CHECKOUTS = 2500
BUYERS = 400
HOT_STOCK = 700


class Sale:
    """A sale under way: its processes, its buyers, and how far it is decided."""

    def __init__(self, settings: Settings, fleet: Fleet, pool: "asyncpg.Pool[Any]", seed: int) -> None:
        self.settings = settings
        self.fleet = fleet
        self._pool = pool
        self.crowd = Crowd(
            [member.url for member in fleet.of("ingest")], lambda buyer: token(settings, buyer, 3600)
        )
        self.selling = asyncio.create_task(self.crowd.run(plan(CHECKOUTS, BUYERS, 20, seed)))

    async def decided(self) -> int:
        async with self._pool.acquire() as connection:
            return int(await connection.fetchval("SELECT count(*) FROM decisions"))

    async def wait_decided(self, count: int) -> None:
        async def enough() -> bool:
            return await self.decided() >= count

        await eventually(enough, 60)
        assert not self.selling.done(), "the sale was over before the fault"

    async def end(self) -> tuple[Tally, AuditReport]:
        """Every buyer has an answer; what the audit says."""
        tally = await self.selling
        return tally, await audit.run(self.settings)


StartSale = Callable[[], Any]


@pytest.fixture
def start_sale(settings: Settings, stack: LocalStack, tmp_path: Path) -> StartSale:
    @asynccontextmanager
    async def start() -> AsyncIterator[Sale]:
        said: list[str] = []
        own = msgspec.structs.replace(local_settings(stack, settings), postgres_url=settings.postgres_url)
        await prepare(own, sample.products(20, HOT_STOCK), sample.addresses(BUYERS))
        pool = await connect_pool(own)
        async with running(stack, own, tmp_path / "logs", workers=2, say=said.append) as fleet:
            sale = Sale(own, fleet, pool, seed=7)
            try:
                yield sale
            finally:
                sale.selling.cancel()
                await asyncio.wait([sale.selling])
                await pool.close()

    return start


def check(tally: Tally, report: AuditReport) -> None:
    assert report.ok, report.to_json().decode()
    assert tally.lost == []
    assert tally.unexpected == []
    assert report.totals.lost == 0
    assert report.totals.oversold == 0
    assert report.totals.repeated > 0
    assert tally.accepted == sum(tally.answered.values())
    assert tally.submitted == CHECKOUTS
    assert report.totals.refused["sold_out"] > 0, "the hot product must sell out"


async def test_a_worker_killed_in_mid_sale_loses_nothing(start_sale: StartSale) -> None:
    async with start_sale() as sale:
        await sale.wait_decided(300)
        sale.fleet.kill(sale.fleet.of("worker")[0])
        tally, report = await sale.end()
    check(tally, report)


async def test_a_cache_flushed_in_mid_sale_changes_nothing(start_sale: StartSale) -> None:
    async with start_sale() as sale:
        redis = connect_redis(sale.settings)
        await sale.wait_decided(300)
        await redis.flushall()
        await redis.aclose()
        tally, report = await sale.end()
    check(tally, report)


async def test_ingest_and_every_worker_stop_and_start_in_mid_sale(start_sale: StartSale) -> None:
    async with start_sale() as sale:
        await sale.wait_decided(300)
        for member in [*sale.fleet.of("worker"), *sale.fleet.of("ingest")]:
            sale.fleet.restart(member)
        tally, report = await sale.end()
    check(tally, report)
