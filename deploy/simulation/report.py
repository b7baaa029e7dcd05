"""What people see of simulated runs."""

import time
from collections import Counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deploy.simulation.many import processes_for, simulate_many
from deploy.simulation.run import Outcome, simulate


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


def many(start: int, count: int, jobs: int | None, console: Console) -> bool:
    """Run seeds, show how far and how fast, and every violation; whether all was well."""
    processes = processes_for(count, jobs)
    faults: Counter[str] = Counter()
    decisions = checked = violated = 0
    started = time.monotonic()
    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("seeds", total=count, rate="")
        for number, outcome in enumerate(simulate_many(start, count, jobs), 1):
            faults.update(outcome.faults)
            decisions += outcome.decisions
            checked += outcome.checked
            violated += bool(outcome.violation)
            _tell_violation(outcome, console)
            rate = number / (time.monotonic() - started)
            progress.update(bar, completed=number, rate=f"{rate:.1f}/s")
    seconds = time.monotonic() - started
    console.print(
        f"{count} seeds from {start} in {seconds:.1f} s on {processes} processes: {count / seconds:.1f} seeds/s, "
        f"{count / seconds / processes:.1f} per process",
        highlight=False,
    )
    console.print(
        f"{sum(faults.values()):,} faults of {len(faults)} kinds, {decisions:,} decisions, {checked:,} checks, "
        f"{violated} violations",
        highlight=False,
    )
    return not violated


def _tell_violation(outcome: Outcome, console: Console) -> None:
    if outcome.violation:
        text = f"seed {outcome.seed} VIOLATES: {outcome.violation}"
        console.print(text, style="red", markup=False, highlight=False)
