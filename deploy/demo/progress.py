"""What a sale looks like while it runs."""

import asyncio
import time
from typing import Any

import asyncpg
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contracts.errors import Unavailable
from deploy.demo.buyers import Tally
from deploy.progress import decided
from stock_ledger.figures import Figures, FigureStore

_EVERY_S = 0.25
_PLAIN_EVERY_S = 1.0
_WINDOW_S = 2.0


class Snapshot(msgspec.Struct, frozen=True):
    """Counts at a moment: decided messages, and the live figures."""

    at: float
    submitted: int
    accepted: int
    lines: int
    decided: int
    figures: Figures


class Progress:
    """Samples a running sale and shows it: live on a terminal, a line a second elsewhere."""

    def __init__(self, console: Console, pool: "asyncpg.Pool[Any]", tally: Tally, checkouts: int) -> None:
        self._console = console
        self._pool = pool
        self._figures = FigureStore(pool)
        self._tally = tally
        self._checkouts = checkouts
        self._seen: list[Snapshot] = []
        self._decided = 0
        self._folded = Figures({}, {})

    async def run(self) -> None:
        """Show until cancelled."""
        if not self._console.is_terminal:
            while True:
                await asyncio.sleep(_PLAIN_EVERY_S)
                self._console.print(self._line(await self._sample()), highlight=False)
        with Live(console=self._console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self._panel(await self._sample()), refresh=True)
                await asyncio.sleep(_EVERY_S)

    async def _sample(self) -> Snapshot:
        try:
            self._decided = await decided(self._pool)
            self._folded = await self._figures.read()
        except Unavailable:
            self._console.log("Postgres does not answer; the display waits for it")
        snapshot = Snapshot(
            time.monotonic(),
            self._tally.submitted,
            self._tally.accepted,
            self._tally.lines,
            self._decided,
            self._folded,
        )
        self._seen = [s for s in self._seen if snapshot.at - s.at < _WINDOW_S] + [snapshot]
        return snapshot

    def _rates(self, now: Snapshot) -> tuple[float, float]:
        """(accepted, decided) per second over the window."""
        first = self._seen[0]
        elapsed = now.at - first.at
        if elapsed <= 0:
            return 0.0, 0.0
        return (now.accepted - first.accepted) / elapsed, (now.decided - first.decided) / elapsed

    def _line(self, s: Snapshot) -> str:
        accepted, decided = self._rates(s)
        created, refused = created_refused(s.figures)
        return (
            f"submitted {s.submitted:,}/{self._checkouts:,}  accepted {accepted:,.0f}/s  decided {decided:,.0f}/s  "
            f"lag {max(s.lines - s.decided, 0):,}  created {created:,}  refused {refused:,}"
        )

    def _panel(self, s: Snapshot) -> RenderableType:
        accepted, decided = self._rates(s)
        created, refused = created_refused(s.figures)
        table = Table.grid(padding=(0, 3))
        for _ in range(5):
            table.add_column(justify="right")
        table.add_row("accepted/s", "decided/s", "lag", "created", "refused", style="dim")
        table.add_row(
            Text(f"{accepted:,.0f}", style="bold cyan"),
            Text(f"{decided:,.0f}", style="bold cyan"),
            Text(f"{max(s.lines - s.decided, 0):,}", style="bold yellow"),
            Text(f"{created:,}", style="bold green"),
            Text(f"{refused:,}", style="bold magenta"),
        )
        bar = ProgressBar(total=self._checkouts, completed=s.submitted, width=60)
        takings = "  ".join(f"{amount:,.2f} {currency}" for currency, amount in s.figures.takings.items())
        return Group(bar, table, Text(f"ordered so far: {takings or '-'}", style="dim"))


def created_refused(figures: Figures) -> tuple[int, int]:
    created = figures.lines.get("created", 0)
    return created, sum(figures.lines.values()) - created
