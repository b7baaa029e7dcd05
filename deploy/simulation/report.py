"""What people see of simulated runs."""

import math
import time
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from deploy.simulation.many import processes_for, simulate_many
from deploy.simulation.run import Outcome, simulate

_LINE_EVERY_S = 10.0


def one(seed: int, console: Console, *, trace: bool) -> bool:
    """Run a seed, telling what happens if asked to; whether all was well."""
    outcome = simulate(
        seed, (lambda line: console.print(line, markup=False, highlight=False)) if trace else None
    )
    console.print(
        f"seed {seed}: {outcome.checkouts} checkouts, faults {', '.join(outcome.faults)}; {outcome.decisions} "
        f"decisions, {outcome.checked} checks, {outcome.seconds} s of simulated time, digest {outcome.digest:08x}",
        highlight=False,
    )
    _tell_violation(outcome, console)
    return not outcome.violation


class Tally:
    """What came out so far."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._started = time.monotonic()
        self._faults: Counter[str] = Counter()
        self._decisions = self._checked = 0
        self.seeds = 0
        self.violations = 0

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.violations += bool(outcome.violation)
        self._faults.update(outcome.faults)
        self._decisions += outcome.decisions
        self._checked += outcome.checked

    def line(self) -> str:
        """While it runs."""
        return f"{self.seeds} of {self._count} seeds, {self._rate():.1f}/s, {self.violations} violations"

    def summary(self, start: int, processes: int) -> str:
        """At the end, also one that came early."""
        asked = "" if self.seeds == self._count else f" of {self._count}"
        return (
            f"{self.seeds}{asked} seeds from {start} in {time.monotonic() - self._started:.1f} s on {processes} processes: "
            f"{self._rate():.1f} seeds/s, {self._rate() / processes:.1f} per process\n"
            f"{sum(self._faults.values()):,} faults of {len(self._faults)} kinds, {self._decisions:,} decisions, "
            f"{self._checked:,} checks, {self.violations} violations"
        )

    def _rate(self) -> float:
        return self.seeds / max(time.monotonic() - self._started, 1e-9)


def many(start: int, count: int, jobs: int | None, console: Console) -> bool:
    """Run seeds, show how far and how fast, and every violation at once; whether all was well.

    Without a terminal, a line tells how far it is, soon and then now and then. What was done is told also of a run that
    is interrupted.
    """
    processes = processes_for(count, jobs)
    tally = Tally(count)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(tally.line(), total=count)
        next_line_at = -math.inf
        try:
            for outcome in simulate_many(start, count, jobs):
                tally.add(outcome)
                _tell_violation(outcome, console)
                progress.update(bar, completed=tally.seeds, description=tally.line())
                if not console.is_terminal and time.monotonic() >= next_line_at:
                    console.print(tally.line(), highlight=False, soft_wrap=True)
                    next_line_at = time.monotonic() + _LINE_EVERY_S
        finally:
            progress.stop()
            console.print(tally.summary(start, processes), highlight=False, soft_wrap=True)
    return tally.violations == 0


def _tell_violation(outcome: Outcome, console: Console) -> None:
    if outcome.violation:
        text = f"seed {outcome.seed} VIOLATES: {outcome.violation}"
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
