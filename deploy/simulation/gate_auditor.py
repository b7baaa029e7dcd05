"""The auditor's part for the edge: who is refused as sold out there is refused for what was so, and was shown, lately."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from contracts.slices import product_of
from contracts.topics import partition_of
from deploy.simulation.model import Model, Violation
from stock_ledger.view import Gate, Progress

# How long a writer may be silent, a look at the gates before that, and a write to a slow view on its way.
GATE_LAG_S = 1.5


class GateAuditor:
    """Told of all stock, of every change of the view, and of every 409. Its methods raise Violation. Times are seconds."""

    def __init__(self, model: Model, time: Callable[[], float], partitions: int, stale_s: float) -> None:
        self._model = model
        self._time = time
        self._stale_s = stale_s
        self._empty: set[str] = set()  # stock ids without stock
        self._known: set[str] = set()  # stock ids that there are: until then they were empty
        self._slices: dict[str, set[str]] = defaultdict(set)  # stock ids by product
        self._empty_at: dict[str, float] = {}  # when they were so last, while they are not
        self._set_back = (-math.inf, -math.inf)  # when the view last fell back, and to when
        # By partition, what the view shows as sold out, its progress, and when that last changed.
        self._shut: dict[int, frozenset[str]] = dict.fromkeys(range(partitions), frozenset())
        self._progress: dict[int, Progress | None] = dict.fromkeys(range(partitions))
        self._moved_at = dict.fromkeys(range(partitions), -math.inf)
        self._shut_at: dict[str, float] = {}  # when a stock id was last shown as sold out, while it is not

    def left(self, product_id: str, units: int) -> None:
        """So many are available in a slice, as Postgres has it."""
        self._slices[product_of(product_id)].add(product_id)
        if product_id in self._empty or product_id not in self._known:
            self._known.add(product_id)
            self._empty_at[product_id] = self._time()
        (self._empty.add if units <= 0 else self._empty.discard)(product_id)

    def shown(self, partition: int, gate: Gate) -> None:
        """The view has this of a partition now."""
        for stock_id in self._shut[partition] - gate.sold_out:
            self._shut_at[stock_id] = self._time()
        self._shut[partition] = gate.sold_out
        if gate.progress != self._progress[partition]:
            self._progress[partition], self._moved_at[partition] = gate.progress, self._time()

    def view_set_back(self, to: float) -> None:
        """The view fell back to what it was at this time."""
        self._set_back = (self._time(), min(to, self._seen_since(to)))

    def refused(self, product_ids: Sequence[str], policy: str, asked_at: float, edge_since: float) -> None:
        """A 409 of an ingest process that runs since then: nothing is left of any of it in any slice, or of some of it where all
        is wanted. Or that was so when it was asked, or a moment before: what comes back is seen with the next look. After
        the view fell back, what it was then counts, until writers have rebuilt it or its edge has seen it stand still.

        And the view showed that no longer before than a look counts, and has moved since the process is there.
        """
        since = self._seen_since(asked_at - GATE_LAG_S)
        enough = all if policy == "independent" else any
        if not enough(self._was_empty(product_id, since) for product_id in product_ids):
            raise Violation(f"refused as sold out ({policy}), but enough of {product_ids} is left")
        if not enough(self._was_shut(i, asked_at - self._stale_s, edge_since) for i in product_ids):
            raise Violation(
                f"refused as sold out ({policy}), but no living writer shows that of {product_ids}"
            )

    def _seen_since(self, time: float) -> float:
        """When what the edge saw at this time may have been so."""
        set_back_at, to = self._set_back
        return min(time, to - GATE_LAG_S) if time < set_back_at else time

    def _was_empty(self, product_id: str, since: float) -> bool:
        return all(self._slice_was_empty(i, since) for i in self._slices.get(product_id) or {product_id})

    def _slice_was_empty(self, stock_id: str, since: float) -> bool:
        left = self._model.available.get(stock_id, [1])[-1]
        return left <= 0 or self._empty_at.get(stock_id, -math.inf) >= since

    def _was_shut(self, product_id: str, since: float, edge_since: float) -> bool:
        partition = partition_of(product_id, len(self._shut))
        is_shut = product_id in self._shut[partition] or self._shut_at.get(product_id, -math.inf) >= since
        return is_shut and self._moved_at[partition] > edge_since
