"""Many seeds, on every core."""

import gc
import math
import os
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from multiprocessing import get_context

from deploy.simulation.run import Outcome, simulate

_SEEDS_AT_ONCE = 5


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
    with ProcessPoolExecutor(processes, get_context("spawn"), _leave_interrupts) as pool:
        waiting: set[Future[list[Outcome]]] = set()
        try:
            for piece in pieces:
                if len(waiting) > processes:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield from future.result()
                waiting.add(pool.submit(_outcomes, piece))
            for future in as_completed(waiting):
                yield from future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """To the process that gives out the seeds: a Ctrl-C reaches all of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _outcomes(seeds: range) -> list[Outcome]:
    return list(_simulate(seeds))


def _simulate(seeds: range) -> Iterator[Outcome]:
    """What is there before the runs is none of their garbage: it is not looked at after each."""
    gc.collect()
    gc.freeze()
    for seed in seeds:
        yield simulate(seed)
