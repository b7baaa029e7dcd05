"""The auditor's part for commands: every decision is the model's, and everything told is what was decided."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from contracts.decisions import Decision
from contracts.events import Event
from contracts.kafka import Record
from contracts.outcomes import Outcome
from contracts.times import to_ms
from deploy.simulation.life import Life, Order
from deploy.simulation.model import Model, Violation
from stock_ledger.commands.book import CommandDecision, Counts, Obeyed
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.ledger import Advance
from workers.fakes import MemoryBroker


class LifeAuditor:
    """Told of every effect that has to do with commands. Its methods raise Violation."""

    def __init__(self, broker: MemoryBroker, ledger: MemoryCommandLedger, model: Model) -> None:
        self.life = Life(model)
        self.poison: set[tuple[int, int]] = set()
        self._model = model
        self._broker = broker
        self._ledger = ledger
        self._decided_to = dict.fromkeys(range(broker.partitions), 0)
        self._committed = dict.fromkeys(range(broker.partitions), 0)
        self._published: set[tuple[int, bytes]] = set()  # partition, ce_id
        self._sequences: dict[bytes, int] = defaultdict(lambda: 1)  # of orders, as they are told

    def created(self, decision: Decision) -> None:
        """A line became an order."""
        order = decision.order
        if order is not None:
            self.life.orders[order.order_id] = Order(
                decision.buyer_id, str(order.total), to_ms(order.expires_at), [(decision.product_id, decision.quantity)]
            )  # fmt: skip

    def persisted(self, advances: Sequence[Advance], obeyed: Obeyed) -> None:
        for advance in advances:
            p = advance.partition
            if not self._ledger.ledger.claims[p].next_command == advance.next_offset >= self._decided_to[p]:
                raise Violation(f"commands of {p} went from {self._decided_to[p]} to {advance.next_offset}")
            for offset in range(self._decided_to[p], advance.next_offset):
                self._was_decided(p, offset)
            self._decided_to[p] = advance.next_offset
        for order_id in obeyed.orders:
            order = self._ledger.ledger.orders[order_id]
            known = self.life.orders[order_id]
            actual = (order.status.value, order.payment.value, order.sequence)
            if actual != (known.status, known.payment, known.events):
                raise Violation(f"order {order_id} is {actual}, but must be {known}")

    def _was_decided(self, partition: int, offset: int) -> None:
        decision = self._decision(partition, offset)
        message = self._broker.commands.messages[partition][offset]
        if (partition, offset) in self.poison:
            expected: object = (Outcome.DEAD, None)
        else:
            expected = self.life.decide(message.value or b"")
        if (decision.outcome, decision.reason) != expected:
            raise Violation(
                f"command {partition}:{offset} is {decision.outcome}, {decision.reason}, but must be {expected}: "
                f"{message.value!r}"
            )

    def published(self, partition: int, event: Event | Record) -> None:
        """An event of a command: word for word what was decided, and of an order the next."""
        headers = dict(event[2])
        _, of_partition, offset, number = headers["ce_id"].decode().split("-")
        told = self._decision(int(of_partition), int(offset)).told.events
        if int(of_partition) != partition or int(number) >= len(told) or told[int(number)] != event:
            raise Violation(f"event {headers['ce_id']!r} does not tell what was decided")
        key = (partition, headers["ce_id"])
        if key not in self._published and "ce_sequence" in headers:
            self._sequences[headers["ce_subject"]] += 1
            if int(headers["ce_sequence"]) != self._sequences[headers["ce_subject"]]:
                raise Violation(f"event {headers['ce_id']!r} is not the next of its order")
        self._published.add(key)

    def committed(self, offsets: Mapping[int, int]) -> None:
        for p, to in offsets.items():
            if to > self._decided_to[p]:
                raise Violation(f"commands of {p}: {to} committed, decided to {self._decided_to[p]}")
            for offset in range(self._committed[p], to):
                for event in self._decision(p, offset).told.events:
                    if (p, dict(event[2])["ce_id"]) not in self._published:
                        raise Violation(f"command {p}:{offset} is committed, but its events are not out")
            self._committed[p] = max(self._committed[p], to)

    def is_drained(self) -> bool:
        return all(
            self._decided_to[p] == self._broker.commands.end(p) == self._broker.commands.committed.get(p, 0)
            for p in range(self._broker.partitions)
        )

    def finish(self, units: Mapping[str, int]) -> None:
        """Every order has come to its end, and nothing got lost: given the units of each product at first."""
        paid: dict[str, int] = defaultdict(int)
        for order_id, order in self.life.orders.items():
            if order.status == "pending_payment":
                raise Violation(f"order {order_id} waits for its payment for ever")
            for product_id, quantity in order.items:
                if not order.status.startswith("closed"):
                    paid[product_id] += quantity
        for product_id, by_seq in self._model.available.items():
            counts = self._ledger.ledger.counts.get(product_id, Counts())
            if counts != Counts(paid=paid[product_id]):
                raise Violation(f"{product_id}: {counts}, but {paid[product_id]} are paid")
            put_in = units[product_id] + self.life.put_in[product_id]
            if by_seq[-1] + counts.committed() != put_in:
                raise Violation(f"{product_id}: {by_seq[-1]} left, {counts}, but {put_in} were put in")

    def undrained(self) -> str:
        return "; ".join(
            f"commands {p}: log {self._broker.commands.end(p)}, decided {self._decided_to[p]}, "
            f"committed {self._broker.commands.committed.get(p, 0)}"
            for p in range(self._broker.partitions)
        )

    def _decision(self, partition: int, offset: int) -> CommandDecision:
        decision = self._ledger.decided.get((partition, offset))
        if decision is None:
            raise Violation(f"command {partition}:{offset} was passed without a decision")
        return decision
