"""A batch of commands while it is being decided: the book as it is after those before, and what came of them."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import orjson

from contracts.commands import Command, encode_command
from contracts.decisions import number_of
from contracts.events import command_event
from contracts.slices import product_of, slice_of
from stock_ledger.batch import Product, Stock
from stock_ledger.commands.book import (
    Book,
    CommandDecision,
    Counts,
    Given,
    LedgerEntry,
    NewOrder,
    Obeyed,
    OrderState,
    Told,
)
from stock_ledger.upstream.source import GiveBack


class Work:
    """Handlers read `book`, which they change through the methods here, and call `event`, `ask` and `show`."""

    def __init__(self, book: Book, now: datetime, partitions: int, hold_ttl_s: float) -> None:
        self.book = book
        self.now = now
        self.partitions = partitions
        self.hold_ttl_s = hold_ttl_s
        self.given = Given(0, 0, None)
        self._before = msgspec.structs.replace(
            book, orders=dict(book.orders), holds=dict(book.holds), gatherings=dict(book.gatherings),
            products=dict(book.products), stock=dict(book.stock), counts=dict(book.counts),
        )  # fmt: skip
        self._new_orders: dict[str, NewOrder] = {}
        self._ledger: list[LedgerEntry] = []
        self._bought: dict[tuple[str, str], int] = {}
        self._from_carts: list[tuple[str, str]] = []
        self._give_back: list[GiveBack] = []
        self._told = Told()

    def begin(self, given: Given) -> None:
        self.given = given
        self._told = Told([], [], [])

    def told(self) -> Told:
        return self._told

    def move(
        self, product_id: str, kind: str, order_id: str | None = None, *,
        available: int = 0, held: int = 0, pending: int = 0, paid: int = 0,
    ) -> None:  # fmt: skip
        """Move units of a product between what is available and the counts, with an entry in the ledger."""
        before, counts = self.book.stock[product_id], self.book.counts[product_id]
        after = Stock(before.available + available, before.seq + 1)
        self.book.stock[product_id] = after
        self.book.counts[product_id] = Counts(
            counts.held + held, counts.pending + pending, counts.paid + paid
        )
        self._ledger.append(
            LedgerEntry(
                product_id, after.seq, available, after.available, kind, self.given.partition, self.given.offset,
                order_id, self.now,
            )
        )  # fmt: skip

    def change_stock(self, product_id: str, kind: str, units: int, why: str) -> None:
        """So many units more are available, or less, and that is told."""
        self.move(product_id, kind, available=units)
        command, slices = self.given.command, self.book.products[product_id].slices
        self.event(
            "stock.changed",
            product_of(product_id),
            {
                "product_id": product_of(product_id),
                **({"slice": slice_of(product_id)} if slices > 1 else {}),
                "kind": kind,
                "units": units,
                "why": why,
                "actor": "" if command is None else command.actor,
                "available": self.book.stock[product_id].available,
                **msgspec.structs.asdict(self.book.counts[product_id]),
            },
        )

    def give_back(self, product_id: str, units: int) -> None:
        """Units came back: its second stock source, if it has one, is to have them again."""
        product = self.book.products.get(product_id)
        if product is not None and product.stock_source is not None:
            cause = f"command-{self.given.partition}-{self.given.offset}"
            self._give_back.append(GiveBack(product_id, cause, units))

    def open_stock(self, product_id: str, units: int) -> None:
        """The stock of a product that is new."""
        self.book.stock[product_id] = Stock(0, 0)
        self.book.counts[product_id] = Counts()
        self.move(product_id, "initial", available=units)

    def count_purchase(self, product_id: str, buyer_id: str, units: int) -> None:
        """So many units more, or less, of a product with a limit per buyer."""
        key = (product_of(product_id), buyer_id)
        self._bought[key] = self._bought.get(key, 0) + units

    def take_out_of_cart(self, buyer_id: str, product_id: str) -> None:
        self._from_carts.append((buyer_id, product_of(product_id)))

    def create(self, order: NewOrder) -> None:
        self._new_orders[order.state.order_id] = order
        self.book.orders[order.state.order_id] = order.state

    def put_product(self, product: Product) -> None:
        self.book.products[product.product_id] = product

    def order_event(self, kind: str, order: OrderState, **more: Any) -> OrderState:
        """Tell what became of an order, and give it with the number of that event.

        The data is the order as it is then, and `more`.
        """
        order = msgspec.structs.replace(order, sequence=order.sequence + 1)
        self.book.orders[order.order_id] = order
        self.event(
            kind, order.order_id, {"order_id": order.order_id, **document_of(order), **more}, order.sequence
        )
        return order

    def event(self, kind: str, subject: str, data: dict[str, Any], sequence: int | None = None) -> None:
        """Tell the world. The event's id is that of the command and its number among the command's events."""
        p, offset = self.given.partition, self.given.offset
        command = self.given.command
        whole = {
            **data,
            "type": kind,
            "at": self.now,
            "command_id": None if command is None else command.command_id,
            "partition": p,
            "command_offset": offset,
        }
        number = len(self._told.events)
        self._told.events.append(
            command_event(kind, subject, p, offset, number, self.now, dump(whole), sequence)
        )

    def ask(self, command: Command) -> None:
        """Send another partition's writer a command."""
        place = command.partition(self.partitions)
        self._told.commands.append((place, command.subject().encode(), encode_command(command)))

    def show(self, checkout_id: str, field: str, document: dict[str, Any]) -> None:
        """Show a result to those who poll."""
        self._told.results.append((checkout_id, field, dump(document)))

    def result(self, decisions: list[CommandDecision]) -> Obeyed:
        """All that changed."""
        b, book = self._before, self.book
        return Obeyed(
            before=b,
            decisions=decisions,
            new_orders={i: msgspec.structs.replace(o, state=book.orders[i]) for i, o in self._new_orders.items()},
            orders={i: o for i, o in _changed(b.orders, book.orders).items() if i not in self._new_orders},
            holds=_changed(b.holds, book.holds),
            gatherings=_changed(b.gatherings, book.gatherings),
            products=_changed(b.products, book.products),
            new_products=frozenset(book.products.keys() - b.products.keys()),
            stock=_changed(b.stock, book.stock),
            counts=_changed(b.counts, book.counts),
            ledger=self._ledger,
            bought={key: units for key, units in self._bought.items() if units},
            from_carts=self._from_carts,
            give_back=self._give_back,
        )  # fmt: skip


def document_of(order: OrderState) -> dict[str, Any]:
    """An order as events tell it."""
    return {
        "number": number_of(order.order_id),
        "checkout_id": order.checkout_id,
        "buyer_id": order.buyer_id,
        "status": order.status.value,
        "total": {"amount": str(order.total), "currency": order.currency},
        "payment": {"status": order.payment.value, "method": order.method, "expires_at": order.expires_at},
        "items": [
            {"product_id": product_of(i.product_id), "quantity": i.quantity, "price": str(i.price)}
            for i in order.items
        ],
    }


def dump(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_UTC_Z, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value)} has no place in an event")


def _changed(before: dict[Any, Any], after: dict[Any, Any]) -> dict[Any, Any]:
    return {key: value for key, value in after.items() if before.get(key) is not value}
