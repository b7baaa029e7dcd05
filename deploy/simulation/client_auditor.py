"""The auditor's part for clients: what they are told is so, and is no older than it may be."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from api.marks import CONFIRMED_FOR_S
from contracts.slices import product_of
from deploy.simulation.course import Course
from deploy.simulation.model import Model, Violation
from stock_ledger.fakes import MemoryLedger
from workers.fakes import MemoryBroker

# How long a writer may be silent, a look at the gates before that, and a write to a slow view on its way.
GATE_LAG_S = 1.5


class ClientAuditor:
    """Told of every answer, and of what it may come from. Its methods raise Violation. Times are seconds."""

    def __init__(
        self, broker: MemoryBroker, ledger: MemoryLedger, model: Model, time: Callable[[], float]
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._model = model
        self._time = time
        self._empty: set[str] = set()  # stock ids without stock
        self._known: set[str] = set()  # stock ids that there are: until then they were empty
        self._slices: dict[str, set[str]] = defaultdict(set)  # stock ids by product
        self._empty_at: dict[str, float] = {}  # when they were so last, while they are not
        self._set_back = (-math.inf, -math.inf)  # when the view last fell back, and to when
        self._decided = Course(range(broker.partitions))
        self._shown = Course(range(broker.partitions))  # by the view, since it was flushed

    def left(self, product_id: str, units: int) -> None:
        """So many are available in a slice, as Postgres has it."""
        self._slices[product_of(product_id)].add(product_id)
        if product_id in self._empty or product_id not in self._known:
            self._known.add(product_id)
            self._empty_at[product_id] = self._time()
        (self._empty.add if units <= 0 else self._empty.discard)(product_id)

    def decided(self, partition: int, next_offset: int) -> None:
        """So far the partition is decided."""
        self._decided.reached(partition, next_offset, self._time())

    def shown(self, partition: int, next_offset: int) -> None:
        """So far the view tells that it is."""
        self._shown.reached(partition, next_offset, self._time())

    def view_set_back(self, to: float) -> None:
        """The view fell back to what it was at this time."""
        self._set_back = (self._time(), min(to, self._seen_since(to)))

    def view_flushed(self) -> None:
        self._shown.forget()

    def accepted(self, checkout_id: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """A 202: each line lies where it says."""
        own = f'"checkout_id":"{checkout_id}"'.encode()
        for line in lines:
            p, offset = line["partition"], line["offset"]
            if offset >= self._broker.end(p):
                raise Violation(f"202 for {checkout_id}, but {p}:{offset} is not in the log")
            message = self._broker.messages[p][offset - self._broker.first[p]]
            if (
                own not in (message.value or b"")
                or product_of((message.key or b"").decode()) != line["product_id"]
            ):
                raise Violation(f"202 for {checkout_id}, but {p}:{offset} is another's")

    def refused_at_the_edge(self, product_ids: Iterable[str], policy: str, asked_at: float) -> None:
        """A 409: nothing is left of any of it in any slice, or of some of it where all is wanted. Or that was so when it was asked,
        or a moment before: what comes back is seen with the next look. After the view fell back, what it was then
        counts, until writers have rebuilt it or its edge has seen it stand still.
        """
        since = self._seen_since(asked_at - GATE_LAG_S)
        enough = all if policy == "independent" else any
        if not enough(self._was_empty(product_id, since) for product_id in product_ids):
            raise Violation(f"refused as sold out ({policy}), but enough of {product_ids} is left")

    def _seen_since(self, time: float) -> float:
        """When what the edge saw at this time may have been so."""
        set_back_at, to = self._set_back
        return min(time, to - GATE_LAG_S) if time < set_back_at else time

    def _was_empty(self, product_id: str, since: float) -> bool:
        return all(self._slice_was_empty(i, since) for i in self._slices.get(product_id) or {product_id})

    def _slice_was_empty(self, stock_id: str, since: float) -> bool:
        left = self._model.available.get(stock_id, [1])[-1]
        return left <= 0 or self._empty_at.get(stock_id, -math.inf) >= since

    def waits(self, partition: int, offset: int, ahead: int, asked_at: float, *, by_postgres: bool) -> None:
        """A line has so many before it, as who asked at this time is told. That is not older than it may be.

        With Postgres at hand (`by_postgres`) the place is known as it was CONFIRMED_FOR_S before. Without, it is at
        least what the view told then, even if it has fallen back: who saw that it was gone must not believe it.
        """
        known = self._decided if by_postgres else self._shown
        next_offset = known.at(partition, asked_at - CONFIRMED_FOR_S)
        if ahead > max(0, offset - next_offset):
            raise Violation(
                f"{partition}:{offset} is told to wait for {ahead}, though {next_offset} was known "
                f"{CONFIRMED_FOR_S} s before"
            )

    def answered(
        self, partition: int, offset: int, status: str, reason: str | None, order_id: str | None
    ) -> None:
        """A final answer of a line, that says it was decided at this place."""
        decision = self._ledger.decided.get((partition, offset))
        if decision is None:
            raise Violation(f"{partition}:{offset} is answered {status}, but not decided")
        own = (
            None if decision.reason is None else decision.reason.value,
            None if decision.order is None else decision.order.order_id,
        )
        if (reason, order_id) != own:
            raise Violation(f"{partition}:{offset} is answered {status}, but is {decision.kind}")
