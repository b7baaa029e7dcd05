"""Slices: one product decided by two writers beside one, on the real servers and with none behind."""

import asyncio
import time

from deploy import sample
from deploy.bench import alone
from deploy.bench.checkouts import backlog_of
from deploy.bench.children import child
from deploy.bench.drain import drained, hot_backlog
from deploy.bench.ground import Bench
from deploy.bench.rounds import Goal, Row, row

_SLICES = 2
_START_S = 10.0  # for making a backlog; then all begin together
_GOAL = Goal(1.5)  # two cores for two writers, and nothing else on them


async def run(bench: Bench) -> list[Row]:
    return [await _drained(bench), await _alone(bench)]


async def _drained(bench: Bench) -> Row:
    """Two workers, each with a slice, beside one; either with all servers on the same cores."""
    rounds, count = (1, 9_000) if bench.quick else (3, 100_000)
    one = hot_backlog(bench, count)
    two = backlog_of(((sample.HOT_PRODUCT,) for _ in range(count)), bench.settings.partitions, _SLICES)
    pairs = []
    for _ in range(rounds):
        of_two = await drained(bench, two, slices=_SLICES, workers=_SLICES)
        of_one = await drained(bench, one)
        bench.say(f"  two slices and workers {of_two:,.0f} orders/s, one {of_one:,.0f}")
        pairs.append((of_two, of_one))
    what = f"{count:,} orders of one product, {_SLICES} slices and workers"
    return row("slices", what, "/s", "1 and 1", pairs)


async def _alone(bench: Bench) -> Row:
    """Writers that decide, each a slice of its own, with log, ledger and view in their memory: no server limits them."""
    rounds, count = (1, 20_000) if bench.quick else (3, 150_000)
    pairs = []
    for _ in range(rounds):
        of_two = await _decided(count, _SLICES)
        of_one = await _decided(count, 1)
        bench.say(f"  no server behind: two writers {of_two:,.0f} decisions/s, one {of_one:,.0f}")
        pairs.append((of_two, of_one))
    what = f"decisions of {_SLICES} writers on one product, no server behind"
    return row("slices", what, "/s", "1 writer", pairs, _GOAL)


async def _decided(count: int, slices: int) -> float:
    """Decisions per second of so many writers together, each with `count` lines of its own slice."""
    begin_at = time.monotonic() + _START_S
    plans = [alone.Plan(number, slices, count, begin_at) for number in range(slices)]
    ended = await asyncio.gather(*(child("deploy.bench.alone", plan, alone.Outcome) for plan in plans))
    began_at, ended_at = (
        min(outcome.began_at for outcome in ended),
        max(outcome.ended_at for outcome in ended),
    )
    return slices * count / (ended_at - began_at)
