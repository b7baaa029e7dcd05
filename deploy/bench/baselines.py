"""One hot product, decided by Sluiceway and by the designs that a shop would try first."""

import asyncio

import msgspec

from deploy import sample
from deploy.bench import baseline
from deploy.bench.checkouts import write_hot
from deploy.bench.children import child
from deploy.bench.drain import drained, hot_backlog
from deploy.bench.ground import Bench, plentiful
from deploy.bench.rounds import Goal, Row, row

_CONNECTIONS = 16
_PROCESSES = 2  # of the clients: one of them alone would be busier than Postgres
# Design, what it is called, what it is to be exceeded by, orders of a round.
_DESIGNS: tuple[tuple[baseline.Design, str, float, int], ...] = (
    ("for_update", "(a) SELECT … FOR UPDATE transaction per order", 20.0, 8_000),
    ("skip_locked", "(b) row per unit, SKIP LOCKED", 8.0, 16_000),
    ("redis_lua", "(c) Redis Lua, Kafka, insert transaction per order", 6.0, 16_000),
)


async def run(bench: Bench) -> list[Row]:
    rounds, count = (1, 9_000) if bench.quick else (3, 100_000)
    backlog = hot_backlog(bench, count)
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for _, name, _, _ in _DESIGNS}
    for _ in range(rounds):
        ours = await drained(bench, backlog)
        bench.say(f"  Sluiceway: {ours:,.0f} orders/s")
        for design, name, _, orders in _DESIGNS:
            theirs = await _sell(bench, design, orders // 20 if bench.quick else orders)
            bench.say(f"  {name}: {theirs:,.0f} orders/s")
            pairs[name].append((ours, theirs))
    return [
        row("baselines", f"{count:,} orders of one product", "/s", name, pairs[name], Goal(goal))
        for _, name, goal, _ in _DESIGNS
    ]


async def _sell(bench: Bench, design: baseline.Design, orders: int) -> float:
    """Orders per second of a design on a ground of its own."""
    async with bench.ground(plentiful()) as ground:
        if design == "skip_locked":
            await baseline.prepare_units(ground.settings.postgres_url, sample.HOT_PRODUCT, 2 * orders)
        if design == "redis_lua":
            await write_hot(ground.settings, orders)
        await ground.execute("CHECKPOINT")
        plan = baseline.Plan(design, ground.settings, sample.HOT_PRODUCT, orders, _CONNECTIONS)
        # One consumer reads a partition: that design is one process.
        parts = _parts(plan, 1 if design == "redis_lua" else _PROCESSES)
        outcomes = await asyncio.gather(
            *(child("deploy.bench.baseline", part, baseline.Outcome) for part in parts)
        )
        await ground.check_orders(orders)
    return orders / (max(o.ended_at for o in outcomes) - min(o.started_at for o in outcomes))


def _parts(plan: baseline.Plan, processes: int) -> list[baseline.Plan]:
    orders, connections = plan.orders // processes, plan.connections // processes
    return [
        msgspec.structs.replace(plan, orders=orders, connections=connections, first=number * orders)
        for number in range(processes)
    ]
