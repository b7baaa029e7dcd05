"""The ledger as the commands' lane sees it: what to load, what to persist. Postgres is its real adapter."""

from collections.abc import Sequence
from typing import Protocol

from stock_ledger.commands.book import Book, Need, Obeyed, Told
from stock_ledger.ledger import Advance


class CommandLedger(Protocol):
    """Every method raises Unavailable when the server does not answer; persist's effect is then unknown."""

    async def load(self, need: Need) -> Book:
        """All that deciding needs: what is named, and the products of the orders."""
        ...

    async def persist(self, advances: Sequence[Advance], obeyed: Obeyed) -> None:
        """All of a batch, or nothing.

        Raises FenceLost if a partition is no longer ours or not at its claim's next command, StaleView if stock,
        catalogue or an order is not what was loaded; in both cases nothing was written. Raises Unavailable if the
        connection broke: whether it was written is then for `Ledger.state` to say.
        """
        ...

    async def told(self, partition: int, start: int, end: int) -> list[Told]:
        """What the commands at offsets start ≤ offset < end had told, in order."""
        ...
