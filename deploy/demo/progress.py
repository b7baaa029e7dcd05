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
from contracts.outcomes import OrderStatus, Reason
from deploy.demo.buyers import Tally
from deploy.progress import decided
from stock_ledger.figures import Figures, FigureStore
from stock_ledger.lifecycle import CLOSED

_EVERY_S = 0.25
_PLAIN_EVERY_S = 1.0
_WINDOW_S = 2.0
_COLOURS = {"created": "green", "refused": "magenta", "paid": "green", "closed": "magenta"}


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
                self._console.print(self._line(await self._sample()), highlight=False, soft_wrap=True)
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
        so_far = "  ".join(f"{what} {count:,}" for what, count in counts_of(s.figures).items())
        return (
            f"submitted {s.submitted:,}/{self._checkouts:,}  accepted {accepted:,.0f}/s  decided {decided:,.0f}/s  "
            f"lag {max(s.lines - s.decided, 0):,}  {so_far}"
        )

    def _panel(self, s: Snapshot) -> RenderableType:
        accepted, decided = self._rates(s)
        so_far = counts_of(s.figures)
        table = Table.grid(padding=(0, 3))
        for _ in range(3 + len(so_far)):
            table.add_column(justify="right")
        table.add_row("accepted/s", "decided/s", "lag", *so_far, style="dim")
        table.add_row(
            Text(f"{accepted:,.0f}", style="bold cyan"),
            Text(f"{decided:,.0f}", style="bold cyan"),
            Text(f"{max(s.lines - s.decided, 0):,}", style="bold yellow"),
            *(Text(f"{count:,}", style=f"bold {_COLOURS[what]}") for what, count in so_far.items()),
        )
        bar = ProgressBar(total=self._checkouts, completed=s.submitted, width=60)
        takings = "  ".join(f"{amount:,.2f} {currency}" for currency, amount in s.figures.takings.items())
        return Group(bar, table, Text(f"ordered so far: {takings or '-'}", style="dim"))


def counts_of(figures: Figures) -> dict[str, int]:
    """Lines that became orders or were refused; items of orders that were paid or closed, for whatever reason."""
    lines = figures.lines
    return {
        "created": lines.get("created", 0),
        "refused": sum(lines.get(reason, 0) for reason in Reason),
        "paid": lines.get(OrderStatus.PAID, 0),
        "closed": sum(lines.get(status, 0) for status in CLOSED),
    }
