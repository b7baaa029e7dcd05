"""The suites by name, and running them one after the other."""

import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from contracts.errors import Invalid
from deploy.bench import (
    accept,
    baselines,
    cost,
    drain,
    end_to_end,
    growth,
    machine,
    memory,
    poll,
    slices,
    sold_out,
)
from deploy.bench.ground import Bench
from deploy.bench.machine import Machine
from deploy.bench.rounds import Row


class Suite(msgspec.Struct, frozen=True):
    """What it measures, and about how many minutes it takes."""

    about: str
    run: Callable[[Bench], Awaitable[list[Row]]]
    minutes: float


SUITES = {
    "accept": Suite("POST of a checkout beside a bare 202", accept.run, 3),
    "drain-hot": Suite("a backlog of one product beside COPY of the same rows", drain.run_hot, 5),
    "drain-many": Suite("a backlog of 10,000 products beside one of one product", drain.run_many, 6),
    "slices": Suite("one product with two writers beside one", slices.run, 5),
    "baselines": Suite("one product beside what a shop would try first", baselines.run, 5),
    "sold-out": Suite("refusals, in the backlog and at the edge", sold_out.run, 4),
    "end-to-end": Suite("the sustained rate, and decision latency at shares of it", end_to_end.run, 8),
    "poll": Suite("GET of a decided checkout beside a bare GET", poll.run, 1),
    "growth": Suite("2 million stored orders, partitions, workers, lines", growth.run, 16),
    "cost": Suite("processor time and bytes of an order", cost.run, 4),
    "memory": Suite("memory under a steady load", memory.run, 8),
}


class Result(msgspec.Struct):
    """What came out; `bench --json` writes it."""

    machine: Machine
    quick: bool
    rows: list[Row]


def chosen(names: Sequence[str]) -> list[str]:
    """The named suites in their order; all if none is named. Raises Invalid for one that is not there."""
    if unknown := sorted(set(names) - SUITES.keys()):
        raise Invalid(f"there is no suite {', '.join(unknown)}; there are {', '.join(SUITES)}")
    return [name for name in SUITES if name in names or not names]


async def measure(bench: Bench, names: Sequence[str], done: Callable[[Result], None]) -> Result:
    """Run suites. `done` is told of the result so far after each."""
    # A topic that was made a moment ago is not led yet: the client says so with every try.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    result = Result(machine.describe(bench.stack), bench.quick, [])
    if not bench.quick:
        minutes = sum(SUITES[name].minutes for name in names)
        bench.say(f"{len(names)} suites; they take about {minutes:.0f} minutes")
    for name in names:
        bench.say(f"{name}: {SUITES[name].about}")
        result.rows += await SUITES[name].run(bench)
        done(result)
    return result
