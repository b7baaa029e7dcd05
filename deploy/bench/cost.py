"""Cost: processor time and bytes written for an order, end to end under a steady load and under all that is taken in."""

from collections import defaultdict
from collections.abc import Awaitable, Callable

from deploy.bench.end_to_end import Sale, find_sustained, sale
from deploy.bench.ground import Bench
from deploy.bench.rounds import WITHIN, Goal, Row, at_most, row
from deploy.bench.usage import per_order, used

_TOTAL_US = 100.0
_SHARE = 0.75  # of what is sustained
_ON_THE_WAY = ("ingest-1", "kafka", "worker-1", "postgres", "cache")


class Costs:
    """Of some rounds: processor microseconds of an order by process, bytes in Postgres' log and in the topics."""

    def __init__(self) -> None:
        self.cpu_us: dict[str, list[float]] = defaultdict(list)
        self.wal: list[float] = []
        self.topics: list[float] = []
        self.totals: list[float] = []
        self.per_s = 0.0

    async def take(self, of: Sale, load: Callable[[], Awaitable[float]]) -> str:
        """Run a load, which gives its seconds; what its orders cost, in a line."""
        orders_before, before = (await of.ground.counts()).orders, await used(of.ground)
        seconds = await load()
        after, orders = await used(of.ground), (await of.ground.counts()).orders - orders_before
        cpu_us = per_order(before, after, orders)
        for name in _ON_THE_WAY:
            self.cpu_us[name].append(cpu_us[name])
        self.totals.append(sum(cpu_us[name] for name in _ON_THE_WAY))
        self.wal.append((after.wal_bytes - before.wal_bytes) / orders)
        self.topics.append((after.topic_bytes - before.topic_bytes) / orders)
        self.per_s = orders / seconds
        told = ", ".join(f"{name} {cpu_us[name]:.0f} µs" for name in _ON_THE_WAY)
        return f"{orders:,} orders: {told}; {self.wal[-1]:,.0f} + {self.topics[-1]:,.0f} B"

    def rows(self, at: str, goal: Goal | None) -> list[Row]:
        made = [at_most("cost", f"processor time of an order, {at}", "µs", self.totals, _TOTAL_US, goal=goal)]
        for name in _ON_THE_WAY:
            pairs = list(zip(self.cpu_us[name], self.totals, strict=True))
            made.append(row("cost", f"of it {name.removesuffix('-1')}", "µs", "all", pairs))
        written = [(wal, wal + topics) for wal, topics in zip(self.wal, self.topics, strict=True)]
        return [*made, row("cost", "written to Postgres' log for it", "B", "with both topics", written)]


async def run(bench: Bench) -> list[Row]:
    """The load generator, and api, which only polls reach, are not counted.

    Batches grow with the load, so an order costs the less the more there are: the goal is held against the steady one.
    """
    rounds, seconds = (1, 2.0) if bench.quick else (3, 20.0)
    per_s = _SHARE * await find_sustained(bench)
    steady, full = Costs(), Costs()
    async with sale(bench) as of:

        async def at_rate() -> float:
            await of.load(per_s, seconds)
            return seconds

        async def at_most_taken_in() -> float:
            return await of.flood(seconds)

        await of.load(per_s, seconds / 4)
        for _ in range(rounds):
            bench.say(f"  steady: {await steady.take(of, at_rate)}")
            bench.say(f"  full: {await full.take(of, at_most_taken_in)}")
    return [
        *steady.rows(f"{per_s:,.0f} orders/s", WITHIN),
        *full.rows(f"all that is taken in ({full.per_s:,.0f}/s) and drained", None),
    ]
