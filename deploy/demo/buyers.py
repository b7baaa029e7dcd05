"""Buyers over real HTTP: they check out, keep the receipt, and ask until they have their answer."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import aiohttp
import msgspec
import orjson

from contracts.requests import CheckoutStatus
from deploy.demo.orders import Bought, orders_in
from deploy.demo.plan import Attempt

_CONNECTIONS = 128
_POLLERS = 64
_POST_TRIES_MAX = 30
_PATIENCE_S = 90.0  # for an answer, after which a 202 counts as lost


Answers = asyncio.Queue[tuple[float, str, str] | None]  # when to ask first, buyer, status URL

_status = msgspec.json.Decoder(CheckoutStatus)


class Tally(msgspec.Struct):
    """What the buyers saw. Counts of checkouts, but for `lines`. `orders` by their ids."""

    submitted: int = 0
    accepted: int = 0
    lines: int = 0  # messages acknowledged, repeats included
    retried: int = 0
    rejected: Counter[int] = msgspec.field(default_factory=Counter)  # by status
    rejected_codes: Counter[str] = msgspec.field(default_factory=Counter)
    unexpected: list[str] = msgspec.field(default_factory=list)
    answered: Counter[str] = msgspec.field(default_factory=Counter)  # by final status
    lost: list[str] = msgspec.field(default_factory=list)  # status URLs of 202s without an answer
    orders: dict[str, Bought] = msgspec.field(default_factory=dict)
    posting_s: float = 0.0


class Crowd:
    """Runs a planned sale, in one go or in several. `tokens` gives a buyer's bearer token; `then` is called with each
    new order as soon as its buyer is told of it.
    """

    def __init__(
        self,
        ingest_urls: list[str],
        tokens: Callable[[str], str],
        then: Callable[[Bought], object] = lambda _: None,
    ) -> None:
        self._urls = ingest_urls
        self._tokens = tokens
        self._then = then
        self.tally = Tally()

    async def run(self, attempts: Iterable[Attempt]) -> Tally:
        """Make every attempt, then wait for every answer. The tally is of all runs so far."""
        todo = iter(attempts)
        answers: Answers = asyncio.Queue()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=15)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            began = time.monotonic()
            async with asyncio.TaskGroup() as pollers:
                for _ in range(_POLLERS):
                    pollers.create_task(self._poll(http, answers))
                async with asyncio.TaskGroup() as posters:
                    for number in range(_CONNECTIONS):
                        posters.create_task(
                            self._post(http, todo, answers, self._urls[number % len(self._urls)])
                        )
                self.tally.posting_s += time.monotonic() - began
                for _ in range(_POLLERS):
                    answers.put_nowait(None)
        return self.tally

    async def _post(
        self, http: aiohttp.ClientSession, todo: Iterator[Attempt], answers: Answers, url: str
    ) -> None:
        for attempt in todo:
            self.tally.submitted += 1
            status, retry_after_s, body = await self._submit(http, attempt, url)
            document = orjson.loads(body) if body else {}
            if status == 202:
                self.tally.accepted += 1
                self.tally.lines += len(document["lines"])
                answers.put_nowait(
                    (time.monotonic() + retry_after_s, attempt.buyer_id, document["status_url"])
                )
            else:
                self.tally.rejected[status] += 1
                self.tally.rejected_codes[document.get("code", "none")] += 1
            if attempt.well_formed != (status in (202, 409)):
                self.tally.unexpected.append(f"{status} for {attempt.body[:200]!r}: {body[:300]!r}")

    async def _submit(
        self, http: aiohttp.ClientSession, attempt: Attempt, url: str
    ) -> tuple[int, float, bytes]:
        """Post until there is a clear answer: after a 503 or a broken connection again, with the same key.

        Gives status, Retry-After in seconds and body.
        """
        headers = {
            "Authorization": f"Bearer {self._tokens(attempt.buyer_id)}",
            "Idempotency-Key": attempt.idempotency_key,
            "Content-Type": "application/json",
        }
        for attempt_number in range(_POST_TRIES_MAX):
            try:
                async with http.post(f"{url}/v1/checkouts", data=attempt.body, headers=headers) as response:
                    wait_s = float(response.headers.get("Retry-After", "1"))
                    if response.status != 503:
                        return response.status, wait_s, await response.read()
            except (aiohttp.ClientError, TimeoutError):
                wait_s = min(0.1 * 2**attempt_number, 2.0)
            self.tally.retried += 1
            await asyncio.sleep(wait_s)
        return 0, 0.0, b""

    async def _poll(self, http: aiohttp.ClientSession, answers: Answers) -> None:
        while (job := await answers.get()) is not None:
            due_at, buyer, url = job
            await asyncio.sleep(due_at - time.monotonic())
            answer = await self._answer(http, buyer, url)
            if answer is None:
                self.tally.lost.append(url)
                continue
            self.tally.answered[answer.status] += 1
            for order in orders_in(answer, buyer):
                if order.order_id not in self.tally.orders:
                    self.tally.orders[order.order_id] = order
                    self._then(order)

    async def _answer(self, http: aiohttp.ClientSession, buyer: str, url: str) -> CheckoutStatus | None:
        """The final answer, or None if none came in time."""
        deadline = time.monotonic() + _PATIENCE_S
        headers = {"Authorization": f"Bearer {self._tokens(buyer)}"}
        while time.monotonic() < deadline:
            wait_s = 1.0
            try:
                async with http.get(url, headers=headers) as response:
                    if response.status == 200:
                        answer = _status.decode(await response.read())
                        if answer.status != "queued":
                            return answer
                    wait_s = float(response.headers.get("Retry-After", "1"))
            except (aiohttp.ClientError, TimeoutError):
                wait_s = 0.5
            await asyncio.sleep(min(wait_s, 5.0))
        return None
