"""Accepting: POST of a checkout, answered when Kafka has it, beside a bare 202 of the same server."""

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack

from deploy import sample
from deploy.bench import load
from deploy.bench.checkouts import post
from deploy.bench.children import child
from deploy.bench.ground import Bench, plentiful
from deploy.bench.rounds import Goal, Row, row

_CONNECTIONS = (64, 256, 512)
_CROWD = 2048  # connections, to a process for each core
_WARM_UP = 0.5  # of a round's seconds; not counted
_GOAL = Goal(0.80)
_ANSWER_BYTES = 640  # of an accepted checkout


async def run(bench: Bench) -> list[Row]:
    rounds, seconds = (1, 1.0) if bench.quick else (3, 6.0)
    connections = _CONNECTIONS[:1] if bench.quick else _CONNECTIONS
    rows = [await _accept(bench, count, 1, rounds, seconds) for count in connections]
    if not bench.quick:
        rows.append(await _accept(bench, _CROWD, os.cpu_count() or 1, rounds, seconds))
    return [*rows, await _ceiling(bench, connections[-1], rounds, seconds)]


async def _accept(bench: Bench, connections: int, processes: int, rounds: int, seconds: float) -> Row:
    """As many processes on either side."""
    pairs = []
    async with bench.ground(plentiful()) as ground, AsyncExitStack() as bare:
        bare_ports = [
            await bare.enter_async_context(bench.bare("accept", _ANSWER_BYTES)) for _ in range(processes)
        ]
        ports = [ingest.port for ingest in await ground.start(*processes * ["ingest"])]
        request = post(ground.settings, 1, sample.HOT_PRODUCT)
        await rate(bench, ports, [request], connections, _WARM_UP * seconds, "202")
        for _ in range(rounds):
            ours = await rate(bench, ports, [request], connections, seconds, "202")
            bare_rate = await rate(bench, bare_ports, [request], connections, seconds, "202")
            bench.say(f"  {connections} connections: {ours:,.0f}/s, bare {bare_rate:,.0f}/s")
            pairs.append((ours, bare_rate))
    what = f"POST → Kafka (acks=all, idempotent) → 202, {connections:,} connections"
    if processes > 1:
        what += f", {processes} processes"
    return row("accept", what, "/s", "bare 202", pairs, _GOAL)


async def _ceiling(bench: Bench, connections: int, rounds: int, seconds: float) -> Row:
    """What the load generator itself can do: a bare 202 beside a server that does not even read HTTP."""
    pairs = []
    async with (
        bench.bare("accept", _ANSWER_BYTES) as bare_port,
        bench.bare("wire", _ANSWER_BYTES) as wire_port,
    ):
        request = post(bench.settings, 1, sample.HOT_PRODUCT)
        for _ in range(rounds):
            bare = await rate(bench, [bare_port], [request], connections, seconds, "202")
            wire = await rate(bench, [wire_port], [request], connections, seconds, "202")
            bench.say(f"  generator: bare {bare:,.0f}/s, wire {wire:,.0f}/s")
            pairs.append((bare, wire))
    return row(
        "accept", f"ceiling: bare 202, {connections} connections", "/s", "answers alone, no HTTP", pairs
    )


async def rate(
    bench: Bench, ports: Sequence[int], requests: list[bytes], connections: int, seconds: float, status: str
) -> float:
    """Answers per second of a closed loop, over connections to each of the ports in turn.

    Raises RuntimeError if any has another status than is wanted.
    """
    plan = load.Plan(bench.settings.host, list(ports), requests, connections, seconds)
    outcome = await child("deploy.bench.load", plan, load.Outcome)
    if outcome.statuses.keys() != {status}:
        raise RuntimeError(f"{status} was to be answered; the answers are {outcome.statuses}")
    return outcome.per_s(status)
