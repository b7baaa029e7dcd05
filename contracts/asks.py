"""What is asked of orders, stock and the catalogue over HTTP, and what is answered. Each becomes a command."""

from typing import Annotated, Literal

import msgspec

from contracts.command_parts import Units, Why
from contracts.messages import (
    Amount,
    BuyerLimit,
    Cover,
    Currency,
    Id,
    Moment,
    Name,
    PaymentTtl,
    StockUnits,
    Uuid,
    WhenSourceIsDown,
)
from contracts.outcomes import Refusal
from contracts.requests import Total
from contracts.slices import SliceNumber, Slices


class CloseRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why the merchant closes an order."""

    why: Why = ""


class ShipRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the goods are on their way."""

    carrier: Why = ""
    tracking: Why = ""


class NoRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing more is to be said: an empty object."""


class StockRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A change of stock. `restock`: `units` more; `adjust`: the count corrected by `units`, up or down, with a reason;
    `set`: all there is, what is held and sold included, is `units`. Refused where less would be left than is held or sold.
    """

    kind: Literal["restock", "adjust", "set"]
    units: Annotated[int, msgspec.Meta(ge=-(10**12), le=10**12)]
    why: Why = ""


class MoveRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Available units of a product to be taken from one of its slices `to` another; slices count from 0."""

    slice: SliceNumber = msgspec.field(name="from")
    to: SliceNumber
    units: Units
    why: Why = ""


class ProductRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A product as it is to be. `stock` counts only when it is new; `sale_price`, if given, is what it sells for. Its stock
    may be split into `slices`, once, so that several writers sell it; it keeps those that it has.

    With `stock_source` a second system has to agree before it is sold; while that does not answer, checkouts are refused
    (`refuse`) or decided by the stock that is known here (`trust_local`). `sale_from` and `sale_to` lie between the years
    1970 and 2100.
    """

    name: Name
    price: Amount
    currency: Currency
    cover: Cover = ""
    sale_price: Amount | None = None
    on_shelf: bool = True
    buyer_limit: BuyerLimit | None = None
    payment_ttl_s: PaymentTtl = 900
    sale_from: Moment | None = None
    sale_to: Moment | None = None
    stock_source: WhenSourceIsDown | None = None
    stock: StockUnits = 0
    slices: Slices | None = None


class ProductLine(ProductRequest, frozen=True, kw_only=True):
    """A line of a catalogue file: a product as it is to be."""

    product_id: Id


class ProductPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What changes of a product: what is not given stays, null clears (RFC 7396)."""

    name: Name | msgspec.UnsetType = msgspec.UNSET
    price: Amount | msgspec.UnsetType = msgspec.UNSET
    cover: Cover | msgspec.UnsetType = msgspec.UNSET
    sale_price: Amount | msgspec.UnsetType | None = msgspec.UNSET
    on_shelf: bool | msgspec.UnsetType = msgspec.UNSET
    buyer_limit: BuyerLimit | msgspec.UnsetType | None = msgspec.UNSET
    payment_ttl_s: PaymentTtl | msgspec.UnsetType = msgspec.UNSET
    sale_from: Moment | msgspec.UnsetType | None = msgspec.UNSET
    sale_to: Moment | msgspec.UnsetType | None = msgspec.UNSET
    stock_source: WhenSourceIsDown | msgspec.UnsetType | None = msgspec.UNSET
    slices: Slices | msgspec.UnsetType = msgspec.UNSET


class CommandAccepted(msgspec.Struct, frozen=True):
    """The command is in the log and will be decided; what becomes of it stands at `status_url`."""

    command_id: Uuid
    action: str
    subject: str
    status_url: str
    partition: int
    offset: int


class ImportAccepted(msgspec.Struct, frozen=True):
    """All lines of the file are in the log, each as a command."""

    products: int
    commands: list[CommandAccepted]


class CommandStatus(msgspec.Struct, frozen=True):
    """What became of a command: `queued` until it is decided, then `applied`, `refused` for `reason`, or
    `dead_lettered`: it could not be read, `detail` says why. `partition` and `offset` are its place in the log.
    While it is queued, no more is known of it.
    """

    command_id: Uuid
    status: Literal["queued", "applied", "refused", "dead_lettered"]
    partition: int
    offset: int
    action: str = ""
    subject: str = ""
    actor: str = ""
    asked_at: Moment | None = None
    decided_at: Moment | None = None
    reason: Refusal | None = None
    detail: str = ""


class CommandLog(msgspec.Struct, frozen=True):
    """All commands about one order or product, oldest first: its append-only log."""

    commands: list[CommandStatus]


class SliceStock(msgspec.Struct, frozen=True):
    """Units of one slice of a product, from 0: `total` is the sum of the others."""

    slice: int
    available: int
    held: int
    pending_payment: int
    paid: int
    total: int


class ProductStock(msgspec.Struct, frozen=True):
    """Units of a product: `total` is the sum of the others. `slices` are those that there are by now; units that are on their
    way from one to another are in none.
    """

    product_id: Id
    available: int
    held: int
    pending_payment: int
    paid: int
    total: int
    slices: list[SliceStock]


class ProductView(msgspec.Struct, frozen=True):
    """A product as it sells now. `price` is what it sells for, `regular_price` what it costs otherwise. With `stock_source`
    a second system has to agree, and this is what happens while it does not answer.
    """

    product_id: Id
    name: str
    cover: str
    price: Total
    regular_price: Total
    on_shelf: bool
    buyer_limit: int | None
    payment_ttl_s: int
    sale_from: Moment | None
    sale_to: Moment | None
    stock_source: WhenSourceIsDown | None
    available: int
    version: int
    slices: int


class ProductPage(msgspec.Struct, frozen=True):
    """Products by id. `next` is the URL of the next page, None at the end."""

    products: list[ProductView]
    next: str | None


class PaymentStarted(msgspec.Struct, frozen=True):
    """What the buyer's client needs to pay: a URL to go to, a code to show, a secret for the provider's own form."""

    order_id: Uuid
    provider: str
    kind: str
    value: str


class ProviderCallback(msgspec.Struct, frozen=True):
    """What a payment provider tells, in the provider's own form."""
