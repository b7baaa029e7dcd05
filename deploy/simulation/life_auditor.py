"""The auditor's part for commands: every decision is the model's, and everything told is what was decided."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import orjson

from contracts.commands import encode_command
from contracts.decisions import Decision
from contracts.events import Event
from contracts.kafka import Record
from contracts.outcomes import Kind, Outcome
from contracts.slices import product_of
from contracts.times import to_ms
from deploy.simulation.life import APPLIED, Hold, Life, Order
from deploy.simulation.model import Model, Violation
from stock_ledger.commands.book import CommandDecision, Counts, Obeyed
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.commands.holds import answer_to
from stock_ledger.ledger import Advance
from workers.fakes import MemoryBroker


class LifeAuditor:
    """Told of every effect that has to do with commands. Its methods raise Violation."""

    def __init__(
        self, broker: MemoryBroker, ledger: MemoryCommandLedger, model: Model, hold_ttl_s: float
    ) -> None:
        self.life = Life(model, hold_ttl_s, broker.partitions)
        self.poison: set[tuple[int, int]] = set()
        self._model = model
        self._broker = broker
        self._ledger = ledger
        self._decided_to = dict.fromkeys(range(broker.partitions), 0)
        self._committed = dict.fromkeys(range(broker.partitions), 0)
        self._published: set[tuple[int, bytes]] = set()  # partition, ce_id
        self.whole: set[str] = set()  # all-or-nothing checkouts that were accepted
        self._asked: set[tuple[int, bytes]] = set()  # partition, value
        self._shown: dict[str, bytes] = {}  # final answers by checkout
        self._sequences: dict[str, int] = {}  # of orders, as they are told

    def created(self, decision: Decision) -> None:
        """A line became an order, or a hold."""
        if decision.hold is not None and decision.checkout_id is not None:
            place = (decision.checkout_id, decision.stock_id)
            self.life.holds[place] = Hold(decision.buyer_id, decision.quantity)
        order = decision.order
        if order is not None:
            self.life.orders[order.order_id] = Order(
                decision.buyer_id, str(order.total), to_ms(order.expires_at), [(decision.stock_id, decision.quantity)]
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
            told = [orjson.loads(value) for _, _, value in decision.told.commands]
            expected = self.life.decide(
                message.value or b"", to_ms(decision.decided_at), told, decision.reason
            )
        if expected == APPLIED and decision.told.results:
            self._was_answered(decision)
        if (decision.outcome, decision.reason) != expected:
            raise Violation(
                f"command {partition}:{offset} is {decision.outcome}, {decision.reason}, but must be {expected}: "
                f"{message.value!r}"
            )

    def _was_answered(self, decision: CommandDecision) -> None:
        """An all-or-nothing checkout has its answer: an order of all its lines, or none."""
        [(checkout_id, _, document)] = decision.told.results
        gathering = self._ledger.gatherings[checkout_id]
        known = self.life.gatherings[checkout_id]
        if (gathering.state == "confirmed") != (known.state == "confirmed") or checkout_id in self._shown:
            raise Violation(f"checkout {checkout_id} is {gathering}, but must be {known}")
        self._shown[checkout_id] = document
        if gathering.order_id is not None:
            state = self._ledger.ledger.orders[gathering.order_id]
            items = [(item.product_id, item.quantity) for item in state.items]
            if sorted(items) != sorted((a["product_id"], a["quantity"]) for a in known.answers):
                raise Violation(f"the order of checkout {checkout_id} is of {items}, not of {known}")
            self.life.orders[gathering.order_id] = Order(
                state.buyer_id, str(state.total), to_ms(state.expires_at), items, whole=checkout_id
            )

    def answered(self, checkout_id: str, status: str, orders: set[str], refused: set[str]) -> None:
        """A final answer that a buyer was told: all lines are one order, or all are refused."""
        gathering = self._ledger.gatherings.get(checkout_id)
        if gathering is None or gathering.decided_at is None:
            raise Violation(f"checkout {checkout_id} is answered {status}, but not decided")
        expected = set() if gathering.order_id is None else {gathering.order_id}
        if orders != expected or bool(refused) != (not expected):
            raise Violation(
                f"checkout {checkout_id} is answered {status}: {orders}, {refused}; but is {gathering}"
            )

    def asked(self, commands: Mapping[int, Sequence[Record]]) -> None:
        for partition, records in commands.items():
            self._asked.update((partition, value or b"") for _, value, _ in records)

    def is_answered(self, decision: Decision) -> None:
        """What became of a line of an all-or-nothing checkout is in the log of its checkout."""
        if decision.kind not in (Kind.HELD, Kind.REFUSED):
            return
        answer = answer_to(decision)
        if answer is None:
            raise Violation(f"{decision.partition}:{decision.offset} is of a whole, but has no answer")
        if (answer.partition(self._broker.partitions), encode_command(answer)) not in self._asked:
            raise Violation(f"{decision.partition}:{decision.offset} is committed, but its answer is not out")

    def shown(self, checkout_id: str) -> bytes | None:
        """The final answer that the view may hold."""
        return self._shown.get(checkout_id)

    def published(self, partition: int, event: Event | Record) -> None:
        """An event of a command: word for word what was decided, and of an order the next."""
        headers = dict(event[2])
        _, of_partition, offset, number = headers["ce_id"].decode().split("-")
        told = self._decision(int(of_partition), int(offset)).told.events
        if int(of_partition) != partition or int(number) >= len(told) or told[int(number)] != event:
            raise Violation(f"event {headers['ce_id']!r} does not tell what was decided")
        key = (partition, headers["ce_id"])
        if key not in self._published and "ce_sequence" in headers:
            subject = headers["ce_subject"].decode()
            before = self._sequences.get(subject, 0)
            self._sequences[subject] = before + 1
            if int(headers["ce_sequence"]) != before + 1:
                raise Violation(f"event {headers['ce_id']!r} is not the next of its order")
        self._published.add(key)

    def told_of_order(self, order_id: str) -> None:
        """The first event of an order that was made by a line."""
        self._sequences.setdefault(order_id, 1)

    def committed(self, offsets: Mapping[int, int]) -> None:
        for p, to in offsets.items():
            if to > self._decided_to[p]:
                raise Violation(f"commands of {p}: {to} committed, decided to {self._decided_to[p]}")
            for offset in range(self._committed[p], to):
                for event in self._decision(p, offset).told.events:
                    if (p, dict(event[2])["ce_id"]) not in self._published:
                        raise Violation(f"command {p}:{offset} is committed, but its events are not out")
                for target, _, value in self._decision(p, offset).told.commands:
                    if (target, value) not in self._asked:
                        raise Violation(f"command {p}:{offset} is committed, but what it asks is not out")
            self._committed[p] = max(self._committed[p], to)

    def is_drained(self) -> bool:
        return all(
            self._decided_to[p] == self._broker.commands.end(p) == self._broker.commands.committed.get(p, 0)
            for p in range(self._broker.partitions)
        )

    def finish(self, units: Mapping[str, int]) -> None:
        """Every order has come to its end, and nothing got lost: given the units of each product at first."""
        self._nobody_waits()
        paid: dict[str, int] = defaultdict(int)
        there: dict[str, int] = defaultdict(int)  # by product, in all slices
        for order in self.life.orders.values():
            for product_id, quantity in order.items if not order.status.startswith("closed") else ():
                paid[product_id] += quantity
        for product_id, by_seq in self._model.available.items():
            counts = self._ledger.ledger.counts.get(product_id, Counts())
            if counts != Counts(paid=paid[product_id]):
                raise Violation(f"{product_id}: {counts}, but {paid[product_id]} are paid")
            there[product_of(product_id)] += by_seq[-1] + counts.committed()
        for product_id, total in there.items():
            put_in = units[product_id] + self.life.put_in[product_id]
            if total != put_in:
                raise Violation(f"{product_id}: {total} are there, but {put_in} were put in")
        if moving := {i: n for i, n in self.life.moving.items() if n}:
            raise Violation(f"units are on their way between slices for ever: {moving}")

    def _nobody_waits(self) -> None:
        for order_id, order in self.life.orders.items():
            if order.status == "pending_payment":
                raise Violation(f"order {order_id} waits for its payment for ever")
            expected = "released" if order.status.startswith("closed") else "paid"
            for product_id, _ in order.items if order.whole else ():
                if self.life.holds[order.whole, product_id].state != expected:
                    raise Violation(f"order {order_id} is {order.status}, but {product_id} is not {expected}")
        for (checkout_id, product_id), hold in self.life.holds.items():
            if hold.state == "held":
                raise Violation(f"{product_id} is held for checkout {checkout_id} for ever")
        if forgotten := self.whole - self._shown.keys():
            raise Violation(f"checkouts {sorted(forgotten)[:3]} are never answered")

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
