"""A sale with commands as facts of an audit: decided by a real writer over servers in memory, clean, easy to spoil."""

import asyncio
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import msgspec

from contracts import commands as c
from contracts.commands import Command, encode_command
from contracts.messages import Amount, CheckoutLine, Money
from contracts.settings import Settings
from contracts.times import to_ms
from contracts.topics import partition_of
from stock_ledger.audit.facts import Facts, LedgerRow
from stock_ledger.batch import Decided, Loaded, Stock
from stock_ledger.commands.book import Obeyed
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.fakes import MemoryLedger
from stock_ledger.ledger import Advance
from stock_ledger.view_fakes import MemoryView
from tests.harness import (
    Clock,
    encoded,
    eventually,
    line_of,
    make_writer,
    product_in,
    product_of,
    running,
    uuid_of,
)
from tests.unit.audit_gather import gather
from tests.unit.audit_sale import change
from workers.fakes import MemoryBroker, MemoryLog

PARTITIONS = 2
A, B, C = product_in(0, PARTITIONS), product_in(1, PARTITIONS), product_in(1, PARTITIONS, 1)
PRICE: Amount = "129.00"
SETTINGS = Settings(partitions=PARTITIONS, hold_ttl_s=60.0, batch_linger_ms=0.0)
LATE_S = 901.0


class CommandedSale:
    """Two products, A (15 units in the end, at most 3 a buyer) and B (20), and a third that a command puts."""

    def __init__(self, partitions: int = PARTITIONS) -> None:
        self.partitions = partitions
        self.clock = Clock()
        self.broker = MemoryBroker(partitions)
        self.entries: list[LedgerRow] = []
        self.ledger = _Recorded(self.entries)
        self.commands = _RecordedCommands(self.ledger, self.entries)
        self.view = MemoryView()
        for product in (product_of(A, buyer_limit=3), product_of(B)):
            self.ledger.put(product, Stock(10, 1), partition_of(product.product_id, partitions))
            self.entries.append(LedgerRow(product.product_id, 1, 10, 10, "initial", None, None, None))
        self._commands = 0

    def ask(self, kind: Callable[..., Command], same: str = "", **fields: Any) -> Command:
        """A command into its log. The same word is the same command."""
        self._commands += 1
        command_id = uuid_of(same or f"command {self._commands}")
        at_ms = to_ms(self.clock.now())
        command = kind(command_id=command_id, actor="merchant:m", asked_at_ms=at_ms, **fields)
        place = command.partition(self.partitions)
        self.broker.commands.append(place, command.subject().encode(), encode_command(command))
        return command

    def buy(self, name: str, product_id: str, quantity: int = 1, **fields: Any) -> None:
        self.send(line_of(name, product_id, quantity, **fields))

    def buy_whole(self, name: str, quantities: dict[str, int], lines: int = 2) -> None:
        for n, (product_id, quantity) in enumerate(quantities.items()):
            self.send(line_of(name, product_id, quantity, line=n, lines=lines, policy="all_or_nothing"))

    def order_of(self, name: str) -> str:
        (found,) = [o.order_id for o in self.ledger.orders.values() if o.checkout_id == uuid_of(name)]
        return found

    def pay(self, name: str, outcome: str = "paid", amount: str = "", **fields: Any) -> None:
        order = self.ledger.orders[self.order_of(name)]
        self.ask(
            c.Pay,
            **{
                "order_id": order.order_id,
                "provider": "wechat",
                "event_id": f"{name} {outcome}",
                "reference": f"ref {name}",
                "outcome": outcome,
                "amount": Money(amount or str(order.total), "CNY"),
                "occurred_at_ms": 1,
                **fields,
            },
        )

    async def decide(self) -> None:
        """Until nothing is left in any log, what is asked on the way included."""

        def done() -> bool:
            return all(
                topic.committed.get(p, 0) == topic.end(p)
                for topic in (self.broker, self.broker.commands)
                for p in range(self.partitions)
            )

        settings = msgspec.structs.replace(SETTINGS, partitions=self.partitions)
        log = MemoryLog(self.broker)
        writer = make_writer(log, self.ledger, self.commands, self.view, settings, self.clock)
        async with running(writer):
            await eventually(lambda: log in self.broker.members)
            await self.broker.assign({log: range(self.partitions)})
            await eventually(done)

    def send(self, line: CheckoutLine) -> None:
        place = partition_of(line.stock_id, self.partitions)
        self.broker.append(place, line.partition_key(), encoded(line))

    def facts(self) -> Facts:
        return gather(
            self.broker,
            self.ledger,
            self.commands,
            self.view,
            self.entries,
            self.partitions,
            self.clock.now(),
        )


class _Recorded(MemoryLedger):
    """The ledger in memory, with the entries that the real one keeps."""

    def __init__(self, entries: list[LedgerRow]) -> None:
        super().__init__()
        self._entries = entries

    async def persist(self, advances: Sequence[Advance], decided: Decided, loaded: Loaded) -> None:
        await super().persist(advances, decided, loaded)
        stock = dict(loaded.stock)
        for d in decided.decisions:
            if d.order is None and d.hold is None:
                continue
            before = stock[d.stock_id]
            after = stock[d.stock_id] = Stock(before.available - d.quantity, before.seq + 1)
            kind, order_id = ("hold", None) if d.order is None else ("order", d.order.order_id)
            self._entries.append(
                LedgerRow(d.stock_id, after.seq, -d.quantity, after.available, kind, d.partition, d.offset, order_id)
            )  # fmt: skip


class _RecordedCommands(MemoryCommandLedger):
    def __init__(self, ledger: MemoryLedger, entries: list[LedgerRow]) -> None:
        super().__init__(ledger)
        self._entries = entries

    async def persist(self, advances: Sequence[Advance], obeyed: Obeyed) -> None:
        await super().persist(advances, obeyed)
        self._entries += [LedgerRow(*msgspec.structs.astuple(e)[:8]) for e in obeyed.ledger]


async def _sell() -> CommandedSale:
    sale = CommandedSale()
    sale.ask(c.Restock, product_id=A, units=5)
    sale.ask(c.Adjust, product_id=B, units=-2, why="broken")
    sale.ask(c.SetStock, product_id=B, total=20)
    sale.ask(c.PutProduct, product_id=C, name="C", price="5", currency="CNY", stock=3)
    sale.ask(c.PatchProduct, product_id=C, name="C2")
    sale.ask(c.Adjust, product_id=C, units=-9, why="too many")
    sale.broker.commands.append(0, b"k", b"{")
    for name in ("cancelled", "limited"):
        sale.buy(name, A, 3, buyer_id="b1")
    for name in ("completed", "closed", "late", "timed-out", "failing"):
        sale.buy(name, B)
    sale.buy_whole("together", {A: 1, B: 1})
    sale.buy_whole("refused", {A: 1, B: 1000})
    sale.buy_whole("whole-cancelled", {A: 1, B: 1})
    sale.buy_whole("halfway", {A: 1})
    await sale.decide()
    for _ in range(2):
        sale.ask(
            c.Cancel, "cancel it", order_id=sale.order_of("cancelled"), buyer_id="b1",
        )  # fmt: skip
    sale.ask(c.Cancel, order_id=sale.order_of("cancelled"), buyer_id="b1")
    sale.ask(
        c.Cancel, order_id=sale.order_of("whole-cancelled"), buyer_id="buyer-whole-cancelled",
    )  # fmt: skip
    for name in ("completed", "closed", "together"):
        sale.pay(name)
    sale.pay("failing", "failed")
    sale.pay("failing", amount="1.00")
    await sale.decide()
    sale.buy("again", A, 3, buyer_id="b1")
    sale.ask(c.Pick, order_id=sale.order_of("completed"))
    sale.ask(c.Ship, order_id=sale.order_of("completed"), carrier="SF")
    sale.ask(c.Complete, order_id=sale.order_of("completed"))
    sale.ask(c.Close, order_id=sale.order_of("closed"))
    sale.pay("closed", "refunded")
    sale.pay("completed", reference="a second one", event_id="twice")
    await sale.decide()
    sale.clock.tick(LATE_S)
    for name in ("late", "timed-out", "failing", "again"):
        order = sale.ledger.orders[sale.order_of(name)]
        sale.ask(c.Expire, order_id=order.order_id, expires_at_ms=to_ms(order.expires_at))
    sale.ask(c.Abandon, checkout_id=uuid_of("halfway"))
    sale.pay("late")
    await sale.decide()
    return sale


@cache
def _facts() -> Facts:
    return asyncio.run(_sell()).facts()


def commanded() -> Facts:
    """Every command, and everything that can become of it, at least once."""
    return deepcopy(_facts())


def row_of(facts: Facts, action: str, outcome: str = "applied", n: int = 0) -> Any:
    """The n-th decided command with this action and outcome."""
    found = [r for r in facts.postgres.commands if (r.action, r.outcome) == (action, outcome)]
    return found[n]


def order_of(facts: Facts, name: str) -> str:
    (found,) = [o.order_id for o in facts.postgres.orders if o.checkout_id == uuid_of(name)]
    return found


def change_row(facts: Facts, action: str, became: str = "applied", n: int = 0, **fields: Any) -> None:
    """Change the n-th command with this action and outcome."""
    row = row_of(facts, action, became, n)
    change(facts.postgres.commands, lambda r: r is row, **fields)
