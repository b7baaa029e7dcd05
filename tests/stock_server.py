"""A shop that keeps stock and answers over HTTP as documented, and that can be told to misbehave."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import orjson
from aiohttp import web

from contracts.stock_source import Reservation, Return
from deploy.stack.ports import find_free

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


async def answers_well(_: web.Request) -> None:
    return None


def says(status: int, body: bytes = b"", media_type: str = "application/json", **headers: str) -> Fault:
    """Answers this, whatever is asked."""

    async def fault(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type=media_type, headers=headers)

    return fault


async def hangs_up(request: web.Request) -> web.Response:
    """Closes the connection instead of answering."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Held:
    """Keeps whoever asks waiting until released; tells how many are."""

    def __init__(self) -> None:
        self.waiting = 0
        self.waiting_max = 0
        self._gate = asyncio.Event()

    async def __call__(self, _: web.Request) -> None:
        self.waiting += 1
        self.waiting_max = max(self.waiting, self.waiting_max)
        try:
            await self._gate.wait()
        finally:
            self.waiting -= 1

    def release(self) -> None:
        self._gate.set()


class Shop:
    """`before` happens ahead of what is asked for, `after` when it is done; what either gives is the answer.

    Both are of all requests, or of those about a product.
    """

    def __init__(self, stock: dict[str, int]) -> None:
        self.stock = stock
        self.before: dict[str | None, Fault] = {}
        self.after: dict[str | None, Fault] = {}
        self.asked: list[tuple[str, str, str | None, str | None]] = []  # method, path, key, authorization
        self.answers: dict[
            str, tuple[bytes, dict[str, Any]]
        ] = {}  # by key: what was asked, what was answered
        self.port = find_free(set())
        self._runner: web.AppRunner | None = None

    async def open(self) -> None:
        app = web.Application()
        app.router.add_post("/api/reservations", self._reservations)
        app.router.add_post("/api/returns", self._returns)
        app.router.add_get("/api/stock/{product_id}", self._in_stock)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/"

    async def _reservations(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        wanted = msgspec.json.decode(body, type=Reservation)

        def reserve() -> dict[str, Any]:
            granted = min(wanted.units, self.stock[wanted.product_id])
            self.stock[wanted.product_id] -= granted
            return {"product_id": wanted.product_id, "granted": granted, "more": "than is needed"}

        return await self._answer(request, wanted.product_id, body, reserve)

    async def _returns(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        given = msgspec.json.decode(body, type=Return)

        def take_back() -> dict[str, Any]:
            self.stock[given.product_id] += given.units
            return {"product_id": given.product_id, "units": given.units}

        return await self._answer(request, given.product_id, body, take_back)

    async def _in_stock(self, request: web.Request) -> web.StreamResponse:
        product_id = request.match_info["product_id"]
        return await self._answer(
            request, product_id, b"", lambda: {"product_id": product_id, "available": self.stock[product_id]}
        )

    async def _answer(
        self, request: web.Request, product_id: str, body: bytes, do: Callable[[], dict[str, Any]]
    ) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key")
        self.asked.append((request.method, request.path, key, request.headers.get("Authorization")))
        for name in (None, product_id):
            early = await self.before.get(name, answers_well)(request)
            if early is not None:
                return early
        status, answer = self._done(product_id, key, body, do)
        for name in (None, product_id):
            late = await self.after.get(name, answers_well)(request)
            if late is not None:
                return late
        return web.Response(status=status, body=orjson.dumps(answer), content_type="application/json")

    def _done(
        self, product_id: str, key: str | None, body: bytes, do: Callable[[], dict[str, Any]]
    ) -> tuple[int, dict[str, Any]]:
        if product_id not in self.stock:
            return 404, {"detail": f"there is no product {product_id}"}
        if key is None:
            return 200, do()
        if key not in self.answers:
            self.answers[key] = (body, do())
        asked, answer = self.answers[key]
        return (200, answer) if asked == body else (422, {"detail": f"{key} was another request"})


@asynccontextmanager
async def open_shop(stock: dict[str, int]) -> AsyncIterator[Shop]:
    shop = Shop(stock)
    await shop.open()
    try:
        yield shop
    finally:
        await shop.close()
