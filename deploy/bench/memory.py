"""Memory: what each process takes under a steady load for minutes, and whether it goes on growing."""

import asyncio
import time
from collections import defaultdict

from deploy.bench.end_to_end import describe, find_sustained, sale
from deploy.bench.ground import Bench, Ground
from deploy.bench.rounds import Goal, Row, row
from deploy.bench.usage import memory_mb, processes

_SECONDS = 300.0
_WARM_UP = 0.2  # of the time
_LOOK_S = 1.0
_FLAT = Goal(1.05, at_most=True)


async def run(bench: Bench) -> list[Row]:
    """Of each process the largest of the second half after warm-up beside the largest of the first.

    The cache begins anew: it would keep the memory that it needed for what was measured before.
    """
    seconds = 5.0 if bench.quick else _SECONDS
    per_s = await find_sustained(bench)
    await asyncio.to_thread(bench.stack.cache.restart)
    async with sale(bench) as of:
        watch = Watch(of.ground)
        watching = asyncio.create_task(watch.run())
        try:
            outcome = await of.load(per_s, seconds)
        finally:
            watching.cancel()
    bench.say(f"  {per_s:,.0f}/s: {describe(outcome)}")
    at = f"{per_s:,.0f} orders/s for {seconds:.0f} s"
    bench.say("  " + ", ".join(f"{name} {mb:,.0f} MB" for name, mb in watch.peaks().items()))
    return [
        row("memory", f"{name}, peak at {at}", "MB", "first half", [halves], _FLAT)
        for name, halves in watch.halves().items()
    ]


class Watch:
    """Weighs every process again and again, until cancelled."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._looks: dict[str, list[float]] = defaultdict(list)

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            for name, pid in processes(self._ground).items():
                self._looks[name].append(await asyncio.to_thread(memory_mb, pid))
            await asyncio.sleep(max(0.0, began + _LOOK_S - time.monotonic()))

    def peaks(self) -> dict[str, float]:
        return {name: max(looks) for name, looks in self._looks.items()}

    def halves(self) -> dict[str, tuple[float, float]]:
        """After warm-up: the peak of the second half, and of the first."""
        return {name: halves(looks) for name, looks in self._looks.items()}


def halves(looks: list[float]) -> tuple[float, float]:
    """The highest of the second half, and of the first, once the warm-up is left out."""
    warm = looks[int(len(looks) * _WARM_UP) :]
    middle = max(len(warm) // 2, 1)
    return max(warm[middle:] or warm), max(warm[:middle])
