"""Cost: processor time and bytes written for an order, end to end under a steady load."""

from collections import defaultdict

from deploy.bench.end_to_end import find_sustained, sale
from deploy.bench.ground import Bench
from deploy.bench.rounds import Row, at_most, row
from deploy.bench.usage import per_order, used

_TOTAL_US = 100.0
_SHARE = 0.75  # of what is sustained
_ON_THE_WAY = ("ingest-1", "kafka", "worker-1", "postgres", "cache")


async def run(bench: Bench) -> list[Row]:
    """The load generator, and api, which only polls reach, are not counted."""
    rounds, seconds = (1, 2.0) if bench.quick else (3, 20.0)
    per_s = _SHARE * await find_sustained(bench)
    cpu_us: dict[str, list[float]] = defaultdict(list)
    wal: list[float] = []
    topics: list[float] = []
    async with sale(bench) as of:
        await of.load(per_s, seconds / 4)
        for _ in range(rounds):
            orders_before, before = (await of.ground.counts()).orders, await used(of.ground)
            await of.load(per_s, seconds)
            after, orders = await used(of.ground), (await of.ground.counts()).orders - orders_before
            for name, us in per_order(before, after, orders).items():
                cpu_us[name].append(us)
            wal.append((after.wal_bytes - before.wal_bytes) / orders)
            topics.append((after.topic_bytes - before.topic_bytes) / orders)
            told = ", ".join(f"{name} {cpu_us[name][-1]:.0f} µs" for name in _ON_THE_WAY)
            bench.say(f"  {orders:,} orders: {told}; {wal[-1]:,.0f} + {topics[-1]:,.0f} B")
    totals = [sum(cpu_us[name][n] for name in _ON_THE_WAY) for n in range(rounds)]
    at = f"at {per_s:,.0f} orders/s"
    rows = [at_most("cost", f"processor time of an order, {at}", "µs", totals, _TOTAL_US)]
    for name in _ON_THE_WAY:
        pairs = list(zip(cpu_us[name], totals, strict=True))
        rows.append(row("cost", f"of it {name.removesuffix('-1')}", "µs", "all", pairs))
    written = [(w, w + t) for w, t in zip(wal, topics, strict=True)]
    return [*rows, row("cost", "written to Postgres' log for an order", "B", "with both topics", written)]
