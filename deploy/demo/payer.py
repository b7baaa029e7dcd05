"""Plays the sandbox provider and its buyers: sends signed callbacks over HTTP, by the behaviour each order meets."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import aiohttp
import msgspec

from api.payments.behaviour import Behaviour, Shares, Timing, behaviour_of, callbacks
from api.payments.sandbox import HEADER, SandboxEvent, sign
from contracts.payments import Charge

_TRIES_MAX = 10
_RETRY_S_MAX = 30.0


class Tally(msgspec.Struct):
    """What was sent. `orders` counts by behaviour, `answers` by status, 0 where there was none; `lost` are events that
    were never acknowledged.
    """

    orders: Counter[Behaviour] = msgspec.field(default_factory=Counter)
    answers: Counter[int] = msgspec.field(default_factory=Counter)
    lost: list[SandboxEvent] = msgspec.field(default_factory=list)


class SandboxPayer:
    """Sends the callbacks of orders to `callback_url`, signed with `secret`, each until it is acknowledged.

    `clock` gives aware datetimes; `sleep` waits seconds.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        callback_url: str,
        secret: str,
        shares: Shares,
        seed: int,
        clock: Callable[[], datetime],
        *,
        timing: Timing | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._http = http
        self._url = callback_url
        self._secret = secret
        self._shares = shares
        self._seed = seed
        self._clock = clock
        self._timing = timing or Timing()
        self._sleep = sleep
        self.tally = Tally()

    async def pay(self, charge: Charge) -> Behaviour:
        """Do about the order what its behaviour is; ends when the last callback is acknowledged or given up."""
        behaviour = behaviour_of(charge.order_id, self._shares, self._seed)
        self.tally.orders[behaviour] += 1
        start = self._clock()
        for callback in callbacks(charge, behaviour, start, self._timing, self._seed):
            due = start + timedelta(seconds=callback.delay_s)
            await self._sleep(max((due - self._clock()).total_seconds(), 0.0))
            await self._send(callback.event)
        return behaviour

    async def _send(self, event: SandboxEvent) -> None:
        """As real providers do: again after any other answer than 2xx, each time signed anew."""
        for tried in range(_TRIES_MAX):
            if tried:
                await self._sleep(min(2.0 ** (tried - 1), _RETRY_S_MAX))
            status = await self._post(event.body())
            self.tally.answers[status] += 1
            if 200 <= status < 300:
                return
        self.tally.lost.append(event)

    async def _post(self, body: bytes) -> int:
        headers = {HEADER: sign(body, [self._secret], self._clock()), "Content-Type": "application/json"}
        try:
            async with self._http.post(self._url, data=body, headers=headers) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return 0
