"""Sold out: how fast the rest of a backlog is refused, and how fast the edge says so, beside a bare answer."""

import asyncio

import aiohttp
import msgspec

from contracts.outcomes import Reason
from deploy import sample
from deploy.bench.accept import rate
from deploy.bench.checkouts import bearer, post
from deploy.bench.drain import hot_backlog
from deploy.bench.drain import size as drain_size
from deploy.bench.ground import Bench, Ground, plentiful
from deploy.bench.rounds import Goal, Row, at_least, row
from stock_ledger.catalogue import ProductEntry

_REFUSED_PER_S = 60_000
_GOAL = Goal(0.90)
_CONNECTIONS = 256
_ANSWER_BYTES = 560  # of a sold-out problem
_GATE_S = 30.0

REFUSED = "SELECT count(*) FROM decisions WHERE kind = 'refused' AND reason = $1"


async def run(bench: Bench) -> list[Row]:
    return [await _refuse(bench), *await _gate(bench)]


async def _refuse(bench: Bench) -> Row:
    rounds, count = drain_size(bench)
    backlog = hot_backlog(bench, count)
    values = []
    for _ in range(rounds):
        async with bench.ground(_nothing()) as ground:
            values.append(await ground.drain(backlog))
            refused = (await ground.fetch(REFUSED, Reason.SOLD_OUT.value))[0][0]
            if refused != count:
                raise RuntimeError(f"{count} checkouts were to be refused as sold out; {refused} are")
        bench.say(f"  {values[-1]:,.0f} refusals/s")
    return at_least("sold-out", f"{count:,} refusals drained", "/s", values, _REFUSED_PER_S)


async def _gate(bench: Bench) -> list[Row]:
    """With a key of its own each request is first looked up, since it may be the retry of one that was taken in."""
    rounds, seconds = (1, 1.0) if bench.quick else (3, 6.0)
    pairs: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    async with bench.ground(_nothing()) as ground, bench.bare("accept", _ANSWER_BYTES) as bare_port:
        _, ingest = await ground.start("worker", "ingest")
        await _closed(ground, ingest.url)
        for _ in range(rounds):
            for key, of_key in pairs.items():
                request = post(ground.settings, 1, sample.HOT_PRODUCT, key=key)
                ours = await rate(bench, [ingest.port], [request], _CONNECTIONS, seconds, "409")
                bare = await rate(bench, [bare_port], [request], _CONNECTIONS, seconds, "202")
                bench.say(f"  gate {'with' if key else 'without'} a key {ours:,.0f}/s, bare {bare:,.0f}/s")
                of_key.append((ours, bare))
    return [
        row(
            "sold-out",
            f"409 at the edge, {'' if key else 'no '}idempotency key, {_CONNECTIONS} connections",
            "/s",
            "bare 202",
            of_key,
            _GOAL,
        )
        for key, of_key in pairs.items()
    ]


def _nothing() -> list[ProductEntry]:
    return [msgspec.structs.replace(product, stock=0) for product in plentiful()]


async def _closed(ground: Ground, url: str) -> None:
    """Wait until the edge knows that nothing is left."""
    headers = {"Authorization": f"Bearer {bearer(ground.settings, 1).decode()}"}
    body = {"items": [{"product_id": sample.HOT_PRODUCT, "quantity": 1}], "address_id": "home"}
    async with asyncio.timeout(_GATE_S), aiohttp.ClientSession(headers=headers) as http:
        while True:
            async with http.post(f"{url}/v1/checkouts", json=body) as response:
                if response.status == 409:
                    return
            await asyncio.sleep(0.1)
