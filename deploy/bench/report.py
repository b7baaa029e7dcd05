"""The rows of a measurement for people: a table, and a plot of how much of each goal is reached."""

import io
import re
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from deploy.bench import machine as machines
from deploy.bench.machine import Machine
from deploy.bench.rounds import Row, figure

_BAR_CHARS = 40
_BAR_SHARE = 2.0  # of the goal at a bar's right end
_PLOT_CHARS = 130
_FONT = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)  # from elsewhere: the plot is to be whole by itself


def render(console: Console, rows: Sequence[Row], machine: Machine) -> None:
    """The table, the machine, and how many goals are met."""
    console.print(table(rows))
    console.print(machines.text(machine), style="dim", highlight=False, markup=False)
    goals = [row for row in rows if row.goal is not None]
    missed = sum(not row.met for row in goals)
    console.print(
        f"{len(goals) - missed} of {len(goals)} goals met, {missed} missed"
        if missed
        else f"all {len(goals)} goals met"
    )


def table(rows: Sequence[Row]) -> Table:
    made = Table(
        title="Medians; ratios of each round, in brackets from lowest to highest", title_justify="left"
    )
    for column in ("suite", "what", "measured", "beside", "ratio", "goal", ""):
        made.add_column(column, justify="left" if column in ("suite", "what", "beside", "") else "right")
    before = ""
    for row in rows:
        if before not in ("", row.suite):
            made.add_section()
        made.add_row("" if row.suite == before else row.suite, *_cells(row))
        before = row.suite
    return made


def markdown(rows: Sequence[Row]) -> str:
    """The same as a table of a document."""
    lines = ["| suite | what | measured | beside | ratio | goal | |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {row.suite} | {' | '.join(_plain(cell) for cell in _cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Row], machine: Machine) -> str:
    """An SVG of a bar for every row with a goal: how much of it is reached, up to twice the goal."""
    console = Console(record=True, file=io.StringIO(), width=_PLOT_CHARS, color_system="truecolor")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True)
    for row in rows:
        if row.goal is not None:
            grid.add_row(
                Text(f"{row.suite}: {row.what}", overflow="ellipsis"),
                f"{figure(row.ratio)} ({row.goal.text()})",
                _bar(row.goal.share(row.ratio)),
            )
    console.print(grid)
    console.print(Text("│ the goal   █ met   █ missed", style="dim"))
    console.print(Text(machines.text(machine), style="dim"))
    made = console.export_svg(title="sluiceway bench: how much of each goal is reached", unique_id="bench")
    return _FONT.sub("", made)


def _bar(share: float) -> Text:
    """A bar whose middle is the goal."""
    filled = round(min(share, _BAR_SHARE) / _BAR_SHARE * _BAR_CHARS)
    goal_at = round(_BAR_CHARS / _BAR_SHARE)
    colour = "green" if share >= 1 else "red"
    bar = Text("█" * filled, style=colour) + Text(" " * (_BAR_CHARS - filled))
    bar = bar[:goal_at] + Text("│", style="bold") + bar[goal_at:]
    return bar + Text("▶" if share > _BAR_SHARE else " ", style=colour)


def _cells(row: Row) -> tuple[str, str, str, str, str, str]:
    spread = f" ({figure(row.ratio_min)}–{figure(row.ratio_max)})" if row.rounds > 1 else ""
    verdict = "" if row.met is None else "[green]met[/]" if row.met else "[red]missed[/]"
    return (
        escape(row.what),
        _told(row.measured, row.unit),
        escape(f"{row.beside}: {_told(row.other, row.unit)}"),
        f"{figure(row.ratio)}{spread}",
        "" if row.goal is None else row.goal.text(),
        verdict,
    )


def _told(value: float, unit: str) -> str:
    return f"{figure(value)}{unit if unit.startswith('/') else ' ' + unit}"


def _plain(cell: str) -> str:
    return Text.from_markup(cell).plain
