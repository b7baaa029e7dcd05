"""Buyers and the merchant at the api: what they ask for until its end is told, and what they look at."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import orjson

from contracts.asks import CommandStatus, ProductStock
from contracts.requests import OrderPage, OrderView

_PATIENCE_S = 90.0
_RETRY_S_MAX = 2.0
_PAGE = 100

_command = msgspec.json.Decoder(CommandStatus)
_order = msgspec.json.Decoder(OrderView)
_page = msgspec.json.Decoder(OrderPage)
_stock = msgspec.json.Decoder(ProductStock)


class Client:
    """`tokens` gives the bearer token of who asks. What has no clear answer is asked again, with the same key.

    Every method raises TimeoutError if there is none in time.
    """

    def __init__(self, http: aiohttp.ClientSession, api_url: str, tokens: Callable[[str], str]) -> None:
        self._http = http
        self._url = api_url
        self._tokens = tokens

    async def ask(
        self, who: str, path: str, key: str, body: dict[str, Any] | None = None
    ) -> CommandStatus | None:
        """Give a command, and wait until it is decided. None if it was turned away at once, as not allowed (409)."""
        content = orjson.dumps(body or {})
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        status, answer = await self._request("POST", path, who, data=content, headers=headers)
        if status == 409:
            return None
        url = orjson.loads(answer)["status_url"]
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            _, answer = await self._request("GET", url, who)
            told = _command.decode(answer)
            if told.status != "queued":
                return told
            await asyncio.sleep(0.5)
        raise TimeoutError(f"{path} was taken in, but not decided within {_PATIENCE_S:.0f} s")

    async def orders(self, buyer_id: str) -> list[OrderView]:
        """All orders of a buyer."""
        found: list[OrderView] = []
        url: str | None = f"/v1/orders?limit={_PAGE}"
        while url is not None:
            _, answer = await self._request("GET", url, buyer_id)
            page = _page.decode(answer)
            found += page.orders
            url = page.next
        return found

    async def order(self, buyer_id: str, order_id: str) -> OrderView:
        _, answer = await self._request("GET", f"/v1/orders/{order_id}", buyer_id)
        return _order.decode(answer)

    async def stock(self, merchant: str, product_id: str) -> ProductStock:
        _, answer = await self._request("GET", f"/v1/products/{product_id}/stock", merchant)
        return _stock.decode(answer)

    async def _request(
        self, method: str, path: str, who: str, *, headers: dict[str, str] | None = None, data: bytes = b""
    ) -> tuple[int, bytes]:
        """Status and body of the first clear answer."""
        own = {"Authorization": f"Bearer {self._tokens(who)}", **(headers or {})}
        deadline, pause_s = time.monotonic() + _PATIENCE_S, 0.1
        while time.monotonic() < deadline:
            try:
                async with self._http.request(
                    method, f"{self._url}{path}", headers=own, data=data or None
                ) as response:
                    if response.status < 300 or response.status == 409:
                        return response.status, await response.read()
                    if response.status != 503:
                        raise AssertionError(
                            f"{method} {path}: {response.status} {(await response.text())[:300]}"
                        )
            except (aiohttp.ClientError, TimeoutError):
                pass  # as good as a 503
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _RETRY_S_MAX)
        raise TimeoutError(f"{method} {path} had no answer within {_PATIENCE_S:.0f} s")
