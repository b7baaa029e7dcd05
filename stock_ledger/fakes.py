"""The ledger in memory, for tests and trials: same rules as the real one, no clock, no random."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from contracts.decisions import Decision, Order
from contracts.errors import FenceLost, SoldMeanwhile, StaleView, Unavailable
from contracts.messages import Shipping
from contracts.outcomes import FIRST, Kind, OrderStatus, PaymentStatus
from contracts.topics import Stream
from stock_ledger.batch import Decided, Loaded, OpenRow, Product, Stock
from stock_ledger.buyer_fakes import MemoryCarts
from stock_ledger.commands.book import Counts, Gathering, HoldState, Item, OrderState
from stock_ledger.commands.whole import whole_answer
from stock_ledger.ledger import Advance, Claim, Entry, Need
from stock_ledger.upstream.settle import Short, against_short
from stock_ledger.upstream.source import GiveBack, Intended, Outstanding, Reserve, rows_of


class MemoryLedger:
    """See `stock_ledger.ledger.Ledger`.

    Switches: `available` False makes every call raise Unavailable. The next `fail_before_commit` calls of persist
    write nothing and raise Unavailable; the next `fail_after_commit` write all and raise it just the same.
    """

    def __init__(self) -> None:
        self.catalogue: dict[str, Product] = {}
        self.stock: dict[str, Stock] = {}
        self.partitions: dict[str, int] = {}  # product -> partition
        self.address_book: dict[tuple[str, str], Shipping] = {}
        self.claims: dict[int, Claim] = {}
        self.owners: dict[int, str] = {}
        self.decided: dict[tuple[int, int], Decision] = {}  # (partition, offset)
        self.purchases: dict[tuple[str, str], int] = {}
        self.orders: dict[str, OrderState] = {}
        self.holds: dict[tuple[str, str], HoldState] = {}  # (checkout_id, product_id)
        self.counts: dict[str, Counts] = {}  # of products
        self.carts = MemoryCarts()
        self.intended: dict[tuple[int, int, str], Reserve] = {}  # (partition, next_offset, product)
        self.open: list[OpenRow] = []  # with the second stock source
        self.available = True
        self.fail_before_commit = 0
        self.fail_after_commit = 0
        self._first: dict[str, dict[str, Decision]] = {}  # checkout -> stock id -> its first decision
        self._forwarded: dict[str, dict[str, Decision]] = {}  # the same, where it was sent on

    def put(self, product: Product, stock: Stock, partition: int) -> None:
        """Add or replace a product with its stock."""
        self.catalogue[product.product_id] = product
        self.stock[product.product_id] = stock
        self.partitions[product.product_id] = partition

    async def claim(self, partitions: Sequence[int], owner: str, now: datetime) -> dict[int, Claim]:
        self._answer()
        for p in partitions:
            before = self.claims.get(p, Claim(0, 0))
            self.claims[p] = Claim(before.epoch + 1, before.next_offset, before.next_command)
            self.owners[p] = owner
        return {p: self.claims[p] for p in partitions}

    async def state(self, partitions: Sequence[int]) -> dict[int, Claim]:
        self._answer()
        return {p: self.claims[p] for p in partitions if p in self.claims}

    async def products(self, product_ids: Sequence[str]) -> dict[str, Entry]:
        self._answer()
        return {i: (self.catalogue[i], self.stock[i]) for i in product_ids if i in self.catalogue}

    async def partition_products(self, partition: int) -> dict[str, Entry]:
        return await self.products([i for i, p in self.partitions.items() if p == partition])

    async def load(self, need: Need, entries: dict[str, Entry]) -> Loaded:
        self._answer()
        found = [d for checkout_id in need.checkouts for d in self._first.get(checkout_id, {}).values()]
        sent = [d for checkout_id in need.sliced for d in self._forwarded.get(checkout_id, {}).values()]
        return Loaded(
            products={i: product for i, (product, _) in entries.items()},
            stock={i: stock for i, (_, stock) in entries.items()},
            bought={pair: self.purchases[pair] for pair in need.limited if pair in self.purchases},
            addresses={pair: self.address_book[pair] for pair in need.addresses if pair in self.address_book},
            decided={(d.checkout_id or "", d.stock_id): d.offset for d in found},
            forwarded={(d.checkout_id or "", d.stock_id): d.offset for d in sent},
            hashes={(d.checkout_id or "", d.stock_id): d.payload_hash for d in [*sent, *found]},
        )

    async def intend(self, advances: Sequence[Advance], requests: Sequence[Reserve]) -> Intended:
        self._answer()
        self.pass_fence(Stream.CHECKOUTS, advances)
        offsets = {a.partition: a.claim.next_offset for a in advances}
        before = [r for (p, at, _), r in sorted(self.intended.items()) if offsets.get(p) == at]
        again = frozenset(request.product_id for request in before)
        new = [request for request in requests if request.product_id not in again]
        for r in new:
            self.intended[r.partition(), offsets[r.partition()], r.product_id] = r
        return Intended([*before, *new], again)

    async def persist(self, advances: Sequence[Advance], decided: Decided, loaded: Loaded) -> None:
        self._answer()
        if self.fail_before_commit:
            self.fail_before_commit -= 1
            raise Unavailable("the connection broke before the commit")
        self.check(advances, decided, loaded)
        for a in advances:
            self.claims[a.partition] = self.claims[a.partition].advanced(Stream.CHECKOUTS, a.next_offset)
        for d in decided.decisions:
            self.decided[d.partition, d.offset] = d
            self._take(d)
            if d.checkout_id is not None and d.kind in FIRST:
                self._first.setdefault(d.checkout_id, {})[d.stock_id] = d
            elif d.checkout_id is not None and d.kind is Kind.FORWARDED:
                self._forwarded.setdefault(d.checkout_id, {})[d.stock_id] = d
        self.stock |= decided.stock
        for pair, units in decided.bought.items():
            self.purchases[pair] = self.purchases.get(pair, 0) + units
        self.carts.take_out(decided.from_carts)
        if decided.left_open is not None:
            ended = {(a.partition, a.claim.next_offset) for a in advances}
            self.intended = {key: r for key, r in self.intended.items() if key[:2] not in ended}
            self.put_open(decided.left_open)
        if self.fail_after_commit:
            self.fail_after_commit -= 1
            raise Unavailable("the connection broke after the commit")

    def put_open(self, rows: Iterable[OpenRow]) -> None:
        """Add what is open with the second stock source and not yet there."""
        known = {row[:3] for row in self.open}
        self.open += [row for row in rows if row[:3] not in known]

    def put_returns(self, returns: Sequence[GiveBack]) -> None:
        """Units that came back: what is short is filled first."""
        short = [
            Short(product_id, batch, units)
            for kind, product_id, batch, units, _ in self.open
            if kind == "short"
        ]
        going, left = against_short(returns, short)
        of = {("short", one.product_id, one.batch): one.units for one in left}
        self.open = [
            row if row[0] != "short" else (*row[:3], of[row[:3]], of[row[:3]])
            for row in self.open
            if row[0] != "short" or of[row[:3]]
        ]
        self.put_open(rows_of(Outstanding(going, [])))

    def _take(self, d: Decision) -> None:
        """Keep the order or the hold of a decision, with the units that it takes."""
        counts = self.counts.get(d.stock_id, Counts())
        if d.order is not None:
            self.orders[d.order.order_id] = order_state(d, d.order)
            self.counts[d.stock_id] = Counts(counts.held, counts.pending + d.quantity, counts.paid)
        elif d.hold is not None and d.checkout_id is not None:
            self.holds[d.checkout_id, d.stock_id] = HoldState(
                d.checkout_id, d.stock_id, d.buyer_id, d.quantity, "held", d.hold.counted
            )
            self.counts[d.stock_id] = Counts(counts.held + d.quantity, counts.pending, counts.paid)

    async def decisions(self, partition: int, start: int, end: int) -> list[Decision]:
        self._answer()
        places = ((partition, offset) for offset in range(start, end))
        return [self.decided[place] for place in places if place in self.decided]

    def decisions_at(self, positions: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Decision]:
        """The decisions of those positions that have one. Raises Unavailable."""
        self._answer()
        return {at: self.decided[at] for at in positions if at in self.decided}

    def decisions_of_checkout(self, checkout_id: str) -> list[Decision]:
        """The first decision of each line that has one, by line. Raises Unavailable."""
        self._answer()
        return sorted(self._first.get(checkout_id, {}).values(), key=lambda d: (d.line, d.product_id))

    def conflicts_of_checkout(self, checkout_id: str) -> list[Decision]:
        """The refusals of messages of another payload, by line. Raises Unavailable."""
        self._answer()
        found = [d for d in self.decided.values() if d.checkout_id == checkout_id and d.kind is Kind.CONFLICT]
        return sorted(found, key=lambda d: (d.line, d.product_id))

    def check(self, advances: Sequence[Advance], decided: Decided, loaded: Loaded) -> None:
        """All that can refuse a batch, before anything is written."""
        self.pass_fence(Stream.CHECKOUTS, advances)
        taken: set[tuple[int, int] | tuple[str, str]] = set()
        for d in decided.decisions:
            if (at := (d.partition, d.offset)) in self.decided or at in taken:
                raise StaleView(f"{at} is decided already")
            taken.add(at)
            if d.checkout_id is not None and d.kind in FIRST:
                line = (d.checkout_id, d.stock_id)
                if d.stock_id in self._first.get(d.checkout_id, {}) or line in taken:
                    raise StaleView(f"{line} is decided already")
                taken.add(line)
        for i, after in decided.stock.items():
            if (
                self.stock.get(i) != loaded.stock[i]
                or self.catalogue[i].version != loaded.products[i].version
                or after.available < 0
            ):
                raise StaleView(f"stock or catalogue of {i} is not as loaded")
        sums = {pair: self.purchases.get(pair, 0) + units for pair, units in decided.bought.items()}
        if stale := loaded.sold_meanwhile(sums, decided):
            raise SoldMeanwhile(f"other slices sold to {len(stale)} buyers of products with a limit")

    def pass_fence(self, stream: Stream, advances: Sequence[Advance]) -> None:
        """Raises FenceLost unless all are still ours and, in this stream, where we think."""
        for a in advances:
            there = self.claims.get(a.partition, Claim(0, -1, -1))
            if (there.epoch, there.next_of(stream)) != (a.claim.epoch, a.claim.next_of(stream)):
                raise FenceLost(f"of partitions {[a.partition for a in advances]} not all are still ours")

    def _answer(self) -> None:
        if not self.available:
            raise Unavailable("the ledger in memory is switched off")


def order_state(d: Decision, order: Order) -> OrderState:
    """The order of a decision, as it is when it was just made."""
    return OrderState(
        order_id=order.order_id,
        checkout_id=d.checkout_id or "",
        buyer_id=d.buyer_id,
        status=OrderStatus.PENDING_PAYMENT,
        sequence=1,
        total=order.total,
        currency=order.currency,
        items=(Item(d.line, d.stock_id, order.name, order.cover, order.price, d.quantity, order.counted),),
        method=order.payment_method,
        payment=PaymentStatus.PENDING,
        expires_at=order.expires_at,
    )


class MemoryReads:
    """Of `stock_ledger.reads.Reads` what tells decisions, from a ledger in memory, and the gatherings of the commands'
    ledger beside it.
    """

    def __init__(self, ledger: MemoryLedger, gatherings: Mapping[str, Gathering]) -> None:
        self._ledger = ledger
        self._gatherings = gatherings

    async def next_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        return {p: claim.next_offset for p, claim in (await self._ledger.state(partitions)).items()}

    async def decisions_at(self, positions: Sequence[tuple[int, int]]) -> dict[tuple[int, int], Decision]:
        return self._ledger.decisions_at(positions)

    async def decisions_of_checkout(self, checkout_id: str) -> list[Decision]:
        return self._ledger.decisions_of_checkout(checkout_id)

    async def conflicts_of_checkout(self, checkout_id: str) -> list[Decision]:
        return self._ledger.conflicts_of_checkout(checkout_id)

    async def whole_answer(self, checkout_id: str) -> bytes | None:
        await self._ledger.state(())  # raises Unavailable
        gathering = self._gatherings.get(checkout_id)
        return None if gathering is None else whole_answer(gathering)
