"""Buyers over real HTTP who record every operation: what they sent and when, and what they were told."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec
import orjson

from contracts import problems
from contracts.requests import AcceptedLine, CheckoutStatus, CreatedLine, DeadLetteredLine, RefusedLine
from deploy.chaos.operations import History, Line, Outcome, Poll, Submit, Told
from deploy.demo.orders import Bought, orders_in
from deploy.demo.plan import Attempt
from deploy.tasks import give_up
from ingest.admission import checkout_id_of

SUBMIT_TIMEOUT_S = 8.0  # longer than ingest's own deadline
POLL_TIMEOUT_S = 10.0
OTHER_PAYLOAD_SHARE = 0.03  # of the accepted: another content under the same key
ASKSAGAIN_SHARE = 0.4  # of the answered: poll once more
WAITING_MAX = 500
FIRST_PAUSE_S = 0.5
AGAIN_S = 3.0
PAUSE_MAX_S = 5.0  # between tries, which come ever more seldom until then

_NOT_TAKEN_IN = {problems.OVERLOADED.code, problems.BACKLOG_FULL.code}  # of the answers 503

_UNREAD_BYTES = 200  # that are kept of a body which cannot be understood

T = TypeVar("T")


class _Answer(msgspec.Struct, frozen=True):
    """What is read of the answer to a submit, a problem's or not."""

    code: str = ""
    checkout_id: str = ""
    receipt: str = ""
    product_ids: list[str] = []
    lines: list[AcceptedLine] = []


_answer = msgspec.json.Decoder(_Answer)
_status = msgspec.json.Decoder(CheckoutStatus)


class Reply(NamedTuple):
    """What came of one request. `outcome` is ok if there was an answer that says so; its `status` is 0 without one."""

    outcome: Outcome
    status: int
    body: bytes
    retry_after_s: float


class Buyers:
    """Makes the attempts of a sale at a steady pace, however slowly they are answered; but nobody new comes while
    WAITING_MAX buyers wait: this is about faults, not about overload.

    `ingests` are URLs, `apis` URLs by name; any may be asked at any time. `then` is called with each order that a buyer
    is told of, more than once if it is told more than once.
    """

    def __init__(
        self,
        ingests: Sequence[str],
        apis: Mapping[str, str],
        token: Callable[[str], str],
        rng: random.Random,
        history: History,
        then: Callable[[Bought], object] = lambda _: None,
    ) -> None:
        self.history = history
        self._then = then
        self._ingests = ingests
        self._apis = list(apis.items())
        self._token = token
        self._rng = rng
        self._operations = count(1)

    async def run(self, attempts: Sequence[Attempt], per_s: float, patience_s: float) -> None:
        """Returns when every buyer has an answer, or `patience_s` after the last one came.

        Raises what a buyer failed with.
        """
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(connector=connector) as http:
            started = time.monotonic()
            buying: set[asyncio.Task[None]] = set()

            def ended(task: asyncio.Task[None]) -> None:
                """What failed is kept, to be raised."""
                if task.cancelled() or task.exception() is None:
                    buying.discard(task)

            try:
                for number, attempt in enumerate(attempts):
                    await asyncio.sleep(started + number / per_s - time.monotonic())
                    if len(buying) >= WAITING_MAX:
                        continue
                    task = asyncio.create_task(self._buy(http, attempt, 0))
                    buying.add(task)
                    task.add_done_callback(ended)
                if buying:
                    await asyncio.wait(buying, timeout=patience_s)
            finally:  # nobody goes on buying without a session
                results = await give_up(buying)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _buy(self, http: aiohttp.ClientSession, attempt: Attempt, payload: int) -> None:
        operation = next(self._operations)
        submit, doubtful = await self._submit(http, attempt, operation, payload)
        if submit.status == 202:
            following = [self._follow(http, attempt.buyer_id, submit)]
            if payload == 0 and self._rng.random() < OTHER_PAYLOAD_SHARE:
                following.append(self._buy(http, _with_other_payload(attempt), 1))
            await asyncio.gather(*following)
        elif submit.status == 409 and doubtful:  # an earlier try may have been taken in
            await self._follow(http, attempt.buyer_id, submit)

    async def _submit(
        self, http: aiohttp.ClientSession, attempt: Attempt, operation: int, payload: int
    ) -> tuple[Submit, bool]:
        """Until there is a clear answer, with the same key; and whether a try before it may have had an effect."""
        headers = {
            "Authorization": f"Bearer {self._token(attempt.buyer_id)}",
            "Idempotency-Key": attempt.idempotency_key,
            "Content-Type": "application/json",
        }
        doubtful, pause_s = False, FIRST_PAUSE_S
        while True:
            at = time.time()
            url = f"{self._rng.choice(self._ingests)}/v1/checkouts"
            try:
                reply = await request(
                    http, "POST", url, headers=headers, data=attempt.body, timeout_s=SUBMIT_TIMEOUT_S
                )
            except asyncio.CancelledError:
                self._record(attempt, operation, payload, at, Reply("unknown", 0, b"", 0.0))
                raise
            submit = self._record(attempt, operation, payload, at, reply)
            if submit.outcome == "ok":
                return submit, doubtful
            doubtful = doubtful or submit.outcome == "unknown"
            pause_s = min(max(pause_s * 2, reply.retry_after_s), PAUSE_MAX_S)
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))

    def _record(self, attempt: Attempt, operation: int, payload: int, at: float, reply: Reply) -> Submit:
        read, unread = understood(reply if reply.body else None, _answer.decode)
        told = read or _Answer()
        outcome: Outcome = "unknown" if unread else reply.outcome
        if reply.status == 503:
            outcome = "fail" if told.code in _NOT_TAKEN_IN else "unknown"
        derived_id = checkout_id_of(attempt.buyer_id, attempt.idempotency_key)
        submit = Submit(
            operation, attempt.idempotency_key, payload, attempt.well_formed, derived_id, *_asked(attempt),
            at, time.time(), outcome, reply.status, told.code, told.checkout_id, told.receipt, told.product_ids,
            [Line(line.product_id, line.quantity, line.partition, line.offset) for line in told.lines], unread,
        )  # fmt: skip
        self.history.submits.append(submit)
        return submit

    async def _follow(self, http: aiohttp.ClientSession, buyer_id: str, submit: Submit) -> None:
        """Poll until the answer is final, some once more; without a receipt until it is known that there is none."""
        pause_s, asks_again, final = FIRST_PAUSE_S, self._rng.random() < ASKSAGAIN_SHARE, False
        while True:
            await asyncio.sleep(pause_s)
            poll, retry_after_s = await self._poll(http, buyer_id, submit)
            if poll is None or (poll.is_final and (final or not asks_again)):
                return
            final = final or poll.is_final
            pause_s = AGAIN_S if final else min(max(pause_s * 1.5, retry_after_s), PAUSE_MAX_S)

    async def _poll(
        self, http: aiohttp.ClientSession, buyer_id: str, submit: Submit
    ) -> tuple[Poll | None, float]:
        """None if there is no such checkout, and no receipt that says otherwise; and when to ask again, in seconds."""
        api, url = self._rng.choice(self._apis)
        at = time.time()
        reply = await request(
            http,
            "GET",
            f"{url}/v1/checkouts/{submit.checkout_id}",
            headers={"Authorization": f"Bearer {self._token(buyer_id)}"},
            params={"receipt": submit.receipt} if submit.receipt else {},
            timeout_s=POLL_TIMEOUT_S,
        )
        if reply.status == 404 and not submit.receipt:
            return None, 0.0
        status, unread = understood(reply if reply.status == 200 else None, _status.decode)
        poll = Poll(
            submit.operation, submit.checkout_id, api, at, time.time(), "ok" if status else "fail", reply.status,
            status.status if status else "",
            status.ahead if status and status.status == "queued" else None,
            _told(status) if status and status.status != "queued" else [], unread,
        )  # fmt: skip
        self.history.polls.append(poll)
        if status is not None and poll.is_final:
            for order in orders_in(status, buyer_id):
                self._then(order)
        return poll, reply.retry_after_s


async def request(
    http: aiohttp.ClientSession, method: str, url: str, *, timeout_s: float, **how: Any
) -> Reply:
    """A connection that was refused has had no effect; of one that broke or took too long nobody knows."""
    try:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with http.request(method, url, timeout=timeout, **how) as response:
            retry_after_s = float(response.headers.get("Retry-After", "0"))
            return Reply("ok", response.status, await response.read(), retry_after_s)
    except aiohttp.ClientConnectorError:
        return Reply("fail", 0, b"", 0.0)
    except (aiohttp.ClientError, TimeoutError):
        return Reply("unknown", 0, b"", 0.0)


def understood(reply: Reply | None, decode: Callable[[bytes], T]) -> tuple[T | None, str]:
    """What its body says, None of no reply. Where that cannot be understood, None and how the body begins."""
    if reply is None:
        return None, ""
    try:
        return decode(reply.body), ""
    except ValueError:  # not JSON, not what it should be, or not UTF-8
        return None, repr(reply.body[:_UNREAD_BYTES])


def _told(status: CheckoutStatus) -> list[Told]:
    told = []
    for line in status.lines:
        match line:
            case CreatedLine():
                told.append(_line(line, "created", line.product_id, order_id=line.order.order_id))
            case RefusedLine():
                told.append(_line(line, "refused", line.product_id, reason=line.reason.value))
            case DeadLetteredLine():
                told.append(_line(line, "dead_lettered", ""))
    return told


def _line(
    line: CreatedLine | RefusedLine | DeadLetteredLine,
    status: str,
    product_id: str,
    reason: str = "",
    order_id: str = "",
) -> Told:
    return Told(line.line, status, line.partition, line.offset, product_id, reason, order_id)


def _asked(attempt: Attempt) -> tuple[dict[str, int], str]:
    """Units by product, and the policy."""
    if not attempt.well_formed:
        return {}, ""
    document = orjson.loads(attempt.body)
    units: Counter[str] = Counter()
    for item in document["items"]:
        units[item["product_id"]] += item["quantity"]
    return dict(units), document.get("policy", "independent")


def _with_other_payload(attempt: Attempt) -> Attempt:
    """The same key with more units of the first product: to be refused as a conflict."""
    document = orjson.loads(attempt.body)
    document["items"][0]["quantity"] += 1
    return msgspec.structs.replace(attempt, body=orjson.dumps(document))
