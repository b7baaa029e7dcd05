"""Polling: GET of a decided checkout beside a bare GET of the server that api runs on."""

import asyncio

import aiohttp

from deploy import sample
from deploy.bench.accept import rate
from deploy.bench.checkouts import bearer, get
from deploy.bench.ground import Bench, Ground, plentiful
from deploy.bench.rounds import Goal, Row, row

_GOAL = Goal(0.60)
_CONNECTIONS = 64
_CHECKOUTS = 200
_TOLD_S = 60.0


async def run(bench: Bench) -> list[Row]:
    rounds, seconds = (1, 1.0) if bench.quick else (3, 6.0)
    pairs = []
    async with bench.ground(plentiful()) as ground:
        _, api, ingest = await ground.start("worker", "api", "ingest")
        polls, body_bytes = await _decided(ground, ingest.url, api.url)
        async with bench.bare("read", body_bytes) as bare_port:
            for _ in range(rounds):
                ours = await rate(bench, [api.port], polls, _CONNECTIONS, seconds, "200")
                bare = await rate(bench, [bare_port], polls, _CONNECTIONS, seconds, "200")
                bench.say(f"  {ours:,.0f}/s, bare {bare:,.0f}/s")
                pairs.append((ours, bare))
    what = f"GET of a decided checkout, {_CONNECTIONS} connections"
    return [row("poll", what, "/s", "bare 200", pairs, _GOAL)]


async def _decided(ground: Ground, ingest_url: str, api_url: str) -> tuple[list[bytes], int]:
    """The polls of checkouts that became orders, and how long an answer is."""
    made, length = [], 0
    async with asyncio.timeout(_TOLD_S), aiohttp.ClientSession() as http:
        for buyer in range(1, _CHECKOUTS + 1):
            headers = {"Authorization": f"Bearer {bearer(ground.settings, buyer).decode()}"}
            body = {"items": [{"product_id": sample.HOT_PRODUCT, "quantity": 1}], "address_id": "home"}
            async with http.post(f"{ingest_url}/v1/checkouts", json=body, headers=headers) as response:
                status_url = (await response.json())["status_url"]
            made.append(get(ground.settings, buyer, status_url))
            if buyer < _CHECKOUTS:
                continue
            while True:  # the last one decided: all are, there is one product
                async with http.get(f"{api_url}{status_url}", headers=headers) as response:
                    length = len(await response.read())
                    if (await response.json())["status"] == "created":
                        return made, length
                await asyncio.sleep(0.02)
    raise RuntimeError("no checkout was made")
