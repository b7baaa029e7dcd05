"""Buyers of a simulated sale: they submit, lose patience, try again, and watch what they are told."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jwt
import msgspec
import orjson

from api.marks import AWAY_FOR_S, CONFIRMED_FOR_S
from contracts.errors import Unavailable
from contracts.outcomes import Reason
from contracts.receipts import Receipt
from contracts.requests import CheckoutStatus, CreatedLine, HeldLine, QueuedLine, RefusedLine
from deploy.simulation.model import Violation
from deploy.simulation.node import ConnectionCut
from deploy.simulation.world import SETTINGS, ApiProcess, World
from ingest.fakes import Answered, HeaderValue, MemoryExchange, MemoryHeaders, MemoryScope

AGAIN_S = 0.1
POLL_S = 0.5  # longer than a place in the queue may be old


class Purchase(msgspec.Struct, frozen=True):
    """What a buyer does: at this time this request, `copies` of it at once; then once more with `other`, if given.

    With `asks_again`, the buyer polls on after the final answer until it came once more. With `gives_up`, there is no
    other try when the first one's end is not known.
    """

    at_s: float
    buyer_id: str
    key: str
    items: tuple[tuple[str, int], ...]
    policy: str = "independent"
    copies: int = 1
    other: tuple[tuple[str, int], ...] = ()
    asks_again: bool = True
    gives_up: bool = False


async def purchase(world: World, plan: Purchase) -> None:
    """Until everything is answered for good. Raises Violation if a client would be told what is not so."""
    await world.loop.after(plan.at_s)
    known: set[str] = set()  # checkout ids told
    if plan.copies == 1:
        await _buy(world, plan, plan.items, known)
    else:
        await asyncio.gather(*(_buy(world, plan, plan.items, known) for _ in range(plan.copies)))
    if plan.other:
        await _buy(world, plan, plan.other, known)
    if len(known) > 1:
        raise Violation(f"one key of {plan.buyer_id}, but the checkouts {sorted(known)}")


async def _buy(world: World, plan: Purchase, items: Sequence[tuple[str, int]], known: set[str]) -> None:
    submitted = await _submit(world, plan, items)
    if submitted is None:
        return
    answer, asked_at, process = submitted
    if answer.status == 422:  # another payload came before under the key
        if not plan.other:
            raise Violation(f"a conflict where there is none: {answer.body!r}")
        return
    document = answer.json()
    known.add(document["checkout_id"])
    if answer.status == 409:
        world.auditor.of_gate.refused(process, [product_id for product_id, _ in items], plan.policy, asked_at)
        return
    units: Counter[str] = Counter()
    for product_id, quantity in items:
        units[product_id] += quantity
    world.auditor.of_clients.accepted(document["checkout_id"], plan.buyer_id, units, document["lines"])
    if plan.policy == "all_or_nothing" and len(items) > 1:
        world.auditor.of_commands.whole.add(document["checkout_id"])
    await _watch(world, document["checkout_id"], plan, document["receipt"])


async def _submit(
    world: World, plan: Purchase, items: Sequence[tuple[str, int]]
) -> tuple[Answered, float, str] | None:
    """Until it is taken in or refused for good; with the time when that was asked, and the process that
    answered. What is not known is tried again, with the same key, unless the buyer gives up.
    """
    body = _body(tuple(items), plan.policy)
    headers: dict[str, HeaderValue] = {
        "authorization": _bearer(plan.buyer_id),
        "content-type": "application/json",
        "content-length": str(len(body)),
        "idempotency-key": plan.key,
    }
    scope = MemoryScope("POST", "/v1/checkouts", MemoryHeaders(headers))
    while True:
        ingest = world.random.choice(world.ingests)
        exchange = MemoryExchange(body)
        asked_at = world.loop.time()
        try:
            await ingest.node.call(partial(ingest.app.__rsgi__, scope, exchange))
        except ConnectionCut:
            if plan.gives_up:
                return None
            await world.loop.after(AGAIN_S)
            continue
        answer = exchange.answered()
        if answer.status in (202, 409, 422):
            return answer, asked_at, ingest.node.name
        if answer.status != 503:
            raise Violation(f"answered {answer.status}: {answer.body!r}")
        if plan.gives_up:
            return None
        await world.loop.after(AGAIN_S)


async def _watch(world: World, checkout_id: str, plan: Purchase, text: str) -> None:
    """Poll until the final answer."""
    receipt = world.signer.verify(text, checkout_id, plan.buyer_id)
    final: CheckoutStatus | None = None
    ahead: dict[str, int] = {}  # by who told it
    pause_s = POLL_S
    while True:
        await world.loop.after(pause_s)
        pause_s *= 1.5
        api = world.random.choice(world.apis)
        asked_at = world.loop.time()
        status = await _poll(api, checkout_id, plan.buyer_id, receipt)
        if status is None:
            continue
        if status.status != "queued":
            if final is None:
                _check(world, status, receipt)
            elif status != final:
                raise Violation(f"{checkout_id} was answered {final}, and then {status}")
            if final is not None or not plan.asks_again:
                return
            final = status
            continue
        _check_places(world, api, status, asked_at)
        before = ahead.get(api.node.name) if _may_differ(world) else min(ahead.values(), default=None)
        if before is not None and (status.ahead is None or status.ahead > before):
            raise Violation(f"{checkout_id}: {status.ahead} ahead, before it was {before}")
        if final is not None and not _may_differ(world):
            raise Violation(f"{checkout_id} was answered {final}, and then waits")
        ahead[api.node.name] = min(status.ahead or 0, ahead.get(api.node.name, status.ahead or 0))


def _check_places(world: World, api: ApiProcess, status: CheckoutStatus, asked_at: float) -> None:
    by_postgres = not _may_differ(world)
    for line in status.lines:
        if isinstance(line, QueuedLine):
            world.auditor.of_clients.waits(
                api.node.name, line.partition, line.offset, line.ahead, asked_at, by_postgres=by_postgres
            )


def _may_differ(world: World) -> bool:
    """Whether two processes may tell different places: while Postgres does not answer, each knows what it has seen."""
    return world.loop.time() - world.postgres.failed_at < AWAY_FOR_S + CONFIRMED_FOR_S


async def _poll(api: ApiProcess, checkout_id: str, buyer_id: str, receipt: Receipt) -> CheckoutStatus | None:
    """None if it is not known now."""
    try:
        status: CheckoutStatus = await api.node.call(
            partial(api.checkouts.of_receipt, checkout_id, buyer_id, receipt)
        )
    except (Unavailable, ConnectionCut):
        return None
    return status


def _check(world: World, status: CheckoutStatus, receipt: Receipt) -> None:
    """A final answer tells what was decided, of every line."""
    if len(status.lines) != len(receipt.positions):
        raise Violation(f"{status.checkout_id}: not every line is answered")
    orders = {line.order.order_id for line in status.lines if isinstance(line, CreatedLine)}
    refused = {line.reason.value for line in status.lines if isinstance(line, RefusedLine)}
    is_conflict = (
        refused == {Reason.IDEMPOTENCY_CONFLICT} and not orders
    )  # another payload under the same key
    if status.checkout_id in world.auditor.of_commands.whole and not is_conflict:
        world.auditor.of_commands.answered(status.checkout_id, status.status, orders, refused)
        return
    for line in status.lines:
        if isinstance(line, QueuedLine | HeldLine):
            raise Violation(f"{status.checkout_id} is final, but a line waits")
        world.auditor.of_clients.answered(status.checkout_id, line)


@lru_cache(maxsize=10_000)
def _bearer(buyer_id: str) -> str:
    claims: dict[str, Any] = {"sub": buyer_id, "exp": 4_000_000_000}
    return "Bearer " + jwt.encode(claims, SETTINGS.jwt_hs256_secret, "HS256")


@lru_cache(maxsize=10_000)
def _body(items: tuple[tuple[str, int], ...], policy: str) -> bytes:
    shipping = {"contact_name": "Li Lei", "phone": "+86 138 0000 0000", "address": "1 Long Street, Hangzhou"}
    lines = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in items]
    return orjson.dumps({"items": lines, "shipping": shipping, "policy": policy})
