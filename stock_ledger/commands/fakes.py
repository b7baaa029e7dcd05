"""Commands' ledger in memory, for tests and trials: same rules as the real one, over the same orders and stock."""

from collections.abc import Sequence
from datetime import datetime

from contracts.errors import StaleView, Unavailable
from contracts.outcomes import Outcome, PaymentStatus
from contracts.topics import Stream
from stock_ledger.batch import Stock
from stock_ledger.commands.book import (
    Book,
    CommandDecision,
    Counts,
    Gathering,
    LedgerEntry,
    Need,
    Obeyed,
    Told,
)
from stock_ledger.commands.due import Due
from stock_ledger.commands.refunds import DueRefund
from stock_ledger.fakes import MemoryLedger
from stock_ledger.ledger import Advance

_FIRST = (Outcome.APPLIED, Outcome.REFUSED)


class MemoryCommandLedger:
    """See `stock_ledger.commands.ledger.CommandLedger`. Switches: those of the ledger that it stands beside."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger
        self.decided: dict[tuple[int, int], CommandDecision] = {}  # (partition, offset)
        self.gatherings: dict[str, Gathering] = {}
        self.entries: list[LedgerEntry] = []  # what commands did to stock, in order
        self._first: dict[str, int] = {}  # command id -> offset

    async def load(self, need: Need) -> Book:
        self._answer()
        ledger = self.ledger
        orders = {i: ledger.orders[i] for i in need.orders if i in ledger.orders}
        of_orders = {item.product_id for order in orders.values() for item in order.items}
        products = [i for i in sorted({*need.products, *of_orders}) if i in ledger.catalogue]
        return Book(
            decided={i: self._first[i] for i in need.commands if i in self._first},
            orders=orders,
            holds={key: ledger.holds[key] for key in need.holds if key in ledger.holds},
            gatherings={i: self.gatherings[i] for i in need.checkouts if i in self.gatherings},
            products={i: ledger.catalogue[i] for i in products},
            stock={i: ledger.stock[i] for i in products},
            counts={i: ledger.counts.get(i, Counts()) for i in products},
        )

    async def persist(self, advances: Sequence[Advance], obeyed: Obeyed) -> None:
        self._answer()
        ledger = self.ledger
        if ledger.fail_before_commit:
            ledger.fail_before_commit -= 1
            raise Unavailable("the connection broke before the commit")
        self.check(advances, obeyed)
        for a in advances:
            ledger.claims[a.partition] = ledger.claims[a.partition].advanced(Stream.COMMANDS, a.next_offset)
        for d in obeyed.decisions:
            self.decided[d.partition, d.offset] = d
            if d.command is not None and d.outcome in _FIRST:
                self._first[d.command.command_id] = d.offset
        for i in obeyed.new_products:
            ledger.partitions[i] = next(d.partition for d in obeyed.decisions if _about(d, i))
        ledger.catalogue |= obeyed.products
        ledger.stock |= obeyed.stock
        ledger.counts |= obeyed.counts
        self.entries += obeyed.ledger
        ledger.orders |= obeyed.orders | {i: o.state for i, o in obeyed.new_orders.items()}
        ledger.holds |= obeyed.holds
        self.gatherings |= obeyed.gatherings
        for pair, units in obeyed.bought.items():
            ledger.purchases[pair] = ledger.purchases.get(pair, 0) + units
        ledger.carts.take_out(obeyed.from_carts)
        ledger.put_returns(obeyed.give_back)
        if ledger.fail_after_commit:
            ledger.fail_after_commit -= 1
            raise Unavailable("the connection broke after the commit")

    async def told(self, partition: int, start: int, end: int) -> list[Told]:
        self._answer()
        places = ((partition, offset) for offset in range(start, end))
        return [self.decided[place].told for place in places if place in self.decided]

    def check(self, advances: Sequence[Advance], obeyed: Obeyed) -> None:
        """All that can refuse a batch, before anything is written."""
        self.ledger.pass_fence(Stream.COMMANDS, advances)
        taken: set[str] = set()
        for d in obeyed.decisions:
            if (d.partition, d.offset) in self.decided:
                raise StaleView(f"command {d.partition}-{d.offset} is decided already")
            if d.command is not None and d.outcome in _FIRST:
                if d.command.command_id in self._first or d.command.command_id in taken:
                    raise StaleView(f"command {d.command.command_id} is decided already")
                taken.add(d.command.command_id)
        self._check_versions(obeyed)

    def _check_versions(self, obeyed: Obeyed) -> None:
        ledger, before = self.ledger, obeyed.before
        for i, after in obeyed.stock.items():
            counts = obeyed.counts[i]
            if min(after.available, counts.held, counts.pending, counts.paid) < 0:
                raise StaleView(f"stock of {i} would be below zero")
            if ledger.stock.get(i, Stock(0, 0)) != before.stock.get(i, Stock(0, 0)):
                raise StaleView(f"stock of {i} is not as loaded")
        for i in {*obeyed.products, *obeyed.stock}:
            there, loaded = ledger.catalogue.get(i), before.products.get(i)
            if (there and there.version) != (loaded and loaded.version):
                raise StaleView(f"catalogue of {i} is not as loaded")
        for i in obeyed.orders:
            if ledger.orders[i].sequence != before.orders[i].sequence:
                raise StaleView(f"order {i} is not as loaded")

    def _answer(self) -> None:
        if not self.ledger.available:
            raise Unavailable("the ledger in memory is switched off")


def _about(d: CommandDecision, product_id: str) -> bool:
    return d.command is not None and d.command.subject() == product_id


class MemoryRefunds:
    """See `stock_ledger.commands.refunds.Refunds`. `details` are those noted, by reference."""

    def __init__(self, ledger: MemoryCommandLedger) -> None:
        self._ledger = ledger
        self._tries: dict[tuple[str, str], tuple[datetime, int]] = {}  # try at, tries
        self.details: dict[str, str] = {}

    async def take(self, now: datetime, until: datetime, rows_max: int) -> list[DueRefund]:
        self._answer()
        open_ones = [
            (*self._tries.get((order.order_id, r.reference), (r.due_at, 0)), r, order)
            for order in self._ledger.ledger.orders.values()
            for r in order.refunds
            if not r.refunded
        ]
        found = []
        for _, tries, r, order in sorted((o for o in open_ones if o[0] <= now), key=lambda o: o[0])[
            :rows_max
        ]:
            self._tries[order.order_id, r.reference] = (until, tries + 1)
            found.append(
                DueRefund(
                    order.order_id, r.reference, r.provider, tries + 1, order.method, order.total, order.currency,
                    order.expires_at,
                )
            )  # fmt: skip
        return found

    async def note(self, due: DueRefund, try_at: datetime, detail: str, *, counts: bool = True) -> None:
        self._answer()
        self._tries[due.order_id, due.reference] = (try_at, due.tries if counts else due.tries - 1)
        self.details[due.reference] = detail

    def _answer(self) -> None:
        if not self._ledger.ledger.available:
            raise Unavailable("the ledger in memory is switched off")


class MemoryDue:
    """See `stock_ledger.commands.due.DueStore`."""

    def __init__(self, ledger: MemoryCommandLedger) -> None:
        self._ledger = ledger

    async def payments(self, now: datetime, after: Due, rows_max: int) -> list[Due]:
        self._answer()
        due = [
            (order.expires_at, order.order_id)
            for order in self._ledger.ledger.orders.values()
            if order.payment in (PaymentStatus.PENDING, PaymentStatus.FAILED)
        ]
        return self._piece(due, now, after, rows_max)

    async def gatherings(self, now: datetime, after: Due, rows_max: int) -> list[Due]:
        self._answer()
        open_ones = [g for g in self._ledger.gatherings.values() if g.decided_at is None]
        return self._piece([(g.deadline, g.checkout_id) for g in open_ones], now, after, rows_max)

    def _piece(self, due: list[Due], now: datetime, after: Due, rows_max: int) -> list[Due]:
        return sorted(one for one in due if one[0] <= now and one > after)[:rows_max]

    def _answer(self) -> None:
        if not self._ledger.ledger.available:
            raise Unavailable("the ledger in memory is switched off")
