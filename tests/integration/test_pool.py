"""The pool of connections to Postgres: whoever needs one waits for it only so long."""

import asyncio
from urllib.parse import urlsplit

import msgspec
import pytest

from contracts.errors import Unavailable
from contracts.settings import Settings
from deploy.chaos.proxy import Proxy
from stock_ledger.pool import acquired, connect_pool, fetch
from tests.harness import eventually

LIMIT_S = 0.2
BACKEND = "SELECT pg_backend_pid()"


async def test_who_waits_in_vain_for_a_connection_is_told_and_costs_nobody_theirs(
    database_settings: Settings,
) -> None:
    settings = msgspec.structs.replace(database_settings, postgres_pool_max=1)
    async with asyncio.timeout(30), await connect_pool(settings, timeout_s=LIMIT_S) as pool:
        async with acquired(pool) as connection:
            backend = await connection.fetchval(BACKEND)
            with pytest.raises(Unavailable):
                await fetch(pool, "SELECT 1")
        assert await fetch(pool, BACKEND) == [(backend,)]


async def test_a_server_that_falls_silent_keeps_nobody_for_longer_than_the_limits(
    database_settings: Settings,
) -> None:
    """However many came before."""
    url = urlsplit(database_settings.postgres_url)
    async with asyncio.timeout(60), Proxy("postgres") as proxy:
        assert url.port is not None
        proxy.target = url.port
        settings = msgspec.structs.replace(
            database_settings,
            postgres_url=url._replace(netloc=f"postgres@127.0.0.1:{proxy.port}").geturl(),
            postgres_pool_max=1,
        )
        loop = asyncio.get_running_loop()
        async with await connect_pool(settings, timeout_s=LIMIT_S) as pool:
            await fetch(pool, "SELECT 1")
            proxy.stall()
            began = loop.time()
            answers = await asyncio.gather(
                *(fetch(pool, "SELECT 1") for _ in range(50)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {Unavailable}
            assert loop.time() - began < 25 * LIMIT_S
            proxy.heal()

            async def is_back() -> bool:
                try:
                    return bool(await fetch(pool, "SELECT 1"))
                except Unavailable:
                    return False

            await eventually(is_back)
