"""The report of a sale, for people."""

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.demo.run import Result


def render(console: Console, result: Result) -> None:
    """The funnel, what was refused and why, what became of the orders and the stock, the speed, the verdict."""
    for table in (_funnel(result), _reasons(result), _orders(result), _stock(result)):
        console.print(table)
    p50, p99 = result.decision_ms.get("p50", 0), result.decision_ms.get("p99", 0)
    console.print(
        f"Speed, with the buyers on the same machine: accepted {result.accept_per_s:,.0f}/s, decided "
        f"{result.decide_per_s:,.0f}/s; from accepted to decided and published p50 {p50:,.0f} ms, p99 {p99:,.0f} ms."
    )
    for line in result.unexpected:
        console.print(Text(f"unexpected: {line}", style="red"))
    for line in result.disagreements:
        console.print(Text(f"told and read differ: {line}", style="red"))
    verdict = (
        "Nothing lost, nothing oversold, nothing decided twice; every order ended as its buyer was told."
        if result.ok
        else "The sale did not hold."
    )
    console.print(Panel(Text(verdict, style="bold green" if result.ok else "bold red"), expand=False))


def _funnel(result: Result) -> Table:
    table = _table("The sale")
    table.add_row("submitted", f"{result.submitted:,}", "checkouts over HTTP, repeats included")
    for status, count in result.rejected_at_edge.items():
        table.add_row(f"  rejected at the edge, {status}", f"{count:,}", _EDGE.get(status, ""))
    table.add_row("accepted", f"{result.accepted:,}", "answered 202: in the log")
    table.add_row("decided", f"{result.decided:,}", "messages: one per product of a checkout")
    table.add_row("  created", f"{result.created:,}", "became an order each")
    table.add_row("  held", f"{result.held:,}", "until all of an all-or-nothing checkout are")
    table.add_row("  refused", f"{sum(result.refused.values()):,}", "with a reason")
    table.add_row("  repeated", f"{result.repeated:,}", "answered as the first time")
    table.add_row("  dead-lettered", f"{result.dead_lettered:,}", "")
    table.add_row("lost", f"{result.lost:,}", "accepted, but without an answer")
    table.add_row("oversold", f"{result.oversold:,}", "units sold that were not there")
    return table


_EDGE = {"409": "sold out: never reached the log", "422": "unknown or wrong fields", "400": "not JSON"}


def _reasons(result: Result) -> Table:
    table = _table("Why lines were refused")
    for reason, count in sorted(result.refused.items(), key=lambda item: -item[1]):
        table.add_row(reason, f"{count:,}", "")
    return table


def _orders(result: Result) -> Table:
    funnel = result.funnel
    table = _table("What became of the orders")
    table.add_row("orders", f"{funnel.orders:,}", f"{result.created:,} of a line, the others of held ones")
    table.add_row("  paid", f"{funnel.paid:,}", "of them, by the provider's signed callback")
    for status, count in funnel.statuses.items():
        table.add_row(f"at the end {status}", f"{count:,}", "")
    table.add_row("refunded", f"{funnel.payments.get('refunded', 0):,}", "paid, and closed or too late")
    for fate, count in result.fates.items():
        table.add_row(f"buyers: {fate}", f"{count:,}", "")
    for action, ends in result.commands.items():
        told = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()))
        table.add_row(f"asked to {action}", f"{sum(ends.values()):,}", told)
    return table


def _stock(result: Result) -> Table:
    stock = result.hot_stock
    table = _table("Stock of the hot product, in units")
    table.add_row("there were", f"{stock.given:,}", "")
    table.add_row("sold", f"{stock.taken:,}", "each time that a unit was")
    table.add_row("returned", f"{stock.returned:,}", "by orders that were closed, and holds given up")
    table.add_row("sold again", f"{stock.sold_again:,}", "more than there were, so they had returned")
    table.add_row("left", f"{stock.available:,}", "")
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, min_width=60)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    return table
