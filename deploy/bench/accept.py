"""Accepting: POST of a checkout, answered when Kafka has it, beside a bare 202 of the same server."""

from deploy import sample
from deploy.bench import load
from deploy.bench.checkouts import post
from deploy.bench.children import child
from deploy.bench.ground import Bench, plentiful
from deploy.bench.rounds import Goal, Row, row

_CONNECTIONS = (64, 256, 512)
_GOAL = Goal(0.80)
_ANSWER_BYTES = 640  # of an accepted checkout


async def run(bench: Bench) -> list[Row]:
    rounds, seconds = (1, 1.0) if bench.quick else (3, 6.0)
    connections = _CONNECTIONS[:1] if bench.quick else _CONNECTIONS
    rows = [await _accept(bench, count, rounds, seconds) for count in connections]
    return [*rows, await _ceiling(bench, connections[-1], rounds, seconds)]


async def _accept(bench: Bench, connections: int, rounds: int, seconds: float) -> Row:
    pairs = []
    async with bench.ground(plentiful()) as ground, bench.bare("accept", _ANSWER_BYTES) as bare_port:
        [ingest] = await ground.start("ingest")
        request = post(ground.settings, 1, sample.HOT_PRODUCT)
        for _ in range(rounds):
            ours = await rate(bench, ingest.port, [request], connections, seconds, "202")
            bare = await rate(bench, bare_port, [request], connections, seconds, "202")
            bench.say(f"  {connections} connections: {ours:,.0f}/s, bare {bare:,.0f}/s")
            pairs.append((ours, bare))
    what = f"POST → Kafka (acks=all, idempotent) → 202, {connections} connections"
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
            bare = await rate(bench, bare_port, [request], connections, seconds, "202")
            wire = await rate(bench, wire_port, [request], connections, seconds, "202")
            bench.say(f"  generator: bare {bare:,.0f}/s, wire {wire:,.0f}/s")
            pairs.append((bare, wire))
    return row(
        "accept", f"ceiling: bare 202, {connections} connections", "/s", "answers alone, no HTTP", pairs
    )


async def rate(
    bench: Bench, port: int, requests: list[bytes], connections: int, seconds: float, status: str
) -> float:
    """Answers per second of a closed loop. Raises RuntimeError if any has another status than is wanted."""
    plan = load.Plan(bench.settings.host, port, requests, connections, seconds)
    outcome = await child("deploy.bench.load", plan, load.Outcome)
    if outcome.statuses.keys() != {status}:
        raise RuntimeError(f"{status} was to be answered; the answers are {outcome.statuses}")
    return outcome.per_s(status)
