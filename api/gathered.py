"""Polls that come together are one read of the view."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from contracts.errors import Unavailable
from stock_ledger.view import CheckoutsView, CheckoutView, Progress

CHECKOUTS_MAX = 100  # of one read: the cache does nothing else meanwhile


class Shown(Protocol):
    """What is needed of `stock_ledger.view.View`."""

    async def progress(self, partitions: Sequence[int]) -> dict[int, Progress]: ...

    async def checkouts(self, checkout_ids: Sequence[str], partitions: Sequence[int]) -> CheckoutsView: ...


class GatheredPolls:
    """One read at a time: what is asked for meanwhile is gathered for the next one, so that a read costs the less for
    each the more there are.
    """

    def __init__(self, view: Shown) -> None:
        self._view = view
        self._waiting: list[tuple[str, Sequence[int], asyncio.Future[CheckoutView]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def checkout(self, checkout_id: str, partitions: Sequence[int]) -> CheckoutView:
        """Its documents, and the progress of these partitions, among others. Raises Unavailable."""
        answer: asyncio.Future[CheckoutView] = asyncio.get_running_loop().create_future()
        self._waiting.append((checkout_id, partitions, answer))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await answer

    async def _read(self) -> None:
        try:
            while self._waiting:
                polls, self._waiting = self._waiting[:CHECKOUTS_MAX], self._waiting[CHECKOUTS_MAX:]
                partitions = sorted({p for _, of_one, _ in polls for p in of_one})
                try:
                    view = await self._view.checkouts(
                        [checkout_id for checkout_id, _, _ in polls], partitions
                    )
                except Exception as error:  # noqa: BLE001 - each poll raises it
                    if isinstance(error, Unavailable):
                        # The others would meet the same silence, one read after the other.
                        polls += self._waiting
                        self._waiting = []
                    for _, _, answer in polls:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                for (_, _, answer), results in zip(polls, view.results, strict=True):
                    if not answer.done():
                        answer.set_result(CheckoutView(results, view.progress))
        finally:
            self._reading = None
