"""The auditor's part for clients: what they are told is so, and is no older than it may be."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from api.marks import CONFIRMED_FOR_S
from contracts.outcomes import Kind
from contracts.requests import CreatedLine, DeadLetteredLine, RefusedLine
from contracts.slices import product_of
from deploy.simulation.course import Course
from deploy.simulation.model import Violation
from stock_ledger.fakes import MemoryLedger
from workers.fakes import MemoryBroker


class ClientAuditor:
    """Told of every answer, and of what it may come from. Its methods raise Violation. Times are seconds."""

    def __init__(self, broker: MemoryBroker, ledger: MemoryLedger, time: Callable[[], float]) -> None:
        self._broker = broker
        self._ledger = ledger
        self._time = time
        self._decided = Course(range(broker.partitions))
        self._shown = Course(range(broker.partitions))  # by the view, since it was flushed
        self._set_back_at = -math.inf  # when the view last fell back
        self._told_at: dict[tuple[str, int], float] = {}  # when Postgres last told a process of a partition

    def decided(self, partition: int, next_offset: int) -> None:
        """So far the partition is decided."""
        self._decided.reached(partition, next_offset, self._time())

    def shown(self, partition: int, next_offset: int) -> None:
        """So far the view tells that it is."""
        self._shown.reached(partition, next_offset, self._time())

    def told(self, process: str, partitions: Sequence[int]) -> None:
        """Postgres has told it how far these are decided."""
        self._told_at |= {(process, p): self._time() for p in partitions}

    def view_set_back(self) -> None:
        self._set_back_at = self._time()

    def view_flushed(self) -> None:
        self._shown.forget()

    def accepted(
        self, checkout_id: str, buyer_id: str, items: Mapping[str, int], lines: Sequence[Mapping[str, Any]]
    ) -> None:
        """A 202 for so many units of each product: each is a line that lies where it says."""
        if {line["product_id"]: line["quantity"] for line in lines} != items or len(lines) != len(items):
            raise Violation(f"202 for {checkout_id}: {lines}, but {items} were asked for")
        for line in lines:
            p, offset = line["partition"], line["offset"]
            if offset >= self._broker.end(p):
                raise Violation(f"202 for {checkout_id}, but {p}:{offset} is not in the log")
            message = self._broker.messages[p][offset - self._broker.first[p]]
            written = orjson.loads(message.value or b"null")
            asked = {"checkout_id": checkout_id, "buyer_id": buyer_id} | {
                name: line[name] for name in ("product_id", "quantity")
            }
            if not asked.items() <= written.items() or product_of(message.key.decode()) != line["product_id"]:
                raise Violation(f"202 for {checkout_id}, but at {p}:{offset} is {written}, not {asked}")

    def waits(
        self, process: str, partition: int, offset: int, ahead: int, asked_at: float, *, by_postgres: bool
    ) -> None:
        """A line has so many before it, as who asked this process at this time is told. That is not older than it may be.

        With Postgres at hand (`by_postgres`) the place is known as it was CONFIRMED_FOR_S before. Without, it is at
        least what the view told then, even if it has fallen back: who saw that it was gone must not believe it, until
        Postgres has told how far the partition is since.
        """
        if ahead:
            self._is_grounded(process, partition, asked_at)
        known = self._decided if by_postgres else self._shown
        next_offset = known.at(partition, asked_at - CONFIRMED_FOR_S)
        if ahead > max(0, offset - next_offset):
            raise Violation(
                f"{partition}:{offset} is told to wait for {ahead}, though {next_offset} was known "
                f"{CONFIRMED_FOR_S} s before"
            )

    def _is_grounded(self, process: str, partition: int, asked_at: float) -> None:
        """It may not go by a view that fell back, unless Postgres has told it more since, or just before it was asked."""
        told_at = self._told_at.get((process, partition), -math.inf)
        if asked_at > self._set_back_at > told_at and told_at < asked_at - CONFIRMED_FOR_S:
            raise Violation(
                f"{process} tells places in partition {partition} by a view that fell back at {self._set_back_at}: "
                f"Postgres told it of them at {told_at}"
            )

    def answered(self, checkout_id: str, line: CreatedLine | RefusedLine | DeadLetteredLine) -> None:
        """A final answer of a line of a checkout, that says where it was decided."""
        place = f"{line.partition}:{line.offset}"
        decision = self._ledger.decided.get((line.partition, line.offset))
        if decision is None:
            raise Violation(f"{place} is answered {line}, but not decided")
        own = (
            decision.checkout_id,
            decision.product_id,
            decision.reason,
            decision.order and decision.order.order_id,
        )
        told: tuple[object, ...]
        match line:
            case CreatedLine():
                kinds, told = {Kind.CREATED}, (checkout_id, line.product_id, None, line.order.order_id)
            case RefusedLine():
                kinds, told = {Kind.REFUSED, Kind.CONFLICT}, (checkout_id, line.product_id, line.reason, None)
            case DeadLetteredLine():
                kinds, told = {Kind.DEAD}, (None, None, None, None)
        if decision.kind not in kinds or told != own:
            raise Violation(f"{place} is answered {line}, but is {decision.kind}: {own}")
