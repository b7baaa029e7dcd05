"""The data of every event on the events topic. The AsyncAPI document is made from these types."""

from typing import Literal

import msgspec

from contracts.messages import Amount, Currency, Id, Moment, Uuid, WhenSourceIsDown
from contracts.outcomes import OrderStatus, PaymentStatus, Reason
from contracts.requests import LineOrder, Total
from contracts.slices import SliceNumber, Slices


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _OfLine(_Data, frozen=True):
    """A line of a checkout, decided at (`partition`, `offset`) of the checkouts topic."""

    checkout_id: Uuid
    buyer_id: Id
    line: int
    lines: int
    product_id: Id
    quantity: int
    partition: int
    offset: int
    accepted_at: Moment
    decided_at: Moment


class LineCreated(_OfLine, frozen=True):
    """A line became an order of its own: the order's first event."""

    status: Literal["created"]
    order: LineOrder


class LineRefused(_OfLine, frozen=True):
    """A line was refused. `retryable` says whether a new checkout with the same content may succeed."""

    status: Literal["refused"]
    reason: Reason
    retryable: bool


class _OfCommand(_Data, frozen=True):
    """What the command at (`partition`, `command_offset`) of the commands topic brought about, and when."""

    type: str
    at: Moment
    command_id: Uuid
    partition: int
    command_offset: int


class EventPayment(_Data, frozen=True):
    """The payment of an order."""

    status: PaymentStatus
    method: str
    expires_at: Moment


class EventItem(_Data, frozen=True):
    """An item of an order; `price` is of one unit, in the order's currency."""

    product_id: Id
    quantity: int
    price: Amount


class WholeLine(_Data, frozen=True):
    """A line of an all-or-nothing checkout. `reason` is there if it was refused; one that was refused by itself has no
    name, cover and price.
    """

    line: int
    product_id: Id
    quantity: int
    name: str | msgspec.UnsetType = msgspec.UNSET
    cover: str | msgspec.UnsetType = msgspec.UNSET
    price: Total | msgspec.UnsetType = msgspec.UNSET
    reason: Reason | msgspec.UnsetType = msgspec.UNSET
    retryable: bool | msgspec.UnsetType = msgspec.UNSET


class WholeRefused(_OfCommand, frozen=True):
    """An all-or-nothing checkout was refused, with the reason of each line that was answered."""

    checkout_id: Uuid
    buyer_id: Id
    status: Literal["refused"]
    decided_at: Moment
    lines: list[WholeLine]


class OrderChanged(_OfCommand, frozen=True):
    """An order as it is after this event."""

    order_id: Uuid
    number: str
    checkout_id: Uuid
    buyer_id: Id
    status: OrderStatus
    total: Total
    payment: EventPayment
    items: list[EventItem]


class WholeCreated(OrderChanged, frozen=True):
    """An all-or-nothing checkout became one order: the order's first event."""

    lines: list[WholeLine]


class OrderPaid(OrderChanged, frozen=True):
    """The payment `reference` was taken; `late` if the order had been closed for want of it."""

    reference: str
    late: bool


class OrderClosed(OrderChanged, frozen=True):
    """The order was closed, and its units are given back. `why` is the merchant's, if it was closed by one."""

    why: str = ""


class OrderShipped(OrderChanged, frozen=True):
    """The goods are on their way."""

    carrier: str
    tracking: str


class PaymentTold(OrderChanged, frozen=True):
    """What became of the payment `reference` of the order; an order that was paid twice has more than one."""

    reference: str


class AmountMismatch(OrderChanged, frozen=True):
    """A provider told of a payment of another amount or currency than the order's: nothing was done about it."""

    reference: str
    outcome: Literal["paid", "refunded"]
    noticed: Total


class StockChanged(_OfCommand, frozen=True):
    """Units were added, corrected or moved from or to another slice: `units` more, or less; how many there are now. Of a
    product with slices, all of it is of one `slice`.
    """

    product_id: Id
    kind: Literal["restock", "adjust", "set_stock", "move"]
    units: int
    why: str
    actor: str
    available: int
    held: int
    pending: int
    paid: int
    slice: SliceNumber = 0


class ProductChanged(_OfCommand, frozen=True):
    """A product as it is from now on. While `slices_open` is false, the first of its `slices` sells alone."""

    product_id: Id
    name: str
    cover: str
    price: Amount
    currency: Currency
    on_shelf: bool
    buyer_limit: int | None
    payment_ttl_s: int
    version: int
    sale_price: Amount | None
    sale_from: Moment | None
    sale_to: Moment | None
    stock_source: WhenSourceIsDown | None
    slices: Slices = 1
    slices_open: bool = True


class Kind(msgspec.Struct, frozen=True):
    """A type of event: about what, in which words, and the types that its data can have."""

    subject: Literal["order", "checkout", "product"]
    summary: str
    data: tuple[type[msgspec.Struct], ...]


KINDS: dict[str, Kind] = {
    "order.created": Kind("order", "An order was made.", (LineCreated, WholeCreated)),
    "order.paid": Kind("order", "Its payment was taken.", (OrderPaid,)),
    "order.closed": Kind("order", "It was cancelled, closed, or not paid in time.", (OrderClosed,)),
    "order.picked": Kind("order", "The goods are taken from the shelf.", (OrderChanged,)),
    "order.shipped": Kind("order", "The goods are on their way.", (OrderShipped,)),
    "order.completed": Kind("order", "The buyer has the goods.", (OrderChanged,)),
    "payment.failed": Kind("order", "A try to pay failed; another may succeed.", (PaymentTold,)),
    "payment.refund_due": Kind("order", "A payment is to be given back.", (PaymentTold,)),
    "payment.refunded": Kind("order", "A payment was given back.", (PaymentTold,)),
    "payment.amount_mismatch": Kind("order", "A payment of another amount was told.", (AmountMismatch,)),
    "checkout.refused": Kind(
        "checkout", "A line, or a whole all-or-nothing checkout, was refused.", (LineRefused, WholeRefused)
    ),
    "stock.changed": Kind(
        "product", "Units were added, corrected, counted anew or moved between slices.", (StockChanged,)
    ),
    "product.changed": Kind("product", "A product was added or changed.", (ProductChanged,)),
}
