"""The auditor: holds the model of a sale against every effect as it happens, and against everything at the end.

Everything it looks at is the servers' state, which changes only by the calls that it is told of.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from contracts.events import CHECKOUT_REFUSED, ORDER_CREATED
from contracts.kafka import Record
from contracts.keys import WHOLE
from contracts.outcomes import Kind
from contracts.topics import Stream
from deploy.simulation.client_auditor import ClientAuditor
from deploy.simulation.gate_auditor import GateAuditor
from deploy.simulation.life_auditor import LifeAuditor
from deploy.simulation.model import Goods, Model, Violation
from deploy.simulation.slice_auditor import SliceAuditor
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.fakes import MemoryLedger
from stock_ledger.ledger import Advance
from stock_ledger.view import Shown
from stock_ledger.view_fakes import MemoryView
from workers.fakes import MemoryBroker, MemoryMessage

_WAIT_SLACK_S = 0.05  # who waits looks again now and then
_SILENT = (Kind.REPEATED, Kind.FORWARDED, Kind.DEAD)  # have no event


class Auditor:
    """Told of every effect on the servers. Its methods raise Violation."""

    def __init__(
        self,
        broker: MemoryBroker,
        ledger: MemoryLedger,
        commands: MemoryCommandLedger,
        view: MemoryView,
        goods: Sequence[Goods],
        time: Callable[[], float],
        hold_ttl_s: float,
        session_s: float,
        gate_stale_s: float,
    ) -> None:
        self._broker = broker
        self._ledger = ledger
        self._view = view
        self._session_s = session_s
        self.model = Model(goods)
        self.of_clients = ClientAuditor(broker, ledger, time)
        self.of_gate = GateAuditor(self.model, time, broker.partitions, gate_stale_s)
        self.of_slices = SliceAuditor(broker, ledger, view, self.model)
        self.of_commands = LifeAuditor(broker, commands, self.model, hold_ttl_s)
        self._decided_to = dict.fromkeys(range(broker.partitions), 0)
        self._epochs = dict.fromkeys(range(broker.partitions), 0)
        self._shown: dict[str, tuple[int, int]] = {}  # versions by key of the view
        self._committed = dict.fromkeys(range(broker.partitions), 0)
        self._published: dict[int, set[int]] = defaultdict(set)  # offsets whose event is out
        self._set_aside: set[tuple[int, int]] = set()
        self._documents: dict[tuple[int, int], bytes] = {}  # of decisions
        self._of_line: dict[tuple[str, str], bytes] = {}  # of the first decision of each checkout and product
        self.checked = 0

    # After each effect.

    def ledger_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "persist":
            self._persisted(arguments[0])
        elif name == "claim":
            self._claimed(arguments[0])
        elif name == "wait":
            self._waited(*arguments)

    def commands_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "persist":
            self.of_commands.persisted(*arguments)
            self._stock_is_right()

    def log_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        match name:
            case "publish":
                for partition, records in arguments[0].items():
                    for record in records:
                        self._was_published(partition, record)
            case "set_aside":
                for partition, records in arguments[0].items():
                    for record in records:
                        self._was_set_aside(partition, record)
            case "send":
                commands, sent_on = self.of_commands.asked, self.of_slices.was_sent_on
                (commands if arguments[0] is Stream.COMMANDS else sent_on)(arguments[1])
            case "commit":
                commands_committed = self.of_commands.committed
                of_lines = arguments[0] is Stream.CHECKOUTS
                (self._was_committed if of_lines else commands_committed)(arguments[1])

    def view_called(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name == "show":
            self._was_shown(*arguments)

    def _claimed(self, partitions: Sequence[int]) -> None:
        for p in partitions:
            epoch = self._ledger.claims[p].epoch
            if epoch <= self._epochs[p]:
                raise Violation(f"partition {p} was claimed again with epoch {epoch}")
            self._epochs[p] = epoch

    def _waited(self, partitions: Sequence[int], seconds: float) -> None:
        """For rows that one other had locked: never longer than a writer may be silent."""
        if seconds > self._session_s + _WAIT_SLACK_S:
            raise Violation(f"a writer had the rows of {partitions} locked for {seconds:.3f} s")

    def _persisted(self, advances: Sequence[Advance]) -> None:
        for advance in advances:
            p = advance.partition
            if not self._ledger.claims[p].next_offset == advance.next_offset >= self._decided_to[p]:
                raise Violation(f"partition {p} went from {self._decided_to[p]} to {advance.next_offset}")
            for offset in range(self._decided_to[p], advance.next_offset):
                self._was_decided(p, offset)
            self._decided_to[p] = advance.next_offset
            self.of_clients.decided(p, advance.next_offset)
        self._stock_is_right()

    def _stock_is_right(self) -> None:
        for product_id, stock in self._ledger.stock.items():
            by_seq = self.model.available[product_id]
            self.of_gate.left(product_id, stock.available)
            if not (stock.seq == len(by_seq) - 1 and stock.available == by_seq[-1] >= 0):
                raise Violation(
                    f"{product_id}: {stock}, but {by_seq[-1]} must be left after {len(by_seq) - 1} entries"
                )

    def _was_decided(self, partition: int, offset: int) -> None:
        self.checked += 1
        decision = self._ledger.decided.get((partition, offset))
        if decision is None:
            raise Violation(f"{partition}:{offset} was passed without a decision")
        message = self._message(partition, offset)
        expected = self.model.decide(partition, message, decision)
        actual = (decision.kind, decision.reason, decision.first_offset)
        if actual != expected:
            raise Violation(f"{partition}:{offset} was decided {actual}, but is {expected}")
        document = self._documents[partition, offset] = decision.document()
        self.of_commands.created(decision)
        self.of_slices.decided(decision)
        if decision.kind in (Kind.CREATED, Kind.HELD, Kind.REFUSED):
            self._of_line[decision.checkout_id or "", decision.product_id] = document

    def _was_published(self, partition: int, record: Record) -> None:
        self.checked += 1
        key, value, headers = record
        told = dict(headers)
        identity = told["ce_id"].decode()
        if identity.startswith("command-"):
            self.of_commands.published(partition, record)
            return
        of_partition, _, offset = identity.partition("-")
        place = (int(of_partition), int(offset))
        decision = self._ledger.decided.get(place)
        if decision is None:
            raise Violation(f"event {identity} was published, but nothing is decided there")
        if decision.order is None:
            subject, kind = decision.checkout_id or "", CHECKOUT_REFUSED
        else:
            subject, kind = decision.order.order_id, ORDER_CREATED
        if (
            place[0] != partition
            or decision.kind in _SILENT
            or value != self._documents[place]
            or not key == told["ce_subject"] == subject.encode()
            or told["ce_type"] != kind.encode()
        ):
            raise Violation(f"event {identity} does not tell what was decided")
        self._published[partition].add(place[1])
        if decision.order is not None:
            self.of_commands.told_of_order(decision.order.order_id)

    def _was_set_aside(self, partition: int, record: Record) -> None:
        headers = dict(record[2])
        offset = int(headers["offset"])
        if headers["stream"] == Stream.COMMANDS.encode():
            return
        message = self._message(partition, offset)
        if int(headers["partition"]) != partition or record[:2] != (message.key, message.value):
            raise Violation(f"the dead letter of {partition}:{offset} differs")
        self._set_aside.add((partition, offset))

    def _was_committed(self, offsets: Mapping[int, int]) -> None:
        for p, offset in offsets.items():
            if offset > self._decided_to[p]:
                raise Violation(f"partition {p}: offset {offset} committed, decided to {self._decided_to[p]}")
            for passed in range(self._committed[p], offset):
                self._is_told(p, passed)
            self._committed[p] = max(self._committed[p], offset)

    def _is_told(self, partition: int, offset: int) -> None:
        decision = self._ledger.decided[partition, offset]
        if decision.kind is Kind.DEAD:
            if (partition, offset) not in self._set_aside:
                raise Violation(f"{partition}:{offset} is dead, but not set aside")
        elif decision.kind is Kind.FORWARDED:
            self.of_slices.is_sent_on(decision)
        elif decision.whole:
            self.of_commands.is_answered(decision)
        elif decision.kind is not Kind.REPEATED and offset not in self._published[partition]:
            raise Violation(f"{partition}:{offset} is committed, but its event is not published")

    def _was_shown(self, shown: Sequence[Shown], results: Sequence[tuple[str, str, bytes]]) -> None:
        for checkout_id, field, document in results:
            self.checked += 1
            if document != self._document(checkout_id, field):
                raise Violation(f"the result of {checkout_id} {field} is not so")
        for part in shown:
            self._is_not_ahead(part.partition, part.stock)
            self.of_slices.shown(part.partition)

    def _is_not_ahead(self, partition: int, product_ids: Iterable[str]) -> None:
        claim = self._ledger.claims[partition]
        values, keys = self._view.data.values, self._view.keys
        progress = self._progress_shown(partition)
        if progress is not None:
            epoch, next_offset = progress
            self._is_not_older(keys.progress(partition), progress)
            self.of_clients.shown(partition, next_offset)
            if epoch > claim.epoch or next_offset > claim.next_offset:
                raise Violation(
                    f"the view of partition {partition} is at {epoch}:{next_offset}, the truth at {claim}"
                )
        for product_id in product_ids:
            value = values.get(keys.stock(partition, product_id))
            if value is not None:
                epoch, seq, available = map(int, value.split(b":"))
                self._is_not_older(keys.stock(partition, product_id), (epoch, seq))
                by_seq = self.model.available[product_id]
                if seq >= len(by_seq) or by_seq[seq] != available:
                    raise Violation(
                        f"the view has {available} of {product_id} at seq {seq}, which never was so"
                    )

    def _is_not_older(self, key: str, version: tuple[int, int]) -> None:
        before = self._shown.get(key, version)
        if version < before:
            raise Violation(f"{key} went back from {before} to {version}")
        self._shown[key] = version

    def view_set_back(self, to: float) -> None:
        """It fell back to what it was at this time, and cut its clients off, so that they know."""
        self._shown.clear()
        self.of_clients.view_set_back()
        self.of_gate.view_set_back(to)

    def view_flushed(self) -> None:
        """Nobody notices: what it tells next, even if it is from a writer that is behind, is believed."""
        self._shown.clear()
        self.of_clients.view_flushed()

    # At the end, when everything works again and has had its time.

    def is_drained(self) -> bool:
        """Everything is decided, told and committed, and the view is there.

        A claim may be void by now, if one who was put out claimed late and left: its owner hears of that as soon as
        there is something to decide.
        """
        return self.of_commands.is_drained() and all(
            self._broker.committed.get(p, 0) == self._decided_to[p] == self._broker.end(p)
            and (self._progress_shown(p) or (0, 0))[1] == self._decided_to[p]
            for p in range(self._broker.partitions)
        )

    def finish(self) -> None:
        """Log = ledger = totals = view = events."""
        for p in range(self._broker.partitions):
            for offset in range(self._broker.end(p)):
                self._is_told(p, offset)
        for product_id, p in self._ledger.partitions.items():
            left = self.model.available[product_id][-1]
            value = self._view.data.values.get(self._view.keys.stock(p, product_id))
            sold_out = product_id in self._view.gate(p).sold_out
            if value is not None and int(value.split(b":")[2]) != left:
                raise Violation(f"the view has {value!r} of {product_id}, not {left}")
            if sold_out != (left <= 0):
                raise Violation(f"{product_id} is shown as sold out: {sold_out}, but {left} are left")
        self.of_slices.finish()

    def undrained(self) -> str:
        """What is not as it must be at the end."""
        told = [
            f"{p}: log {self._broker.end(p)}, decided {self._decided_to[p]}, "
            f"committed {self._broker.committed.get(p, 0)}, view {self._progress_shown(p)}, "
            f"claim {self._ledger.claims.get(p)}"
            for p in range(self._broker.partitions)
        ]
        return "; ".join([*told, self.of_commands.undrained()])

    def _progress_shown(self, partition: int) -> tuple[int, int] | None:
        value = self._view.data.values.get(self._view.keys.progress(partition))
        if value is None:
            return None
        epoch, next_offset = map(int, value.split(b":")[:2])
        return epoch, next_offset

    def _message(self, partition: int, offset: int) -> MemoryMessage:
        return self._broker.messages[partition][offset - self._broker.first[partition]]

    def _document(self, checkout_id: str, field: str) -> bytes | None:
        """What the view must hold there: a line's decision by its product, a conflict by its place, the whole's."""
        if field == WHOLE:
            return self.of_commands.shown(checkout_id)
        if field.startswith("#"):
            partition, _, offset = field[1:].partition(":")
            return self._documents.get((int(partition), int(offset)))
        return self._of_line.get((checkout_id, field))
