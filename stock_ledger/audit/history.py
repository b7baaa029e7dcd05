"""What an audit knows of history that was dropped: what it came to, and where what is kept begins."""

from typing import NamedTuple

import msgspec

DROPPED = "history that was archived and dropped"
_NEAR_MS = (
    3600 * 1000
)  # a checkout's holds and its answer may lie on both sides of a cut, this far from it at most


class StockHistory(NamedTuple):
    """What the dropped ledger and orders of a product came to; after the entry `last_seq` so many were available."""

    product_id: str
    entries: int
    last_seq: int
    available: int
    given: int
    taken: int
    returned: int
    paid: int
    counted: int


class LogHistory(NamedTuple):
    """How many decisions of a partition were dropped, and the offset after the last of them; of both its logs."""

    decisions: int
    next_offset: int
    commands: int
    next_command: int


class History(msgspec.Struct, frozen=True):
    """`floor_ms`: what was decided before it is dropped, but for rows of clocks that were wrong; 0: nothing is.

    `pseudonyms` stand where the ids of buyers were whose data was erased.
    """

    floor_ms: int = 0
    stock: dict[str, StockHistory] = {}
    logs: dict[int, LogHistory] = {}
    pseudonyms: frozenset[str] = frozenset()

    def decided(self, partition: int, offset: int) -> bool:
        """Whether the decision at this place may have been dropped."""
        log = self.logs.get(partition)
        return log is not None and offset < log.next_offset

    def obeyed(self, partition: int, offset: int) -> bool:
        """Whether the command at this place may have been dropped."""
        log = self.logs.get(partition)
        return log is not None and offset < log.next_command

    def next_offset(self, partition: int) -> int:
        return self.logs[partition].next_offset if partition in self.logs else 0

    def next_command(self, partition: int) -> int:
        return self.logs[partition].next_command if partition in self.logs else 0

    def is_near(self, ms: int | None) -> bool:
        """Whether this moment lies so close to the cut that what belongs to it may have been dropped."""
        return self.floor_ms > 0 and ms is not None and ms < self.floor_ms + _NEAR_MS

    def had_order(self, order_id: str | None) -> bool:
        """Whether an order with this id may have been dropped."""
        ms = int((order_id or "ffffffff-ffff")[:13].replace("-", ""), 16)
        return ms < self.floor_ms

    def of_stock(self, product_id: str) -> StockHistory:
        return self.stock.get(product_id) or StockHistory(product_id, 0, 0, 0, 0, 0, 0, 0, 0)
