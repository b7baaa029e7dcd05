"""A small sale as facts of an audit: clean, and easy to spoil."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec

from contracts.commands import Restock
from contracts.decisions import Decision, Order, order_id_of
from contracts.events import event_of
from contracts.messages import CheckoutLine, Shipping
from contracts.outcomes import Kind, Reason
from contracts.times import from_ms
from stock_ledger.audit.command_facts import CommandMessage, CommandRow
from stock_ledger.audit.decode import document_fact, event_fact, letter_fact, message_fact
from stock_ledger.audit.facts import (
    CacheFacts,
    DecisionRow,
    Facts,
    FigureRow,
    ItemRow,
    LedgerRow,
    OrderRow,
    PaymentRow,
    PostgresFacts,
    ProductRow,
    PurchaseRow,
    ResultFact,
    ShownProduct,
    ShownProgress,
    ShownStock,
    StockRow,
    TopicSpan,
)
from stock_ledger.batch import Product
from tests.harness import product_of

PARTITIONS = 2
AT_MS = 1_750_000_000_123
PRICE = Decimal("9.90")
SHIPPING = Shipping("A", "123", "Street 1")
ONE, OTHER = "a" * 32, "b" * 32  # payload hashes
HOT = product_of("hot", price=PRICE, buyer_limit=3)
BOOK = product_of("book", price=PRICE)
BOX = product_of("box", price=PRICE, on_shelf=False)


def checkout(number: int) -> str:
    return f"00000000-0000-8000-8000-{number:012d}"


def _row_of(p: Product) -> ProductRow:
    return ProductRow(
        p.product_id, p.buyer_limit, p.version, p.slices, p.price, p.sale_price, p.currency, p.on_shelf
    )


class Sale:
    """A sale of hot (2 units left after 5, at most 3 a buyer), book (10 units) and box (off the shelf), message by message."""

    def __init__(self) -> None:
        self.postgres = PostgresFacts(
            products=[_row_of(HOT), _row_of(BOOK), _row_of(BOX)],
            ledger=[
                LedgerRow("book", 1, 10, 10, "initial", None, None, None),
                LedgerRow("box", 1, 4, 4, "initial", None, None, None, AT_MS),
                LedgerRow("hot", 1, 5, 5, "initial", None, None, None),
            ],
        )
        self.facts = Facts(
            partitions=PARTITIONS,
            target={},
            checkouts={},
            events_span={},
            letters_span={p: TopicSpan(0, 9) for p in range(PARTITIONS)},
            postgres=self.postgres,
            messages=[],
            events=[],
            letters=[],
            cache=CacheFacts(),
        )
        self.stock = {"hot": 5, "book": 10, "box": 4}
        self.seq = {"hot": 1, "book": 1, "box": 1}
        self.given = 10  # of book
        self.ends = [0, 0]
        self.event_ends = [0, 0]

    def send(
        self, number: int, product: str, quantity: int, kind: Kind, *, reason: Reason | None = None,
        buyer: str = "b1", payload: str = ONE, first: int | None = None,
    ) -> None:  # fmt: skip
        p = 0 if product == "hot" else 1
        offset = self.ends[p]
        self.ends[p] += 1
        line = CheckoutLine(1, checkout(number), buyer, product, quantity, payload, AT_MS, shipping=SHIPPING)
        value = msgspec.json.encode(line)
        self.facts.messages.append(message_fact(p, offset, line.partition_key(), value, PARTITIONS))
        order = self._order(p, offset, quantity) if kind is Kind.CREATED else None
        order_id = None if order is None else order.order_id
        self.postgres.decisions.append(
            DecisionRow(
                p,
                offset,
                kind.value,
                checkout(number),
                buyer,
                product,
                quantity,
                payload,
                0,
                None if reason is None else reason.value,
                "",
                order_id,
                first,
                AT_MS,
            )
        )
        decision = Decision(
            p, offset, kind, from_ms(AT_MS), checkout(number), buyer, product, quantity, payload,
            reason=reason, order=order, first_offset=first, accepted_at=from_ms(AT_MS),
        )  # fmt: skip
        if order is not None:
            self._save(decision, order)
        if kind is not Kind.REPEATED:
            self._tell(decision)

    def send_garbage(self, p: int) -> None:
        offset = self.ends[p]
        self.ends[p] += 1
        message = message_fact(p, offset, b"k", b"{", PARTITIONS)
        self.facts.messages.append(message)
        self.postgres.decisions.append(
            DecisionRow(
                p, offset, "dead_lettered", None, "", "", 0, "", 0, None, message.error, None, None, AT_MS
            )
        )
        headers = [
            ("reason", message.error.encode()),
            ("partition", b"%d" % p),
            ("offset", b"%d" % offset),
        ]
        self.facts.letters.append(letter_fact(p, 0, b"k", b"{", headers))

    def restock(self, units: int) -> None:
        """More of book, by a command."""
        command = Restock(
            command_id=checkout(900), actor="merchant:m", asked_at_ms=AT_MS, product_id="book", units=units
        )
        self.stock["book"] += units
        self.seq["book"] += 1
        self.given += units
        self.postgres.ledger.append(
            LedgerRow("book", self.seq["book"], units, self.stock["book"], "restock", 1, 0, None)
        )
        self.postgres.commands.append(
            CommandRow(
                1, 0, command.command_id, "restock", "book", command.actor, "applied", None, "", None, AT_MS, command
            )
        )  # fmt: skip
        self.facts.commands.append(CommandMessage(1, 0, "", command))
        self.postgres.next_commands[1] = 1

    def end(self) -> Facts:
        """The sale as it is shown and counted when all is decided."""
        postgres, facts = self.postgres, self.facts
        postgres.states = {p: (3, end) for p, end in enumerate(self.ends)}
        postgres.stock = [
            StockRow("hot", 0, self.stock["hot"], self.seq["hot"], 0, 5 - self.stock["hot"]),
            StockRow("book", 1, self.stock["book"], self.seq["book"], 0, self.given - self.stock["book"]),
            StockRow("box", 1, 4, 1),
        ]
        postgres.decisions.sort()
        postgres.ledger.sort()
        postgres.figure_states = dict(enumerate(self.event_ends))
        facts.target = dict(enumerate(self.ends))
        facts.checkouts = {p: TopicSpan(0, end) for p, end in enumerate(self.ends)}
        facts.events_span = {p: TopicSpan(0, end) for p, end in enumerate(self.event_ends)}
        facts.cache.stock = [
            ShownStock(s.product_id, (s.seq, s.available), True, s.available <= 0, (s.seq, s.available))
            for s in postgres.stock
        ]
        facts.cache.products = [ShownProduct(p.product_id, p, True, p) for p in (HOT, BOOK, BOX)]
        facts.cache.progress = [ShownProgress(p, (3, end), True, (3, end)) for p, end in enumerate(self.ends)]
        return facts

    def _order(self, p: int, offset: int, quantity: int) -> Order:
        return Order(
            order_id_of(AT_MS, p, offset), "N", "", PRICE, "CNY", PRICE * quantity, "wechat",
            from_ms(AT_MS) + timedelta(seconds=900), SHIPPING, "",
        )  # fmt: skip

    def _save(self, d: Decision, order: Order) -> None:
        postgres, product = self.postgres, d.product_id
        self.stock[product] -= d.quantity
        self.seq[product] += 1
        postgres.orders.append(
            OrderRow(order.order_id, d.checkout_id or "", d.buyer_id, "pending_payment", order.total, "CNY")
        )
        postgres.items.append(ItemRow(order.order_id, 0, product, PRICE, d.quantity, product == "hot"))
        postgres.payments.append(PaymentRow(order.order_id, order.total, "CNY", "pending"))
        postgres.ledger.append(
            LedgerRow(
                product,
                self.seq[product],
                -d.quantity,
                self.stock[product],
                "order",
                d.partition,
                d.offset,
                order.order_id,
            )
        )
        if product == "hot":
            postgres.purchases.append(PurchaseRow(product, d.buyer_id, d.quantity))

    def _tell(self, d: Decision) -> None:
        document = d.document()
        event = event_of(d, document)
        assert event is not None
        self.facts.events.append(
            event_fact(d.partition, self.event_ends[d.partition], event[0], event[1], event[2])
        )
        self.event_ends[d.partition] += 1
        conflict = d.kind is Kind.CONFLICT
        field = f"#{d.partition}:{d.offset}" if conflict else d.product_id
        self.facts.cache.results.append(ResultFact(d.checkout_id or "", field, document_fact(document)))
        created = d.order is not None
        self.postgres.figures.append(
            FigureRow(
                d.partition,
                d.product_id,
                f"{d.reason or 'created'}",
                "CNY" if created else "",
                1,
                d.quantity,
                PRICE * d.quantity if created else Decimal(0),
            )
        )
        self._sum_figures()

    def _sum_figures(self) -> None:
        sums: dict[tuple[Any, ...], FigureRow] = {}
        for row in self.postgres.figures:
            kept = sums.get(row[:4], FigureRow(*row[:4], 0, 0, Decimal(0)))
            sums[row[:4]] = FigureRow(
                *row[:4], row.lines + kept.lines, row.units + kept.units, row.amount + kept.amount
            )
        self.postgres.figures = list(sums.values())


def clean() -> Facts:
    """Every kind of decision at least once. In partition 0, by offset:

    0 created 2 of hot, 1 refused for the buyer's limit, 2 created 3, 3 sold out, 4 repeats 0, 5 conflicts with 0,
    6 garbage. In partition 1: 0 created 8 of book, 1 insufficient stock, 2 created 1, 3 box is off the shelf.
    """
    sale = Sale()
    sale.send(1, "hot", 2, Kind.CREATED)
    sale.send(2, "hot", 2, Kind.REFUSED, reason=Reason.BUYER_LIMIT)
    sale.send(3, "hot", 3, Kind.CREATED, buyer="b2")
    sale.send(4, "hot", 1, Kind.REFUSED, reason=Reason.SOLD_OUT, buyer="b3")
    sale.send(1, "hot", 2, Kind.REPEATED, first=0)
    sale.send(1, "hot", 1, Kind.CONFLICT, reason=Reason.IDEMPOTENCY_CONFLICT, payload=OTHER)
    sale.send_garbage(0)
    sale.send(5, "book", 8, Kind.CREATED)
    sale.send(6, "book", 3, Kind.REFUSED, reason=Reason.INSUFFICIENT_STOCK)
    sale.send(7, "book", 1, Kind.CREATED)
    sale.send(8, "box", 1, Kind.REFUSED, reason=Reason.OFF_SHELF)
    return sale.end()


def change(rows: list[Any], match: Callable[[Any], bool], **fields: Any) -> None:
    """Change the fields of the one row that matches."""
    (at,) = [i for i, row in enumerate(rows) if match(row)]
    rows[at] = rows[at]._replace(**fields)


def drop(rows: list[Any], match: Callable[[Any], bool]) -> None:
    (at,) = [i for i, row in enumerate(rows) if match(row)]
    del rows[at]


def place(p: int, offset: int) -> Callable[[Any], bool]:
    return lambda row: bool(row.partition == p and row.offset == offset)


def of_order(p: int, offset: int) -> Callable[[Any], bool]:
    order_id = order_id_of(AT_MS, p, offset)
    return lambda row: bool(row.order_id == order_id)


def of_event(event_id: str) -> Callable[[Any], bool]:
    return lambda row: bool(row.event_id == event_id)


def of_product(product_id: str) -> Callable[[Any], bool]:
    return lambda row: bool(row.product_id == product_id)


Plant = Callable[[Facts], object]


class Plants:
    """Deviations to plant, each with the laws that it must break: exactly these."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Plant, set[str]]] = []

    def breaks(self, *codes: str) -> Callable[[Plant], Plant]:
        def keep(function: Plant) -> Plant:
            self.all.append((function.__name__, function, set(codes)))
            return function

        return keep
