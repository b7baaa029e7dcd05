"""Many seeds, on every core."""

import gc
import math
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context

from deploy.simulation.run import Outcome, simulate

_SEEDS_AT_ONCE = 20


def processes_for(count: int, jobs: int | None = None) -> int:
    """How many processes so many seeds are run on: `jobs`, or one per core, but none without work."""
    return min(jobs or os.cpu_count() or 1, math.ceil(count / _SEEDS_AT_ONCE))


def simulate_many(start: int, count: int, jobs: int | None = None) -> Iterator[Outcome]:
    """Run the seeds from `start` on, on `processes_for` processes; their outcomes as they come."""
    pieces = [
        range(begin, min(begin + _SEEDS_AT_ONCE, start + count))
        for begin in range(start, start + count, _SEEDS_AT_ONCE)
    ]
    processes = processes_for(count, jobs)
    if processes == 1:
        for piece in pieces:
            yield from _simulate(piece)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting: set[Future[list[Outcome]]] = set()
        try:
            for piece in pieces:
                if len(waiting) >= 2 * processes:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield from future.result()
                waiting.add(pool.submit(_simulate, piece))
            for future in waiting:
                yield from future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _simulate(seeds: range) -> list[Outcome]:
    """With the garbage collected between the seeds: a run makes cycles, but not enough of them to look for all the time."""
    gc.collect()
    gc.freeze()
    gc.disable()
    outcomes = []
    try:
        for seed in seeds:
            outcomes.append(simulate(seed))
            gc.collect()
    finally:
        gc.enable()
    return outcomes
