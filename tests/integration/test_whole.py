"""All-or-nothing checkouts from end to end: over HTTP, by writers on Kafka, Postgres and Valkey."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from contracts.decisions import number_of
from contracts.errors import SettingsError
from contracts.requests import CheckoutStatus, CreatedLine, OrderPage, RefusedLine
from contracts.settings import Settings
from deploy.local import token
from deploy.processes import api, ingest
from deploy.stack.ports import find_free
from stock_ledger.carts import PostgresCarts
from tests.harness import HOME, NOON, eventually, real_writer, running
from tests.integration.audit_sale import Sale

HOT_UNITS, PLAIN_UNITS = 5, 1000  # of `Sale`
BUYERS = range(HOT_UNITS + 2)


class Shop:
    """Two products in two partitions, and buyers of both at once."""

    def __init__(self, settings: Settings, http: aiohttp.ClientSession, sale: Sale) -> None:
        self.settings = settings
        self.http = http
        self.sale = sale

    async def buy(self, buyer: int) -> tuple[int, Any]:
        """Submit one unit of the hot product and two of the plain one. Status and document."""
        body = {
            "items": [
                {"product_id": self.sale.hot, "quantity": 1},
                {"product_id": self.sale.plain, "quantity": 2, "from_cart": True},
            ],
            "policy": "all_or_nothing",
            "shipping": msgspec.to_builtins(HOME),
            "expected_total": {"amount": "387.00", "currency": "CNY"},
        }
        headers = self._headers(buyer) | {"Idempotency-Key": "cart"}
        url = f"http://127.0.0.1:{self.settings.ingest_port}/v1/checkouts"
        async with self.http.post(url, json=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def get(self, buyer: int, path: str) -> bytes:
        async with self.http.get(
            f"http://127.0.0.1:{self.settings.api_port}{path}", headers=self._headers(buyer)
        ) as response:
            assert response.status == 200, await response.text()
            return await response.read()

    async def status(self, buyer: int, url: str) -> CheckoutStatus:
        return msgspec.json.decode(await self.get(buyer, url), type=CheckoutStatus)

    async def answer(self, buyer: int, url: str) -> CheckoutStatus:
        """The final one."""

        async def is_final() -> bool:
            return (await self.status(buyer, url)).status != "queued"

        await eventually(is_final)
        return await self.status(buyer, url)

    async def stock(self) -> dict[str, tuple[int, ...]]:
        """Units that are available, held, and of orders that wait for payment."""
        rows = await self.sale.pool.fetch("SELECT product_id, available, held, pending FROM stock")
        return {row[0]: tuple(row)[1:] for row in rows}

    async def lose_the_view(self) -> None:
        redis = self.sale.redis
        keys = [key async for key in redis.scan_iter(match=f"{self.settings.cache_prefix}*")]
        if keys:
            await redis.delete(*keys)

    def _headers(self, buyer: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {token(self.settings, f'buyer-{buyer}', 3600)}"}


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[None]:
    """Ingest and api, in this process."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(main(settings, stop)) for main in (ingest, api)]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_of_an_ingest_that_cannot_serve_nothing_is_left(topic_settings: Settings) -> None:
    """Its server listens and its producer is started by then: both have tasks."""
    settings = msgspec.structs.replace(
        topic_settings, partitions=topic_settings.partitions + 1, ingest_port=find_free(set())
    )
    tasks = asyncio.all_tasks()
    with pytest.raises(SettingsError, match="has 4"):
        await ingest(settings, asyncio.Event())
    assert asyncio.all_tasks() == tasks
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", settings.ingest_port)


@pytest.fixture
async def shop(settings: Settings, sale: Sale) -> AsyncIterator[Shop]:
    taken: set[int] = set()
    ports = [find_free(taken), find_free(taken)]
    own = msgspec.structs.replace(
        settings,
        ingest_port=ports[0],
        api_port=ports[1],
        shutdown_drain_s=0.0,
        gate_refresh_ms=3_600_000,  # the gate stays open: all are decided by the writer
    )
    async with aiohttp.ClientSession() as http, serving(own):
        opened = Shop(own, http, sale)
        await eventually(lambda: _is_ready(http, ports[0]))
        await eventually(lambda: _is_ready(http, ports[1]))
        yield opened


async def _is_ready(http: aiohttp.ClientSession, port: int) -> bool:
    try:
        async with http.get(f"http://127.0.0.1:{port}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def test_all_is_ordered_or_nothing_also_when_the_view_is_lost(shop: Shop) -> None:
    urls: dict[int, str] = {}

    async def submit(buyers: Iterable[int]) -> None:
        for buyer in buyers:
            status, document = await shop.buy(buyer)
            assert (status, len(document["lines"])) == (202, 2)
            urls[buyer] = document["status_url"]

    carts = PostgresCarts(shop.sale.pool)
    for buyer in BUYERS:
        for product_id in (shop.sale.hot, shop.sale.plain):
            await carts.put(f"buyer-{buyer}", product_id, 9, NOON, lines_max=9)
    await submit(BUYERS[:2])
    queued = await shop.status(0, urls[0])
    assert (queued.status, queued.ahead) == ("queued", 0)
    async with real_writer(shop.settings, "w1") as writer, running(writer):
        answers = {0: await shop.answer(0, urls[0])}
        await shop.lose_the_view()
        await submit(BUYERS[2:])
        answers |= {buyer: await shop.answer(buyer, urls[buyer]) for buyer in BUYERS}
        await check(shop, answers)
        await eventually(lambda: _is_settled(shop))
        status, again = await shop.buy(0)
        assert (status, again["status_url"] == urls[0]) == (202, False)
        assert await shop.answer(0, again["status_url"]) == answers[0], "a retry has the same answer"
        await shop.lose_the_view()
        assert {buyer: await shop.status(buyer, urls[buyer]) for buyer in BUYERS} == answers
    both = [shop.sale.hot, shop.sale.plain]
    for buyer in BUYERS:
        left = {line.product_id for line in await carts.lines(f"buyer-{buyer}")}
        assert left == set(both[:1] if answers[buyer].status == "created" else both)


async def check(shop: Shop, answers: dict[int, CheckoutStatus]) -> None:
    """As many orders as there are units, each of one buyer and of both products; the others have their reasons."""
    created = [buyer for buyer, answer in answers.items() if answer.status == "created"]
    assert created == list(BUYERS[:HOT_UNITS]), "in the order in which they came"
    for buyer in created:
        lines = [line for line in answers[buyer].lines if isinstance(line, CreatedLine)]
        page = msgspec.json.decode(await shop.get(buyer, "/v1/orders"), type=OrderPage)
        [order] = page.orders
        assert [line.order.order_id for line in lines] == [order.order_id] * 2
        assert {line.order.number for line in lines} == {order.number} == {number_of(order.order_id)}
        assert order.number.endswith("C")
        assert (order.total.amount, order.status, order.sequence) == ("387.00", "pending_payment", 1)
        assert [line.order.payment.expires_at for line in lines] == [order.payment.expires_at] * 2
        assert {(i.product_id, i.quantity) for i in order.items} == {(shop.sale.hot, 1), (shop.sale.plain, 2)}
    for buyer in BUYERS[HOT_UNITS:]:
        assert answers[buyer].status == "refused"
        reasons = {
            line.product_id: line.reason for line in answers[buyer].lines if isinstance(line, RefusedLine)
        }
        assert reasons == {shop.sale.hot: "sold_out", shop.sale.plain: "other_line_refused"}


async def _is_settled(shop: Shop) -> bool:
    """Nothing is held any more: what was not ordered is back."""
    return await shop.stock() == {
        shop.sale.hot: (0, 0, HOT_UNITS),
        shop.sale.plain: (PLAIN_UNITS - 2 * HOT_UNITS, 0, 2 * HOT_UNITS),
    }
