"""The messages on the checkouts topic, their decoding, and the types they share with the HTTP requests."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from contracts.errors import UndecodableMessage
from contracts.slices import SLICES_MAX, stock_id
from contracts.topics import partition_of

Id = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_-]{1,64}\Z", description="1-64 of A-Z a-z 0-9 _ -", examples=["sku-1001"]
    ),
]
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
Uuid = Annotated[str, msgspec.Meta(pattern=UUID_PATTERN)]
Amount = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[0-9]{1,12}(\.[0-9]{1,4})?\Z",
        description="decimal number as a string",
        examples=["129.00"],
    ),
]
AMOUNT_MAX = Decimal(
    "999999999999.9999"
)  # what an Amount can say; no order may cost more, or it could not be paid
Currency = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z", description="ISO 4217 code", examples=["CNY"])]
PaymentMethod = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,32}\Z", examples=["wechat"])]
# No U+0000: Postgres cannot store it in text.
Name = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z", min_length=1, max_length=100)]
Phone = Annotated[str, msgspec.Meta(pattern=r"^[0-9+() .-]{3,32}\Z", examples=["+86 138 0000 0000"])]
AddressText = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z", min_length=1, max_length=500)]
Cover = Annotated[str, msgspec.Meta(max_length=500, pattern=r"^[^\x00]*\Z")]
BuyerLimit = Annotated[int, msgspec.Meta(ge=1, le=10**12)]  # units
PaymentTtl = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]  # seconds
StockUnits = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
# What becomes of a product's checkouts while its second stock source does not answer.
WhenSourceIsDown = Literal["refuse", "trust_local"]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]  # RFC 3339, UTC
Note = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z", max_length=10_000)]


_uuid = re.compile(UUID_PATTERN)


def is_uuid(text: str) -> bool:
    """Whether it is a UUID as Sluiceway writes them, in lower case."""
    return _uuid.match(text) is not None


class Money(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An amount in the main unit of a currency, exact."""

    amount: Amount
    currency: Currency

    def decimal(self) -> Decimal:
        return Decimal(self.amount)


class Shipping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to, as it is copied into the order."""

    contact_name: Name
    phone: Phone
    address: AddressText


class CheckoutLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One product of one checkout: the value of a message on the checkouts topic, as JSON.

    Unknown fields are ignored, so that an older writer can read a newer ingest's messages; `v` changes when
    that would be wrong. `basket` is all lines of the checkout, there only when `expected_total` spans several. With
    `from_cart` the product leaves the buyer's cart if it is bought. `slice` is the slice of the product that is asked; with
    `forwarded` another one has sent the line here, to be decided here whatever is left.
    """

    v: Literal[1]
    checkout_id: Uuid
    buyer_id: Id
    product_id: Id
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    payload_hash: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    accepted_at_ms: Annotated[int, msgspec.Meta(ge=0, le=4_102_444_800_000)]
    line: Annotated[int, msgspec.Meta(ge=0, le=999)] = 0
    lines: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    policy: Literal["independent", "all_or_nothing"] = "independent"
    payment_method: PaymentMethod = "wechat"
    note: Note = ""
    address_id: Id | None = None
    shipping: Shipping | None = None
    expected_total: Money | None = None
    basket: (
        Annotated[
            list[tuple[Id, Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]]],
            msgspec.Meta(min_length=1, max_length=1000),
        ]
        | None
    ) = None
    from_cart: bool = False
    slice: Annotated[int, msgspec.Meta(ge=0, lt=SLICES_MAX)] = 0
    forwarded: bool = False

    @property
    def stock_id(self) -> str:
        return stock_id(self.product_id, self.slice)

    def partition_key(self) -> bytes:
        return self.stock_id.encode()


_decoder = msgspec.json.Decoder(CheckoutLine)
encode_checkout_line = msgspec.json.Encoder().encode


def read_checkout_line(value: bytes | str | None) -> CheckoutLine:
    """Decode a value, wherever it lies. Raises UndecodableMessage with what is wrong."""
    if value is None:
        raise UndecodableMessage("the message has no value")
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UndecodableMessage(str(error)) from error


def decode_checkout_line(
    value: bytes | None, key: bytes | None, partition: int, partitions: int
) -> CheckoutLine:
    """Decode and check the value of a checkouts message found in `partition` of `partitions`.

    Raises UndecodableMessage with what is wrong: no retry can mend it, it goes to the dead-letter topic.
    """
    line = read_checkout_line(value)
    if key != line.partition_key():
        raise UndecodableMessage("the key is not the product id")
    if partition_of(line.stock_id, partitions) != partition:
        raise UndecodableMessage(f"product {line.stock_id} does not belong to partition {partition}")
    if (line.address_id is None) == (line.shipping is None):
        raise UndecodableMessage("exactly one of address_id and shipping must be given")
    return line
