"""The proof's result, for people."""

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.overload.load import Outcome
from deploy.overload.verdict import MEMORY_MAX_MB, Result, rate


def render(console: Console, result: Result) -> None:
    """What was offered and answered, what waited, what memory it took, the verdict."""
    table = Table(title="Overload", title_justify="left", show_header=False, min_width=60)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in rows(result):
        table.add_row(*row)
    console.print(table)
    for failure in result.failures:
        console.print(Text(failure, style="red"))
    verdict = "Every 202 is kept." if result.ok else "It did not hold."
    console.print(Panel(Text(verdict, style="bold green" if result.ok else "bold red"), expand=False))


def rows(result: Result) -> list[tuple[str, str, str]]:
    """What is shown: what, how much, and what that means."""
    burst, again, restarts = result.burst, result.coming_again, result.restarts
    offered = burst.due / burst.seconds if burst.seconds else 0
    return [
        (
            "sustained",
            f"{result.sustained_per_s:,.0f}/s",
            "all 202, 99 of 100 within a second, and decided as they come",
        ),
        ("burst: offered", f"{offered:,.0f}/s", f"for {burst.seconds:.0f} s, {burst.due:,} in all"),
        (
            "  answered meanwhile",
            f"{burst.answered_per_s:,.0f}/s",
            f"{result.reached:.1f} times what is sustained, of {result.factor:.1f} offered",
        ),
        *_answers(burst),
        ("  decided meanwhile", rate(result.decided_in_burst_per_s), ""),
        (
            "  waited at most",
            f"{result.lag_peak:,}",
            f"messages; the limit is {result.lag_max:,} a partition",
        ),
        (
            "drain before the burst",
            rate(result.drain_before_per_s),
            "of a backlog made by hand, tables empty",
        ),
        ("drain after the burst", rate(result.drain_after_per_s), "of what the burst left"),
        ("drain later", rate(result.drain_later_per_s), "of a backlog made by hand"),
        ("came again when told to", f"{again.due_again:,}", _counts(again.again)),
        ("restarts one by one", f"{sum(result.restarted.values())}", _counts(result.restarted)),
        *_answers(restarts),
        ("lines of all 202s", f"{result.told:,}", f"{result.kept:,} decided where they were told to lie"),
        *(
            (f"memory of {name}", f"{mb:,.0f} MB", f"at most {MEMORY_MAX_MB[name.rsplit('-', 1)[0]]}")
            for name, mb in result.memory_mb.items()
        ),
    ]


def _answers(outcome: Outcome) -> list[tuple[str, str, str]]:
    answered = [
        (f"  {status}", f"{count:,}", _times(outcome, status))
        for status, count in sorted(outcome.statuses.items())
    ]
    others = (
        ("cut off", outcome.cut, "with a request under way"),
        ("unanswered", outcome.unanswered, ""),
        ("given up", outcome.given_up, "no connection was free within 5 s"),
    )
    return [*answered, *((f"  {name}", f"{count:,}", what) for name, count, what in others)]


def _times(outcome: Outcome, status: str) -> str:
    sent, due = outcome.since_sent_ms[status], outcome.since_due_ms[status]
    return (
        f"p50 {sent['p50']:,.0f} ms, p99 {sent['p99']:,.0f} ms since sent; "
        f"{due['p50']:,.0f} and {due['p99']:,.0f} ms since due"
    )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} × {what}" for what, count in sorted(counts.items()))
