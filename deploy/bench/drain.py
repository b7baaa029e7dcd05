"""Draining: how fast a backlog is decided, beside the bare COPY of the same rows, and many products beside one."""

from itertools import islice
from typing import Any

from contracts.kafka import Record
from deploy import sample
from deploy.bench import ceiling
from deploy.bench.checkouts import Backlog, backlog_of, zipf
from deploy.bench.children import child
from deploy.bench.ground import Bench, plentiful
from deploy.bench.rounds import Goal, Row, row

_GOAL = Goal(0.80)
_PRODUCTS = 10_000


def size(bench: Bench) -> tuple[int, int]:
    """Rounds, and messages of a backlog."""
    return (1, 9_000) if bench.quick else (3, 200_000)


async def run_hot(bench: Bench) -> list[Row]:
    """One product, one writer; then its rows are copied into an empty database in the batches that it made."""
    rounds, count = size(bench)
    backlog = hot_backlog(bench, count)
    pairs = []
    for _ in range(rounds):
        async with bench.ground(plentiful()) as ground, bench.ground(plentiful()) as empty:
            ours = await ground.drain(backlog)
            await ground.check_orders(count)
            await empty.execute("CHECKPOINT")
            plan = ceiling.Plan(ground.settings.postgres_url, empty.settings.postgres_url)
            copied = await child("deploy.bench.ceiling", plan, ceiling.Outcome)
            await empty.check_orders(count)
        bench.say(
            f"  {ours:,.0f} orders/s; COPY alone {copied.orders_per_s:,.0f}/s in {copied.batches} batches"
        )
        pairs.append((ours, copied.orders_per_s))
    return [row("drain-hot", f"{count:,} orders of one product", "/s", "COPY alone", pairs, _GOAL)]


async def run_many(bench: Bench) -> list[Row]:
    """Many products of every popularity in all partitions, one worker, beside one product."""
    rounds, count = size(bench)
    hot = hot_backlog(bench, count)
    products = zipf(_PRODUCTS)
    many = backlog_of(((p,) for p in islice(products, count)), bench.settings.partitions)
    pairs = []
    for _ in range(rounds):
        of_many = await drained(bench, many, _PRODUCTS)
        of_one = await drained(bench, hot)
        bench.say(f"  many products {of_many:,.0f} orders/s, one product {of_one:,.0f} orders/s")
        pairs.append((of_many, of_one))
    what = f"{count:,} orders of {_PRODUCTS:,} products, Zipf"
    return [row("drain-many", what, "/s", "one product", pairs, _GOAL)]


async def drained(
    bench: Bench, backlog: Backlog, others: int = 0, *, slices: int = 1, workers: int = 1, **changes: Any
) -> float:
    """Orders per second on a ground of its own, on empty tables; every message an order."""
    async with bench.ground(plentiful(others, slices), **changes) as ground:
        per_s = await ground.drain(backlog, workers)
        await ground.check_orders(sum(map(len, backlog.values())))
    return per_s


def hot_backlog(bench: Bench, count: int) -> dict[int, list[Record]]:
    return backlog_of(((sample.HOT_PRODUCT,) for _ in range(count)), bench.settings.partitions)
