"""The auditor's part for the edge: who is refused as sold out there is refused for what was so, and was seen, lately."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import msgspec

from contracts.slices import product_of
from contracts.topics import partition_of
from deploy.simulation.model import Model, Violation
from stock_ledger.view import Gate, Progress

# How long a writer may be silent, a look at the gates before that, and a write to a slow view on its way.
_LAG_S = 1.5


class Seen(msgspec.Struct):
    """What an ingest process has seen of a partition: its progress, when that was another than before, and what was
    last shown as sold out at what time.
    """

    progress: Progress | None = None
    alive_at: float = -math.inf
    shut_at: dict[str, float] = {}


class GateAuditor:
    """Told of all stock, of every look at the gates, and of every 409. Its methods raise Violation. Times are seconds."""

    def __init__(self, model: Model, time: Callable[[], float], partitions: int, stale_s: float) -> None:
        self._model = model
        self._time = time
        self._partitions = partitions
        self._stale_s = stale_s
        self._empty: set[str] = set()  # stock ids without stock
        self._slices: dict[str, set[str]] = defaultdict(set)  # stock ids that there are, by product
        self._empty_at: dict[str, float] = {}  # when they were so last, while they are not
        self._set_back = (-math.inf, -math.inf)  # when the view last fell back, and to when
        self._seen: dict[tuple[str, int], Seen] = defaultdict(Seen)  # by process and partition

    def left(self, stock_id: str, units: int) -> None:
        """So many are available in a slice, as Postgres has it. Until it is there it is empty."""
        known = self._slices[product_of(stock_id)]
        if stock_id in self._empty or stock_id not in known:
            known.add(stock_id)
            self._empty_at[stock_id] = self._time()
        (self._empty.add if units <= 0 else self._empty.discard)(stock_id)

    def view_set_back(self, to: float) -> None:
        """The view fell back to what it was at this time."""
        self._set_back = (self._time(), min(to, self._seen_since(to)))

    def looked(self, process: str, gates: Mapping[int, Gate]) -> None:
        """An ingest process was shown these."""
        now = self._time()
        for partition, gate in gates.items():
            seen = self._seen[process, partition]
            if None not in (seen.progress, gate.progress) and seen.progress != gate.progress:
                seen.alive_at = now
            seen.progress = gate.progress
            seen.shut_at |= dict.fromkeys(gate.sold_out, now)

    def refused(self, process: str, product_ids: Sequence[str], policy: str, asked_at: float) -> None:
        """A 409: nothing is left of any of it in any slice, or of some of it where all is wanted. Or that was so when it was
        asked, or a moment before: what comes back is seen with the next look. After the view fell back, what it was then
        counts, until writers have rebuilt it or its edge has seen it stand still.

        And the process has seen the products, in their first slices, as sold out no longer before than a look counts,
        and their writers live.
        """
        since = self._seen_since(asked_at - _LAG_S)
        enough = all if policy == "independent" else any
        if not enough(self._was_empty(product_id, since) for product_id in product_ids):
            raise Violation(f"refused as sold out ({policy}), but enough of {product_ids} is left")
        if not enough(self._was_shut(process, product_id, asked_at) for product_id in product_ids):
            raise Violation(
                f"refused as sold out ({policy}), but {process} has not seen that of {product_ids} for too long"
            )

    def _seen_since(self, time: float) -> float:
        """When what the edge saw at this time may have been so."""
        set_back_at, to = self._set_back
        return min(time, to - _LAG_S) if time < set_back_at else time

    def _was_empty(self, product_id: str, since: float) -> bool:
        return all(self._slice_was_empty(i, since) for i in self._slices.get(product_id) or {product_id})

    def _slice_was_empty(self, stock_id: str, since: float) -> bool:
        left = self._model.available.get(stock_id, [1])[-1]
        return left <= 0 or self._empty_at.get(stock_id, -math.inf) >= since

    def _was_shut(self, process: str, product_id: str, asked_at: float) -> bool:
        seen = self._seen[process, partition_of(product_id, self._partitions)]
        return min(seen.alive_at, seen.shut_at.get(product_id, -math.inf)) > asked_at - self._stale_s
