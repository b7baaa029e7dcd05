"""A second stock source over HTTP, as docs/how-to/connect-a-second-stock-source.md tells it, behind a circuit breaker."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
from purgatory import AsyncCircuitBreakerFactory, Event
from purgatory.domain.messages.events import ContextChanged
from purgatory.domain.model import CLOSED, OpenedState
from purgatory.service._async.circuitbreaker import AsyncCircuitBreaker

from contracts import stock_source as wire
from contracts.settings import Settings
from stock_ledger.upstream.source import Answer, GiveBack, Granted, Reserve, Unanswered, Why

logger = logging.getLogger(__name__)

ANSWER_BYTES_MAX = 64 * 1024
_DETAIL_CHARS_MAX = 200
_REJECTED = (404, 422)  # no such product; the key was another request

Body = TypeVar("Body", bound=msgspec.Struct)
Result = TypeVar("Result")


class _Call(msgspec.Struct, Generic[Body], frozen=True):
    """One request, the type of its answer, and whether such an answer is one to it."""

    method: str
    path: tuple[str, ...]
    answer: type[Body]
    fits: Callable[[Body], bool]
    key: str = ""
    body: msgspec.Struct | None = None


class _Failed(Exception):
    """What the circuit breaker counts."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(f"{why}: {detail}")
        self.answer = Unanswered(why, detail[:_DETAIL_CHARS_MAX])


@asynccontextmanager
async def connect_stock_source(settings: Settings) -> AsyncIterator["HttpStockSource"]:
    """The configured source; it is connected to when it is first asked."""
    url = settings.stock_source_url
    breakers = AsyncCircuitBreakerFactory(
        default_threshold=settings.stock_source_failures_max, default_ttl=settings.stock_source_retry_s
    )
    breakers.add_listener(_tell_circuit)
    headers = {"User-Agent": "sluiceway", "Accept": "application/json"}
    if settings.stock_source_token:
        headers["Authorization"] = f"Bearer {settings.stock_source_token}"
    async with aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(limit=settings.stock_source_calls_max),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),  # the deadline bounds everything
    ) as session:
        yield HttpStockSource(session, url, await breakers.get_breaker(urlsplit(url).netloc), settings)


class HttpStockSource:
    """See `stock_ledger.upstream.StockSource`. Every product is a call of its own, `stock_source_calls_max` at once.

    After `stock_source_failures_max` failures in a row the circuit is open: nothing is asked any more. After
    `stock_source_retry_s` one call tries; while it is under way others wait for what it tells. Failures are: no answer
    within the deadline, or none that makes sense, or a status such as 5xx or 429. 404 and 422 are answers.
    """

    def __init__(
        self, session: aiohttp.ClientSession, url: str, breaker: AsyncCircuitBreaker, settings: Settings
    ) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._breaker = breaker
        self._deadline_s = settings.stock_source_deadline_s
        self._calls = asyncio.Semaphore(settings.stock_source_calls_max)
        self._trying = asyncio.Lock()

    async def reserve(self, requests: Sequence[Reserve]) -> dict[str, Answer]:
        until = self._deadline()
        answers = await asyncio.gather(*(self._reserve(request, until) for request in requests))
        return _told("reserve", dict(zip([r.product_id for r in requests], answers, strict=True)))

    async def give_back(self, returns: Sequence[GiveBack]) -> dict[str, Unanswered | None]:
        until = self._deadline()
        answers = await asyncio.gather(*(self._give_back(back, until) for back in returns))
        return _told("give back", dict(zip([back.key() for back in returns], answers, strict=True)))

    async def available(self, product_ids: Sequence[str]) -> dict[str, int | Unanswered]:
        until = self._deadline()
        answers = await asyncio.gather(*(self._available(product_id, until) for product_id in product_ids))
        return _told("tell its stock", dict(zip(product_ids, answers, strict=True)))

    def _deadline(self) -> float:
        """By the event loop's clock."""
        return asyncio.get_running_loop().time() + self._deadline_s

    async def _reserve(self, request: Reserve, until: float) -> Answer:
        def fits(answer: wire.Reserved) -> bool:
            return answer.product_id == request.product_id and answer.granted <= request.units

        body = wire.Reservation(request.product_id, request.units, request.batch)
        call = _Call("POST", (wire.RESERVATIONS,), wire.Reserved, fits, request.key(), body)
        answer = await self._ask(call, until)
        return answer if isinstance(answer, Unanswered) else Granted(answer.granted)

    async def _give_back(self, back: GiveBack, until: float) -> Unanswered | None:
        def fits(answer: wire.Returned) -> bool:
            return (answer.product_id, answer.units) == (back.product_id, back.units)

        body = wire.Return(back.product_id, back.units, back.cause)
        answer = await self._ask(_Call("POST", (wire.RETURNS,), wire.Returned, fits, back.key(), body), until)
        return answer if isinstance(answer, Unanswered) else None

    async def _available(self, product_id: str, until: float) -> int | Unanswered:
        def fits(answer: wire.InStock) -> bool:
            return answer.product_id == product_id

        answer = await self._ask(_Call("GET", (wire.STOCK, product_id), wire.InStock, fits), until)
        return answer if isinstance(answer, Unanswered) else answer.available

    async def _ask(self, call: _Call[Body], until: float) -> Body | Unanswered:
        try:
            async with asyncio.timeout_at(until), self._calls:
                return await self._through_circuit(call)
        except TimeoutError:
            return Unanswered(Why.DEADLINE, f"no answer within {self._deadline_s:g} s")
        except OpenedState as error:
            error.__traceback__ = None  # the same error is raised each time, and would grow each time
            return Unanswered(Why.CIRCUIT_OPEN, str(error))
        except _Failed as error:
            return error.answer

    async def _through_circuit(self, call: _Call[Body]) -> Body | Unanswered:
        """While the circuit is not closed, one at a time: of many, only the first that may try does."""
        while self._breaker.context.state != CLOSED:
            async with self._trying:
                if self._breaker.context.state != CLOSED:
                    return await self._counted(call)
        return await self._counted(call)

    async def _counted(self, call: _Call[Body]) -> Body | Unanswered:
        async with self._breaker:  # whatever is raised inside is a failure, the end of the deadline too
            try:
                return await self._exchange(call)
            except aiohttp.ClientConnectorError as error:
                raise _Failed(Why.UNREACHABLE, str(error)) from error
            except aiohttp.ClientConnectionError:
                pass  # a kept connection may have been closed meanwhile; with its key the request can be sent again
            except aiohttp.ClientError as error:
                raise _Failed(Why.UNREACHABLE, repr(error)) from error
            try:
                return await self._exchange(call)
            except (aiohttp.ClientError, OSError) as error:
                raise _Failed(Why.UNREACHABLE, repr(error)) from error

    async def _exchange(self, call: _Call[Body]) -> Body | Unanswered:
        headers = {wire.IDEMPOTENCY_KEY: call.key} if call.key else {}
        content = None
        if call.body is not None:
            headers["Content-Type"] = "application/json"
            content = msgspec.json.encode(call.body)
        url = "/".join((self._url, *call.path))
        async with self._session.request(
            call.method, url, headers=headers, data=content, allow_redirects=False
        ) as response:
            return answer_of(call, response.status, response.content_type, await _read(response))


def answer_of(call: _Call[Body], status: int, media_type: str, body: bytes) -> Body | Unanswered:
    """What a response says. Raises _Failed."""
    if status in _REJECTED and media_type.endswith("json"):  # else it is from whoever stands in between
        return Unanswered(Why.REJECTED, f"{status}: {body.decode(errors='replace')[:_DETAIL_CHARS_MAX]}")
    if status >= 400:
        raise _Failed(Why.FAILING, f"status {status}")
    if status not in (200, 201):
        raise _Failed(Why.WRONG, f"status {status}")
    try:
        answer = msgspec.json.decode(body, type=call.answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Failed(Why.WRONG, str(error)) from error
    if not call.fits(answer):
        raise _Failed(Why.WRONG, f"{answer} is no answer to {call.body or call.path}")
    return answer


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise _Failed(Why.WRONG, f"more than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)


def _told(what: str, answers: dict[str, Result]) -> dict[str, Result]:
    """The same answers; what is missing is told in one line of the log."""
    missing = {name: answer for name, answer in answers.items() if isinstance(answer, Unanswered)}
    if missing:
        kinds = Counter(answer.why for answer in missing.values())
        name, first = next(iter(missing.items()))
        wrong = not kinds.keys().isdisjoint({Why.WRONG, Why.REJECTED})
        logger.log(
            logging.ERROR if wrong else logging.WARNING,
            "the stock source did not %s in %d of %d cases (%s), such as %s: %s: %s",
            what,
            len(missing),
            len(answers),
            ", ".join(f"{count} {why}" for why, count in kinds.items()),
            name,
            first.why,
            first.detail,
            extra={"action": "stock_source_unanswered"},
        )
    return answers


def _tell_circuit(name: str, _: str, event: Event) -> None:
    if isinstance(event, ContextChanged):
        logger.warning(
            "stock source %s: the circuit is %s", name, event.state, extra={"action": "stock_source_circuit"}
        )
