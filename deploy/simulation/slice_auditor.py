"""The auditor's part for slices: what is sent on between them gets there, and all of them come to know how many there are."""

from collections.abc import Mapping, Sequence

from contracts.decisions import Decision
from contracts.kafka import Record
from contracts.messages import read_checkout_line
from contracts.outcomes import Kind
from contracts.slices import product_of, slice_of
from contracts.topics import partition_of
from deploy.simulation.model import Model, Violation
from stock_ledger.fakes import MemoryLedger
from stock_ledger.view_fakes import MemoryView
from workers.fakes import MemoryBroker

Sent = tuple[int, bytes | None, bytes | None]  # partition, key, value


class SliceAuditor:
    """Told of every decision, of what is sent, and of what is shown. Its methods raise Violation."""

    def __init__(self, broker: MemoryBroker, ledger: MemoryLedger, view: MemoryView, model: Model) -> None:
        self._broker = broker
        self._ledger = ledger
        self._view = view
        self._model = model
        self._to_send: set[Sent] = set()
        self._sent: set[Sent] = set()

    def decided(self, decision: Decision) -> None:
        if decision.kind is Kind.FORWARDED:
            self._to_send.add(self._onward(decision))

    def was_sent_on(self, messages: Mapping[int, Sequence[Record]]) -> None:
        for partition, records in messages.items():
            for key, value, _ in records:
                if (partition, key, value) not in self._to_send:
                    raise Violation(f"sent on to partition {partition}, as nothing was decided: {value!r}")
                self._sent.add((partition, key, value))

    def is_sent_on(self, decision: Decision) -> None:
        """What was forwarded is in the log of the other slice."""
        if self._onward(decision) not in self._sent:
            raise Violation(f"{decision.partition}:{decision.offset} is committed, but it is not sent on")

    def shown(self, partition: int) -> None:
        """The view tells of slices that there are, and only of the product's first one."""
        for product_id, count in self._view.gate(partition).slices.items():
            goods = self._model.goods[product_id]
            if count != goods.slices or not goods.is_open or slice_of(product_id):
                raise Violation(f"the view has {count} slices of {product_id}, which is {goods}")

    def finish(self) -> None:
        """Every line that was sent on is decided, or in conflict with one; every slice knows of all, and shows it."""
        for stock_id, partition in self._ledger.partitions.items():
            first, own = self._model.goods[product_of(stock_id)], self._model.goods[stock_id]
            if (own.slices, own.version, own.is_open) != (first.slices, first.version, True):
                raise Violation(f"{stock_id} is {own}, but the first slice {first}")
            shown = self._view.gate(partition).slices.get(stock_id, 1)
            if shown != (1 if slice_of(stock_id) else first.slices):
                raise Violation(f"{stock_id} is shown with {shown} slices: {first}")
        decided = self._ledger.decided.values()
        conflicts = {(d.checkout_id, d.product_id) for d in decided if d.kind is Kind.CONFLICT}
        for d in decided:
            line = (d.checkout_id or "", d.product_id)
            if d.kind is Kind.FORWARDED and line not in self._model.settled and line not in conflicts:
                raise Violation(f"{d.partition}:{d.offset} was sent on, and is decided nowhere")

    def _onward(self, decision: Decision) -> Sent:
        line = read_checkout_line(decision.detail)
        place = partition_of(line.stock_id, self._broker.partitions)
        return place, line.partition_key(), decision.detail.encode()
