"""Buyers, the merchant and the payment provider: they give commands over real HTTP, and record what they are told."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

import aiohttp
import msgspec
import orjson

from api.payments.providers import CALLBACKS_PATH
from api.payments.sandbox import HEADER, NAME, SandboxEvent, sign
from contracts.asks import CommandStatus
from contracts.requests import OrderView
from deploy.chaos.clients import (
    FIRST_PAUSE_S,
    PAUSE_MAX_S,
    POLL_TIMEOUT_S,
    SUBMIT_TIMEOUT_S,
    Reply,
    request,
    understood,
)
from deploy.chaos.operations import Ask, AskPoll, History, Look
from deploy.demo.orders import Bought
from deploy.tasks import give_up

MERCHANT_ID = "the-shop"
FATES = {  # what an order meets, by share; the rest is left to time out
    "paid": 0.4, "paid_twice": 0.06, "paid_wrongly": 0.03, "declined": 0.04, "cancelled": 0.08, "cancelled_twice": 0.04,
    "cancelled_paid": 0.05, "cancelled_as_paid": 0.04, "closed": 0.03, "shipped": 0.05,
    "paid_late": 0.05,
}  # fmt: skip
LOOKS_SHARE = 0.4  # of the orders are looked at
LOOK_EVERY_S = 2.0
LOOKS_MAX = 6
RESTOCK_EVERY_S = 6.0
RESTOCK_UNITS = 4
AT_ONCE_MAX = 200  # orders that are acted on; the others are left to time out


class _Answer(msgspec.Struct, frozen=True):
    """What is read of the answer to a command, a problem's or not."""

    code: str = ""
    order_status: str = ""
    command_id: str = ""
    status_url: str = ""
    partition: int = -1
    offset: int = -1


_answer = msgspec.json.Decoder(_Answer)
_status = msgspec.json.Decoder(CommandStatus)
_order = msgspec.json.Decoder(OrderView)


class Askers:
    """Acts on every order that it is given, once. `apis` are URLs by name, any may be asked at any time; `token` gives
    bearer tokens by who asks.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        apis: Mapping[str, str],
        token: Callable[[str], str],
        secret: str,
        rng: random.Random,
        history: History,
    ) -> None:
        self._http = http
        self._apis = list(apis.values())
        self._token = token
        self._secret = secret
        self._rng = rng
        self._history = history
        self._operations = count(1)
        self._known: set[str] = set()
        self._acting: set[asyncio.Task[None]] = set()

    def take(self, order: Bought) -> None:
        """Act on an order that its buyer was told of, beside all others."""
        if order.order_id in self._known or len(self._acting) >= AT_ONCE_MAX:
            return
        self._known.add(order.order_id)
        self._begin(self._act(order))
        if self._rng.random() < LOOKS_SHARE:
            self._begin(self._look_on(order))

    async def restock(self, product_id: str, until: float) -> None:
        """Have the merchant give some units more, again and again; some of it is sent twice."""
        while (now := time.time()) < until:
            key = f"delivery-{int(now * 1000)}"
            body = {"kind": "restock", "units": RESTOCK_UNITS, "why": key}
            for _ in range(self._rng.choice((1, 1, 2))):
                self._begin(self._ask(MERCHANT_ID, "restock", product_id, key, body))
            await asyncio.sleep(RESTOCK_EVERY_S)

    async def finish(self, patience_s: float) -> None:
        """Wait until everything has its end, at most so long."""
        deadline = time.monotonic() + patience_s
        while (under_way := [t for t in self._acting if not t.done()]) and time.monotonic() < deadline:
            await asyncio.wait(under_way, timeout=deadline - time.monotonic())
        for result in await self.give_up():
            if isinstance(result, Exception):
                raise result

    async def give_up(self) -> list[BaseException | None]:
        """End whatever is under way, and give how each of it ended."""
        left = list(self._acting)
        self._acting.clear()
        return await give_up(left)

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._acting.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """What failed is kept, for `finish` to raise."""
        if task.cancelled() or task.exception() is None:
            self._acting.discard(task)

    async def _act(self, order: Bought) -> None:
        fate = self._drawn()
        await asyncio.sleep(self._rng.uniform(0.0, 3.0))
        match fate:
            case "paid" | "paid_twice" | "paid_wrongly" | "declined":
                await self._pay_as(fate, order)
            case "closed":
                await self._step(order, "close", {"why": "damaged"})
            case "shipped":
                await self._pay_and_see(order)
                for step in ("pick", "ship", "complete"):
                    await self._step(order, step, {})
            case "paid_late":
                await asyncio.sleep(max(order.expires_at.timestamp() - time.time(), 0.0) + 1.5)
                await self._pay(order, 1)
            case "left":
                return
            case _:
                await self._cancel_as(fate, order)

    def _drawn(self) -> str:
        draw = self._rng.random()
        for name, share in FATES.items():
            draw -= share
            if draw < 0:
                return name
        return "left"

    async def _pay_as(self, fate: str, order: Bought) -> None:
        if fate == "paid_twice":  # the first payment is told twice, and there is another
            await asyncio.gather(*(self._pay(order, number) for number in (1, 1, 2)))
        else:
            await self._pay(order, 1, {"paid_wrongly": "wrong", "declined": "failed"}.get(fate, "paid"))

    async def _cancel_as(self, fate: str, order: Bought) -> None:
        if fate == "cancelled_paid":
            await self._pay_and_see(order)
        under_way = [self._cancel(order)]
        if fate == "cancelled_twice":
            under_way.append(self._cancel(order))
        if fate == "cancelled_as_paid":
            under_way.append(self._pay(order, 1))
        await asyncio.gather(*under_way)

    async def _cancel(self, order: Bought) -> None:
        await self._ask(order.buyer_id, "cancel", order.order_id, f"cancel-{order.number}", {})

    async def _step(self, order: Bought, action: str, body: dict[str, Any]) -> None:
        await self._ask(MERCHANT_ID, action, order.order_id, f"{action}-{order.number}", body)

    async def _ask(self, who: str, action: str, subject: str, key: str, body: dict[str, Any]) -> None:
        """Until there is a clear answer, with the same key; what was taken in is polled until it is at its end."""
        path = f"/v1/products/{subject}/stock" if action == "restock" else f"/v1/orders/{subject}/{action}"
        headers = {
            "Authorization": f"Bearer {self._token(who)}", "Idempotency-Key": key, "Content-Type": "application/json",
        }  # fmt: skip
        actor = f"merchant:{who}" if who == MERCHANT_ID else f"buyer:{who}"
        ask = await self._until_clear(
            Ask(next(self._operations), actor, action, subject, key, 0.0, 0.0, "unknown"),
            path,
            lambda: (orjson.dumps(body), headers),
        )
        if ask.status == 202:
            await self._poll(who, ask)

    async def _pay(self, order: Bought, number: int, event: str = "paid") -> None:
        """The provider tells of the buyer's payment with this number until that is acknowledged."""
        amount = order.total - 1 if event == "wrong" and order.total > 1 else order.total
        told = SandboxEvent(
            id=f"event-{order.order_id}-{number}",
            type="payment.failed" if event == "failed" else "payment.paid",
            order_id=order.order_id,
            payment_id=f"payment-{order.order_id}-{number}",
            amount=f"{amount:f}",
            currency=order.currency,
            occurred_at=datetime.now(UTC),
        )
        ask = Ask(
            next(self._operations), f"provider:{NAME}", "pay", order.order_id, told.id, 0.0, 0.0, "unknown", event=event
        )  # fmt: skip
        body = told.body()

        def signed() -> tuple[bytes, dict[str, str]]:
            return body, {HEADER: sign(body, [self._secret], datetime.now(UTC))}

        await self._until_clear(ask, f"{CALLBACKS_PATH}{NAME}", signed)

    async def _until_clear(
        self, ask: Ask, path: str, content: Callable[[], tuple[bytes, dict[str, str]]]
    ) -> Ask:
        pause_s = FIRST_PAUSE_S
        while True:
            body, headers = content()
            at = time.time()
            url = f"{self._rng.choice(self._apis)}{path}"
            try:
                reply = await request(
                    self._http, "POST", url, headers=headers, data=body, timeout_s=SUBMIT_TIMEOUT_S
                )
            except asyncio.CancelledError:
                self._record(ask, at, Reply("unknown", 0, b"", 0.0))
                raise
            done = self._record(ask, at, reply)
            if done.outcome == "ok":
                return done
            pause_s = min(max(pause_s * 2, reply.retry_after_s), PAUSE_MAX_S)
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))

    def _record(self, ask: Ask, at: float, reply: Reply) -> Ask:
        read, unread = understood(reply if reply.body else None, _answer.decode)
        told = read or _Answer()
        done = msgspec.structs.replace(
            ask,
            at=at,
            until=time.time(),
            outcome="unknown" if unread or reply.status == 503 else reply.outcome,
            status=reply.status,
            code=told.code,
            order_status=told.order_status,
            command_id=told.command_id,
            url=told.status_url,
            place=(told.partition, told.offset) if reply.status == 202 and not unread else None,
            unread=unread,
        )
        self._history.asks.append(done)
        return done

    async def _poll(self, who: str, ask: Ask) -> None:
        """Until its end is told, and once more."""
        pause_s, final = FIRST_PAUSE_S, False
        while True:
            await asyncio.sleep(pause_s)
            at = time.time()
            reply = await self._get(who, ask.url)
            told, unread = understood(reply if reply.status == 200 else None, _status.decode)
            poll = AskPoll(
                ask.operation, ask.command_id, at, time.time(), "ok" if told else "fail", reply.status,
                told.status if told else "", told.reason or "" if told else "", unread,
            )  # fmt: skip
            self._history.ask_polls.append(poll)
            if final and poll.is_final:
                return
            final = final or poll.is_final
            pause_s = min(max(pause_s * 1.5, reply.retry_after_s), PAUSE_MAX_S)

    async def _pay_and_see(self, order: Bought) -> None:
        """Until the payment is decided, or the buyer has looked often enough."""
        await self._pay(order, 1)
        for _ in range(LOOKS_MAX):
            seen = await self._look(order)
            if seen is not None and seen.status != "pending_payment":
                return
            await asyncio.sleep(FIRST_PAUSE_S)

    async def _look_on(self, order: Bought) -> None:
        """Until it was seen as no longer waiting, and once more."""
        decided = 0
        for _ in range(LOOKS_MAX):
            seen = await self._look(order)
            decided += seen is not None and seen.status != "pending_payment"
            if decided > 1:
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, order: Bought) -> OrderView | None:
        at = time.time()
        reply = await self._get(order.buyer_id, f"/v1/orders/{order.order_id}")
        seen, unread = understood(reply if reply.status == 200 else None, _order.decode)
        self._history.looks.append(
            Look(
                order.order_id, at, time.time(), "ok" if seen else "fail", reply.status,
                seen.status if seen else "", seen.payment.status if seen else "", seen.sequence if seen else 0,
                unread,
            )
        )  # fmt: skip
        return seen

    async def _get(self, who: str, path: str) -> Reply:
        return await request(
            self._http,
            "GET",
            f"{self._rng.choice(self._apis)}{path}",
            headers={"Authorization": f"Bearer {self._token(who)}"},
            timeout_s=POLL_TIMEOUT_S,
        )
