"""What the edge knows from the view: what is sold out, who has slices, and which payload came under an idempotency key.

All fail open: without the cache, or with one that is behind, every checkout goes to the log, whose writer decides.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence

from contracts.errors import Unavailable
from contracts.settings import Settings
from contracts.slices import stock_ids
from contracts.topics import partition_of
from ingest.backpressure import Backpressure
from stock_ledger.view import Gate, Progress, View

logger = logging.getLogger(__name__)

_NOTHING = (frozenset[str](), 0.0)


class SoldOutGate:
    """A copy of what is sold out and of the products with slices, refreshed every `gate_refresh_ms`.

    `slices` is how many slices a product has, if it has several. What a partition told of it is kept while the view has
    nothing of that partition.

    A partition's sold-out list counts only while its writer is seen to live: its progress has changed within `gate_stale_s`.
    The first look tells nothing of that: what it finds may have stood still for long. Nor does a look of before this
    process was stopped for a while.
    Hands the progress on to `backpressure`.
    """

    def __init__(
        self, view: View, settings: Settings, monotonic: Callable[[], float], backpressure: Backpressure
    ) -> None:
        self._view = view
        self._settings = settings
        self._monotonic = monotonic
        self._backpressure = backpressure
        self._seen: dict[int, tuple[Progress, float]] = {}
        self._sold_out: dict[int, tuple[frozenset[str], float]] = {}  # by partition, and until when it counts
        self._shown_slices: dict[int, Mapping[str, int]] = {}  # by partition, and product
        self.slices: Mapping[str, int] = {}
        self.problem = "not refreshed yet"

    def hopeless(self, product_ids: Sequence[str], policy: str) -> Sequence[str]:
        """Those surely shown as sold out now, if a checkout of the products can only be refused for them: they are all
        of them, or it is all or nothing. None if there is hope.
        """
        if not self._sold_out:
            return ()
        sold_out = [i for i in product_ids if self._is_sold_out(i) and self._are_other_slices_sold_out(i)]
        return () if policy == "independent" and len(sold_out) < len(product_ids) else sold_out

    def _is_sold_out(self, stock_id: str) -> bool:
        sold_out, until = self._sold_out.get(partition_of(stock_id, self._settings.partitions), _NOTHING)
        return stock_id in sold_out and self._monotonic() < until

    def _are_other_slices_sold_out(self, product_id: str) -> bool:
        return all(self._is_sold_out(i) for i in stock_ids(product_id, self.slices.get(product_id, 1))[1:])

    async def refresh(self) -> None:
        """Read the gates once. Opens all of them if the cache does not answer. What is seen counts from the question."""
        now = self._monotonic()
        try:
            gates = await self._view.gates(range(self._settings.partitions))
        except Unavailable as error:
            if self.problem != str(error):
                logger.warning("the sold-out gate stands open: %s", error, extra={"action": "gate_open"})
            self.problem = str(error)
            self._sold_out, self._seen = {}, {}
            self._backpressure.shown({}, ())
            return
        living: dict[int, Gate] = {}
        for partition, gate in gates.items():
            if gate.progress is None:
                self._seen.pop(partition, None)
                continue
            self._shown_slices[partition] = gate.slices
            progress, since = self._seen.get(partition, (gate.progress, -math.inf))
            if progress != gate.progress:
                progress, since = gate.progress, now
            self._seen[partition] = (progress, since)
            if now - since < self._settings.gate_stale_s:
                living[partition] = gate
        self._sold_out = {
            p: (gate.sold_out, self._seen[p][1] + self._settings.gate_stale_s)
            for p, gate in living.items()
            if gate.sold_out
        }
        self.slices = {i: count for shown in self._shown_slices.values() for i, count in shown.items()}
        self._backpressure.shown({p: progress for p, (progress, _) in self._seen.items()}, living)
        self.problem = ""

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self.refresh()
            pause_s = self._settings.cache_retry_s if self.problem else self._settings.gate_refresh_ms / 1000
            await asyncio.sleep(pause_s)


class PayloadMemory:
    """Tells which payload came first under a checkout id. A cache that failed is left alone for `cache_retry_s`."""

    def __init__(self, view: View, settings: Settings, monotonic: Callable[[], float]) -> None:
        self._view = view
        self._settings = settings
        self._monotonic = monotonic
        self._away_until = 0.0

    async def remember(self, payloads: Sequence[tuple[str, str]]) -> dict[int, str]:
        """For (checkout_id, hash): keep the hash if none is kept. An empty hash only asks.

        Gives the hashes that were there before, each by its place among the payloads; none where no cache answers.
        """
        if payloads and self._monotonic() >= self._away_until:
            try:
                return await self._view.remember_payloads(payloads)
            except Unavailable as error:
                self._away_until = self._monotonic() + self._settings.cache_retry_s
                logger.warning(
                    "idempotency is left to the writers: %s", error, extra={"action": "payloads_away"}
                )
        return {}
