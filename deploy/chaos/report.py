"""What people see of histories on real servers."""

import shutil
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from deploy.chaos.run import Options, Result, Say, history
from deploy.chaos.servers import servers
from deploy.local import keep_run_dir, new_run_dir
from deploy.stack import LocalStack

GOALS_S = {"kill_worker": 10.0, "stop_worker": 2.0, "restart_postgres": 2.0}
_COLUMNS = (
    "seed", "brokers", "seconds", "faults (kinds)", "submits ok/fail/unknown", "polls ok/fail/unknown",
    "commands ok/fail/unknown", "accepted/s", "longest stall: deciding", "accepting", "kill → deciding", "SIGTERM → deciding", "Postgres → deciding",
    "accepted/s meanwhile", "violations",
)  # fmt: skip


def one(
    options: Options,
    run: Callable[[Coroutine[Any, Any, Result]], Result],
    console: Console,
    *,
    keep: bool = False,
) -> Result:
    """Run one history on servers of its own, by `run`, and tell of it.

    Of one that does not hold or does not come to its end, all is kept for good; with `keep` also of one that does, until
    others come.
    """
    console.print(f"seed {options.seed}, {options.brokers} brokers", highlight=False)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    data_dir = new_run_dir("chaos", say)
    try:
        with servers(data_dir, options.brokers, say) as found:
            result = run(history(found, options, data_dir, say))
    except BaseException as error:
        _keep(data_dir, say, "failed" if isinstance(error, Exception) else "")  # if not, it was interrupted
        raise
    render(result, console)
    if result.ok and not keep:
        LocalStack(data_dir, kafka_ports=[0] * options.brokers, say=say).delete()
        shutil.rmtree(data_dir)
    else:
        _keep(data_dir, say, "" if result.ok else "violated")
    return result


def _keep(data_dir: Path, say: Say, why: str) -> None:
    """Tell where everything is, and keep it for good if there is a reason."""
    if why:
        keep_run_dir(data_dir, why)
    say(f"data, logs and what was recorded are in {data_dir}")


def header() -> str:
    """Of a table in Markdown with one line for each run."""
    return "| " + " | ".join(_COLUMNS) + " |\n" + "|---" * len(_COLUMNS) + "|"


def row(result: Result) -> str:
    """A run's line of the table."""
    violations = sum(result.violation_counts.values()) + len(result.broken)
    cells = [
        str(result.seed), str(result.brokers), f"{result.duration_s:.0f}",
        f"{sum(result.faults.values())} ({len(result.faults)})",
        _outcomes(result.submits), _outcomes(result.polls), _outcomes(result.asks), f"{result.accepted_per_s:.0f}",
        f"{result.longest_deciding_stall.seconds:.1f} s", f"{result.longest_accepting_stall_s:.1f} s",
        *(_recovery(result, kind) for kind in GOALS_S), _accepted_meanwhile(result), str(violations),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def render(result: Result, console: Console) -> None:
    """A run in detail: recoveries beside their goals, then all that must not be."""
    for recovery in result.recoveries:
        goal_s = GOALS_S[recovery.kind]
        took = "not seen to end" if recovery.seconds is None else f"{recovery.seconds:.2f} s"
        missed = recovery.alone and (recovery.seconds is None or recovery.seconds > goal_s)
        console.print(
            f"{recovery.kind} at {recovery.at_s:.1f} s: {recovery.partitions} partitions deciding again after {took} "
            f"(goal {goal_s:.0f} s{', missed' if missed else ''}{'' if recovery.alone else ', with other faults'}), "
            f"accepted meanwhile {recovery.accepted_per_s:.0f}/s",
            highlight=False,
            soft_wrap=True,
        )
    for violation in result.violations:
        console.print(Text(f"{violation.kind}: {violation.checkout_id} {violation.detail}", style="red"))
    for law, deviations in result.broken.items():
        for deviation in deviations:
            console.print(Text(f"audit {law}: {deviation}", style="red"))
    if result.exits_unasked:
        console.print(
            f"{result.exits_unasked} processes ended without being asked to, and were started again"
        )


def _outcomes(counts: dict[str, int]) -> str:
    return "/".join(f"{counts.get(outcome, 0):,}" for outcome in ("ok", "fail", "unknown"))


def _recovery(result: Result, kind: str) -> str:
    """The longest of those that no other fault disturbed."""
    alone = [r.seconds for r in result.recoveries if r.kind == kind and r.alone]
    if not alone:
        return "–"
    longest = [seconds for seconds in alone if seconds is not None]
    return "never" if len(longest) < len(alone) else f"{max(longest):.1f} s"


def _accepted_meanwhile(result: Result) -> str:
    """While those were under way: the least and the most."""
    rates = [r.accepted_per_s for r in result.recoveries if r.alone]
    return f"{min(rates):.0f} to {max(rates):.0f}" if rates else "–"


def table(results: Sequence[Result]) -> str:
    return "\n".join([header(), *map(row, results)])
