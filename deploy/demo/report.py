"""The report of a sale, for people."""

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.demo.run import Result


def render(console: Console, result: Result) -> None:
    """The funnel, what was refused and why, the speed, the verdict."""
    console.print(_funnel(result))
    console.print(_reasons(result))
    p50, p99 = result.decision_ms.get("p50", 0), result.decision_ms.get("p99", 0)
    console.print(
        f"Speed, with the buyers on the same machine: accepted {result.accept_per_s:,.0f}/s, decided "
        f"{result.decide_per_s:,.0f}/s; from accepted to decided and published p50 {p50:,.0f} ms, p99 {p99:,.0f} ms."
    )
    for line in result.unexpected:
        console.print(Text(f"unexpected: {line}", style="red"))
    verdict = (
        "Nothing lost, nothing oversold, nothing decided twice." if result.ok else "The sale did not hold."
    )
    console.print(Panel(Text(verdict, style="bold green" if result.ok else "bold red"), expand=False))


def _funnel(result: Result) -> Table:
    table = Table(title="The sale", title_justify="left", show_header=False, min_width=60)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("submitted", f"{result.submitted:,}", "checkouts over HTTP, repeats included")
    for status, count in result.rejected_at_edge.items():
        table.add_row(f"  rejected at the edge, {status}", f"{count:,}", _EDGE.get(status, ""))
    table.add_row("accepted", f"{result.accepted:,}", "answered 202: in the log")
    table.add_row("decided", f"{result.decided:,}", "messages: one per product of a checkout")
    table.add_row("  orders created", f"{result.created:,}", "")
    table.add_row("  refused", f"{sum(result.refused.values()):,}", "with a reason")
    table.add_row("  repeated", f"{result.repeated:,}", "answered as the first time")
    table.add_row("  dead-lettered", f"{result.dead_lettered:,}", "")
    table.add_row("lost", f"{result.lost:,}", "accepted, but without an answer")
    table.add_row("oversold", f"{result.oversold:,}", "units sold that were not there")
    return table


_EDGE = {"409": "sold out: never reached the log", "422": "unknown or wrong fields", "400": "not JSON"}


def _reasons(result: Result) -> Table:
    table = Table(title="Why lines were refused", title_justify="left", show_header=False, min_width=60)
    table.add_column()
    table.add_column(justify="right")
    for reason, count in sorted(result.refused.items(), key=lambda item: -item[1]):
        table.add_row(reason, f"{count:,}")
    return table
