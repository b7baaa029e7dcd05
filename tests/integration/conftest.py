"""What the integration tests share: a small sale on servers of its own."""

from collections.abc import AsyncIterator

import pytest

from contracts.settings import Settings
from stock_ledger.pool import connect_pool
from stock_ledger.redis_view import connect_redis
from tests.integration.audit_sale import Sale


@pytest.fixture
async def sale(settings: Settings) -> AsyncIterator[Sale]:
    pool = await connect_pool(settings)
    redis = connect_redis(settings)
    try:
        opened = Sale(settings, pool, redis)
        await opened.open()
        yield opened
    finally:
        await redis.aclose()
        await pool.close()
