"""A desk that decides lines and commands against the ledger in memory, with neither a log nor a writer."""

from collections import defaultdict, deque
from collections.abc import Coroutine
from datetime import datetime, timedelta
from itertools import count
from typing import Any, TypeVar

import msgspec
import orjson

from contracts.commands import (
    Abandon,
    Cancel,
    Close,
    Command,
    Complete,
    Expire,
    HoldAnswer,
    Pay,
    Pick,
    Ship,
    decode_command,
)
from contracts.decisions import Decision
from contracts.events import Event, event_of
from contracts.messages import CheckoutLine, Money, read_checkout_line
from contracts.outcomes import Kind
from contracts.times import to_ms
from contracts.topics import partition_of
from stock_ledger.batch import Product, Received, Stock
from stock_ledger.commands.book import CommandDecision, Counts, Given, LedgerEntry, OrderState
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.commands.holds import answer_to
from stock_ledger.commands.obey import need_of as needed_by_commands
from stock_ledger.commands.obey import obey
from stock_ledger.decide import decide
from stock_ledger.fakes import MemoryLedger
from stock_ledger.ledger import Advance, need_of
from tests.harness import HOME, NOON, uuid_of

T = TypeVar("T")
C = TypeVar("C", bound=Command)
PARTITIONS = 4
HOLD_TTL_S = 30.0
_numbers = count(1)


def asked(kind: type[C], **fields: Any) -> C:
    """A command with an id of its own."""
    values: dict[str, Any] = {
        "command_id": uuid_of(f"command {next(_numbers)}"),
        "actor": "merchant:m",
        "asked_at_ms": to_ms(NOON),
    }
    return kind(**(values | fields))


def notice_of(order: OrderState, outcome: str = "paid", reference: str = "pay-1", **fields: Any) -> Pay:
    """What a provider tells of the whole of an order's payment."""
    values: dict[str, Any] = {
        "order_id": order.order_id,
        "provider": "wechat",
        "event_id": f"event {next(_numbers)}",
        "reference": reference,
        "outcome": outcome,
        "amount": Money(str(order.total), order.currency),
        "occurred_at_ms": to_ms(NOON),
    }
    return asked(Pay, **(values | fields))


def step_of(order: OrderState, action: str) -> Command:
    """The command that asks for a step of the order."""
    if action == "pay":
        return notice_of(order)
    if action == "cancel":
        return asked(Cancel, order_id=order.order_id, buyer_id=order.buyer_id)
    if action == "expire":
        return asked(Expire, order_id=order.order_id, expires_at_ms=to_ms(order.expires_at))
    if action == "close":
        return asked(Close, order_id=order.order_id)
    kinds: dict[str, type[Pick | Ship | Complete]] = {
        "pick": Pick, "ship": Ship, "complete": Complete
    }  # fmt: skip
    return asked(kinds[action], order_id=order.order_id)


def answer_of(checkout: int | str, line: int, lines: int, product_id: str, **fields: Any) -> HoldAnswer:
    """The answer of a line that is held; with a `reason`, of one that is refused."""
    values: dict[str, Any] = {
        "checkout_id": uuid_of(checkout),
        "product_id": product_id,
        "buyer_id": f"buyer-{checkout}",
        "payload_hash": "0" * 32,
        "line": line,
        "lines": lines,
        "quantity": 1,
    }
    if not fields.get("reason"):
        values |= {
            "name": product_id, "price": "10.00", "currency": "CNY", "payment_ttl_s": 900, "shipping": HOME
        }  # fmt: skip
    return asked(HoldAnswer, **(values | fields))


def run(work: "Coroutine[Any, Any, T]") -> T:
    """The result of what never waits: everything in memory."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits for something")


class Desk:
    """Decides at once, batch by batch. What is asked of other partitions waits in `asked` for `deliver`."""

    def __init__(self) -> None:
        self.now: datetime = NOON
        self.ledger = MemoryLedger()
        self.commands = MemoryCommandLedger(self.ledger)
        self.asked: deque[Command] = deque()
        self.sent_on: deque[CheckoutLine] = deque()
        self.events: list[Event] = []
        self.results: list[tuple[str, str, dict[str, Any]]] = []
        self.entries: dict[str, list[tuple[str, int]]] = defaultdict(list)  # kind and delta, by product
        run(self.ledger.claim(range(PARTITIONS), "desk", NOON))

    def tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def put(self, product: Product, available: int = 10) -> None:
        self.ledger.put(product, Stock(available, 1), partition_of(product.product_id, PARTITIONS))
        self.entries[product.product_id].append(("initial", available))

    def sell(self, *lines: CheckoutLine) -> list[Decision]:
        """Decide lines of one partition. Those that are sent on wait in `sent_on` for `deliver`."""
        (partition,) = {partition_of(line.stock_id, PARTITIONS) for line in lines}
        claim = self.ledger.claims[partition]
        batch = [Received(partition, claim.next_offset + n, line) for n, line in enumerate(lines)]
        entries = run(self.ledger.products([line.stock_id for line in lines]))
        loaded = run(self.ledger.load(need_of(batch, {i: p for i, (p, _) in entries.items()}), entries))
        loaded.elsewhere = {i: stock.available for i, stock in self.ledger.stock.items()}
        decided = decide(batch, loaded, self.now)
        advance = Advance(partition, claim, claim.next_offset + len(batch))
        run(self.ledger.persist([advance], decided, loaded))
        for d in decided.decisions:
            if d.order is not None or d.hold is not None:
                self.entries[d.stock_id].append(("hold" if d.order is None else "order", -d.quantity))
            if d.kind is Kind.FORWARDED:
                self.sent_on.append(read_checkout_line(d.detail))
            if (event := event_of(d, d.document())) is not None:
                self.events.append(event)
            elif (answer := answer_to(d)) is not None:
                self.asked.append(answer)
        return decided.decisions

    def obey(self, *commands: Command | None) -> list[CommandDecision]:
        """Decide commands, all of one partition's in one batch; gives their decisions in the order asked."""
        batch: list[Given] = []
        ends = {p: claim.next_command for p, claim in self.ledger.claims.items()}
        for command in commands:
            partition = 0 if command is None else command.partition(PARTITIONS)
            batch.append(Given(partition, ends[partition], command, "" if command else "broken"))
            ends[partition] += 1
        book = run(self.commands.load(needed_by_commands(batch)))
        obeyed = obey(batch, book, self.now, PARTITIONS, HOLD_TTL_S)
        touched = sorted({given.partition for given in batch})
        run(self.commands.persist([Advance(p, self.ledger.claims[p], ends[p]) for p in touched], obeyed))
        for entry in obeyed.ledger:
            self.entries[entry.product_id].append((entry.kind, entry.delta))
        for d in obeyed.decisions:
            self.events += d.told.events
            self.results += [(c, field, orjson.loads(doc)) for c, field, doc in d.told.results]
            for place, key, value in d.told.commands:
                self.asked.append(decode_command(value, key, place, PARTITIONS))
        return obeyed.decisions

    def deliver(self) -> list[CommandDecision]:
        """Decide what was asked of other partitions, and what that asks again, until nothing is left; commands first."""
        decided: list[CommandDecision] = []
        while self.asked or self.sent_on:
            if self.asked:
                decided += self.obey(self.asked.popleft())
            else:
                self.sell(self.sent_on.popleft())
        return decided

    def order(self, order_id: str) -> OrderState:
        return self.ledger.orders[order_id]

    def orders(self) -> list[OrderState]:
        return list(self.ledger.orders.values())

    def stock(self, product_id: str) -> tuple[int, int, int, int]:
        """Available, held, pending, paid."""
        counts = self.ledger.counts.get(product_id, Counts())
        return self.ledger.stock[product_id].available, counts.held, counts.pending, counts.paid

    def told(self, subject: str) -> list[tuple[str, int | None]]:
        """Type and ce_sequence of each event about an order, a checkout or a product."""
        found = []
        for key, _, headers in self.events:
            of = dict(headers)
            if key == subject.encode():
                sequence = of.get("ce_sequence")
                found.append((of["ce_type"].decode(), None if sequence is None else int(sequence)))
        return found

    def data(self, kind: str) -> list[dict[str, Any]]:
        """The data of every event of a type."""
        return [
            orjson.loads(doc) for _, doc, headers in self.events if dict(headers)["ce_type"] == kind.encode()
        ]

    def step(self, order: OrderState, action: str) -> CommandDecision:
        """A step of an order; the one that time brings, when it is time."""
        if action == "expire":
            self.now = max(self.now, order.expires_at)
        return self.obey(step_of(order, action))[0]

    def abandon(self, checkout: int | str) -> CommandDecision:
        return self.obey(asked(Abandon, checkout_id=uuid_of(checkout)))[0]


def last_entry(desk: Desk) -> LedgerEntry:
    return desk.commands.entries[-1]


def order_from(desk: Desk, line: CheckoutLine, *steps: str) -> OrderState:
    """An order of one line that went through these steps."""
    order = desk.sell(line)[0].order
    assert order is not None
    for step in steps:
        desk.step(desk.order(order.order_id), step)
    return desk.order(order.order_id)


def whole_order(desk: Desk, lines: list[CheckoutLine], *steps: str) -> OrderState:
    """The order of an all-or-nothing checkout that went through these steps; all that was asked is done."""
    before = set(desk.ledger.orders)
    for n, line in enumerate(lines):
        desk.sell(msgspec.structs.replace(line, policy="all_or_nothing", line=n, lines=len(lines)))
    desk.deliver()
    (order_id,) = desk.ledger.orders.keys() - before
    for step in steps:
        desk.step(desk.order(order_id), step)
        desk.deliver()
    return desk.order(order_id)
