"""What deciding commands needs, and what comes of it. No I/O."""

from datetime import datetime
from decimal import Decimal

import msgspec

from contracts.commands import Command, HoldAnswer
from contracts.events import Event
from contracts.messages import Shipping
from contracts.outcomes import OrderStatus, Outcome, PaymentStatus, Refusal
from stock_ledger.batch import Product, Stock
from stock_ledger.upstream.source import GiveBack


class Given(msgspec.Struct, frozen=True):
    """A command at its place in the log, or the error that made it a dead letter."""

    partition: int
    offset: int
    command: Command | None
    error: str = ""


class Item(msgspec.Struct, frozen=True):
    """An item of an order. `counted` says whether it counts against the buyer's limit."""

    line: int
    product_id: str
    name: str
    cover: str
    price: Decimal
    quantity: int
    counted: bool


class Refund(msgspec.Struct, frozen=True):
    """A payment of an order that is to be given back, or was. `provider` took it; empty where that is not known."""

    reference: str
    provider: str
    due_at: datetime
    refunded: bool = False


class OrderState(msgspec.Struct, frozen=True):
    """An order and its payment. `sequence` is the number of its newest event; creating it was the first."""

    order_id: str
    checkout_id: str
    buyer_id: str
    status: OrderStatus
    sequence: int
    total: Decimal
    currency: str
    items: tuple[Item, ...]
    method: str
    payment: PaymentStatus
    expires_at: datetime
    reference: str = ""  # the provider's name for the payment that was taken
    provider: str = ""  # who took it
    refunds: tuple[Refund, ...] = ()  # by reference

    def refund(self, reference: str) -> Refund | None:
        """What is known of giving this payment back."""
        return next((refund for refund in self.refunds if refund.reference == reference), None)

    def with_refund(self, refund: Refund) -> "OrderState":
        others = [other for other in self.refunds if other.reference != refund.reference]
        refunds = sorted([*others, refund], key=lambda one: one.reference)
        return msgspec.structs.replace(self, refunds=tuple(refunds))


class HoldState(msgspec.Struct, frozen=True):
    """Units kept for a line of an all-or-nothing checkout: "held", "pending", "paid" or "released"."""

    checkout_id: str
    product_id: str
    buyer_id: str
    quantity: int
    state: str
    counted: bool
    order_id: str | None = None


class Gathering(msgspec.Struct, frozen=True):
    """The answers to an all-or-nothing checkout so far. "gathering" ends as "confirmed"; or it turns to "refusing",
    with the first refusal, and ends as "refused".
    """

    checkout_id: str
    partition: int
    state: str
    deadline: datetime
    answers: tuple[HoldAnswer, ...]
    order_id: str | None = None
    decided_at: datetime | None = None
    decided_offset: int | None = None


class Counts(msgspec.Struct, frozen=True):
    """Units of a product that are not available: held, of orders that wait for payment, of paid ones."""

    held: int = 0
    pending: int = 0
    paid: int = 0

    def committed(self) -> int:
        return self.held + self.pending + self.paid


class Book(msgspec.Struct):
    """All that deciding a batch of commands needs. What is absent does not exist.

    `decided` maps a command id to the offset of its decision.
    """

    decided: dict[str, int]
    orders: dict[str, OrderState]
    holds: dict[tuple[str, str], HoldState]  # (checkout_id, product_id)
    gatherings: dict[str, Gathering]
    products: dict[str, Product]
    stock: dict[str, Stock]
    counts: dict[str, Counts]


class Need(msgspec.Struct, frozen=True):
    """What a batch of commands is about."""

    commands: list[str]
    orders: list[str]
    holds: list[tuple[str, str]]
    checkouts: list[str]
    products: list[str]


class Told(msgspec.Struct, frozen=True):
    """What a decision has published and shown; kept with it, so that it can be told again word for word.

    `commands` are (partition, key, value); `results` (checkout_id, field, document) for the view.
    """

    events: list[Event] = []
    commands: list[tuple[int, bytes, bytes]] = []
    results: list[tuple[str, str, bytes]] = []


class CommandDecision(msgspec.Struct, frozen=True):
    """What became of the command at (partition, offset)."""

    partition: int
    offset: int
    outcome: Outcome
    decided_at: datetime
    command: Command | None = None
    reason: Refusal | None = None
    first_offset: int | None = None
    detail: str = ""
    told: Told = Told()


class LedgerEntry(msgspec.Struct, frozen=True):
    """One change of a product's stock. `delta` is of what is available; the counts move by the kind."""

    product_id: str
    seq: int
    delta: int
    available: int
    kind: str
    partition: int
    offset: int
    order_id: str | None
    at: datetime


class NewOrder(msgspec.Struct, frozen=True):
    """An order that comes from holds."""

    state: OrderState
    shipping: Shipping
    note: str
    created_at: datetime


class Obeyed(msgspec.Struct, frozen=True):
    """What a batch of commands comes to: one decision each, in order, and everything that changed, as it is then.

    `before` is the book as it was.
    """

    before: Book
    decisions: list[CommandDecision]
    new_orders: dict[str, NewOrder]
    orders: dict[str, OrderState]
    holds: dict[tuple[str, str], HoldState]
    gatherings: dict[str, Gathering]
    products: dict[str, Product]
    new_products: frozenset[str]
    stock: dict[str, Stock]
    counts: dict[str, Counts]
    ledger: list[LedgerEntry]
    bought: dict[tuple[str, str], int]  # (product_id, buyer_id) -> units more, or less
    from_carts: list[tuple[str, str]]  # (buyer_id, product_id) bought from a cart
    give_back: list[GiveBack]  # units that go back to the second stock source
