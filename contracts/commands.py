"""The messages on the commands topic: what is asked about products, orders and held checkouts that exist already."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from contracts.command_parts import Millis, OfCheckout, OfOrder, OfProduct, OfSlice, Short, Units, Why, Wrong
from contracts.errors import UndecodableMessage
from contracts.messages import (
    Amount,
    BuyerLimit,
    Cover,
    Currency,
    Id,
    Moment,
    Money,
    Name,
    Note,
    PaymentMethod,
    PaymentTtl,
    Shipping,
    StockUnits,
    Uuid,
    WhenSourceIsDown,
)
from contracts.outcomes import Reason
from contracts.slices import SLICES_MAX, SliceNumber, Slices, StockId, slice_of, stock_id


class Cancel(OfOrder, frozen=True, tag="cancel"):
    """The buyer does not want the order."""

    buyer_id: Id


class Close(OfOrder, frozen=True, tag="close"):
    """The merchant will not fulfil the order."""

    why: Why = ""


class Pick(OfOrder, frozen=True, tag="pick"):
    """The goods are taken from the shelf."""


class Ship(OfOrder, frozen=True, tag="ship"):
    """The goods are on their way."""

    carrier: Why = ""
    tracking: Why = ""


class Complete(OfOrder, frozen=True, tag="complete"):
    """The buyer has the goods."""


class Expire(OfOrder, frozen=True, tag="expire"):
    """The time for paying is over. `expires_at_ms` is what the timer read: if it was moved since, nothing happens."""

    expires_at_ms: Millis


class Pay(OfOrder, frozen=True, tag="pay"):
    """A provider's notice about a payment. `reference` is the provider's name for the payment it is about."""

    provider: PaymentMethod
    event_id: Short
    reference: Short
    outcome: Literal["paid", "failed", "refunded"]
    amount: Money
    occurred_at_ms: Millis


class Restock(OfProduct, frozen=True, tag="restock"):
    """So many units more can be sold."""

    units: Units
    why: Why = ""


class Adjust(OfProduct, frozen=True, tag="adjust"):
    """Correct the count, up or down; never below what is held or sold."""

    units: Annotated[int, msgspec.Meta(ge=-(10**12), le=10**12)]
    why: Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z", min_length=1, max_length=500)]


class SetStock(OfProduct, frozen=True, tag="set_stock"):
    """All there is of a product, what is held and sold included, is `total` units."""

    total: StockUnits
    why: Why = ""


class PutProduct(OfProduct, frozen=True, tag="put_product"):
    """A product as it is to be from here on. `stock` counts only when it is new. Without `slices` it has as many as before,
    one if it is new.
    """

    name: Name
    price: Amount
    currency: Currency
    cover: Cover = ""
    sale_price: Amount | None = None
    on_shelf: bool = True
    buyer_limit: BuyerLimit | None = None
    payment_ttl_s: PaymentTtl = 900
    sale_from: Moment | None = None  # `decode_command` keeps these within 1970 to 2100
    sale_to: Moment | None = None
    stock_source: WhenSourceIsDown | None = None
    stock: StockUnits = 0
    slices: Slices | None = None

    def wrong(self) -> Wrong | None:
        return _wrong_window(self.sale_from, self.sale_to)


class PatchProduct(OfProduct, frozen=True, tag="patch_product"):
    """What changes of a product; a field that is not given stays, null clears it."""

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

    def wrong(self) -> Wrong | None:
        return _wrong_window(self.sale_from, self.sale_to)


class TakeOver(OfSlice, frozen=True, tag="take_over"):
    """The product of this slice is as told from here on, if that is newer than what the slice has; `units` come with it.

    With `hand_on` not all slices are known to be there: none has units yet, and this one tells the next.
    """

    name: Name
    price: Amount
    currency: Currency
    on_shelf: bool
    payment_ttl_s: PaymentTtl
    version: Annotated[int, msgspec.Meta(ge=1)]
    slices: Annotated[int, msgspec.Meta(ge=2, le=SLICES_MAX)]
    cover: Cover = ""
    sale_price: Amount | None = None
    buyer_limit: BuyerLimit | None = None
    sale_from: Moment | None = None
    sale_to: Moment | None = None
    units: StockUnits = 0
    hand_on: bool = False

    def wrong(self) -> Wrong | None:
        number = slice_of(self.product_id)
        if not 0 < number < self.slices:
            detail = f"slice {number} is not one of {self.slices} that take over from another one"
            return Wrong("product_id", detail)
        if self.hand_on and self.units:
            detail = f"{self.units} units with an entry that is handed on: each slice would have them"
            return Wrong("units", detail)
        return _wrong_window(self.sale_from, self.sale_to)


class OpenSlices(OfProduct, frozen=True, tag="open_slices"):
    """All slices of the product have its entry: from here on each has buyers of its own."""


class Move(OfProduct, frozen=True, tag="move"):
    """Take available units out of a slice of the product, for another one."""

    slice: SliceNumber
    to: SliceNumber
    units: Units
    why: Why = ""

    def subject(self) -> str:
        return stock_id(self.product_id, self.slice)


class TakeIn(OfSlice, frozen=True, tag="take_in"):
    """Units that were taken out of another slice are available in this one."""

    units: Units
    why: Why = ""


class HoldAnswer(OfCheckout, frozen=True, tag="hold_answer"):
    """What became of one line of an all-or-nothing checkout: held, or refused for `reason`.

    What the order is made of comes with it: the item as it was when it was held.
    """

    product_id: StockId
    buyer_id: Id
    payload_hash: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    line: Annotated[int, msgspec.Meta(ge=0, le=999)]
    lines: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    reason: Annotated[str, msgspec.Meta(pattern=r"^[a-z_]*\Z", max_length=50)] = ""  # a Reason; empty: held
    name: Why = ""
    cover: Why = ""
    price: Amount = "0"
    currency: Annotated[str, msgspec.Meta(pattern=r"^([A-Z]{3})?\Z")] = ""
    payment_ttl_s: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    payment_method: PaymentMethod = "wechat"
    shipping: Shipping | None = None
    note: Note = ""
    from_cart: bool = False

    def wrong(self) -> Wrong | None:
        if self.line >= self.lines:
            return Wrong("line", f"line {self.line} is not one of {self.lines}; lines count from 0")
        if self.reason and self.reason not in _REASONS:
            return Wrong("reason", f"{self.reason} is not a reason; an empty one says that the line is held")
        if not self.reason and (self.shipping is None or not self.name or not self.currency):
            return Wrong("reason", "a line that is held needs its name, currency and shipping")
        return None


class Abandon(OfCheckout, frozen=True, tag="abandon"):
    """The deadline is over: what is held for the checkout is given back unless all of it was."""


class Settle(OfSlice, frozen=True, tag="settle"):
    """What becomes of a hold: units of an order that waits for payment, of one that is paid, or given back."""

    checkout_id: Uuid
    to: Literal["pending", "paid", "released"]
    order_id: Uuid | None = None


Command = (
    Cancel | Close | Pick | Ship | Complete | Expire | Pay | Restock | Adjust | SetStock | PutProduct | PatchProduct
    | TakeOver | OpenSlices | Move | TakeIn | HoldAnswer | Abandon | Settle
)  # fmt: skip

_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
_encoder = msgspec.json.Encoder()
_FIRST_YEAR, _LAST_YEAR = 1970, 2100
_REASONS = frozenset(Reason)


def encode_command(command: Command) -> bytes:
    return _encoder.encode(command)


def decode_command(value: bytes | None, key: bytes | None, partition: int, partitions: int) -> Command:
    """Decode and check the value of a commands message found in `partition` of `partitions`.

    Raises UndecodableMessage with what is wrong: no retry can mend it, it goes to the dead-letter topic.
    """
    command = read_command(value)
    if key != command.subject().encode():
        raise UndecodableMessage("the key is not what the command is about")
    if command.partition(partitions) != partition:
        raise UndecodableMessage(f"{command.subject()} does not belong to partition {partition}")
    return command


def read_command(value: str | bytes | None) -> Command:
    """Decode and check a value, wherever it lies. Raises UndecodableMessage with what is wrong."""
    if value is None:
        raise UndecodableMessage("the message has no value")
    try:
        command = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableMessage(str(error)) from error
    if wrong := command.wrong():
        raise UndecodableMessage(wrong.detail)
    return command


def ends_before_it_begins(sale_from: datetime | None, sale_to: datetime | None) -> bool:
    """Whether nothing could ever be sold between these."""
    return sale_from is not None and sale_to is not None and sale_from >= sale_to


def _wrong_window(sale_from: object, sale_to: object) -> Wrong | None:
    for name, moment in (("sale_from", sale_from), ("sale_to", sale_to)):
        if isinstance(moment, datetime) and not _FIRST_YEAR <= moment.year < _LAST_YEAR:
            return Wrong(name, f"{name} must lie between the years {_FIRST_YEAR} and {_LAST_YEAR}")
    return None
