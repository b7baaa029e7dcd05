"""The decision on one message: what writers persist, show and publish, and what clients read."""

from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
import orjson

from contracts.messages import Shipping
from contracts.outcomes import RETRYABLE, Kind, Reason
from contracts.slices import stock_id
from contracts.times import from_ms, to_ms_up


class Order(msgspec.Struct, frozen=True):
    """One order of one product with its pending payment; every value a snapshot at the time of deciding."""

    order_id: str
    name: str
    cover: str
    price: Decimal
    currency: str
    total: Decimal
    payment_method: str
    expires_at: datetime
    shipping: Shipping
    note: str
    counted: bool = False  # against the buyer's limit


class Hold(msgspec.Struct, frozen=True):
    """Units kept for one line of an all-or-nothing checkout, with the item as it was when it was held."""

    name: str
    cover: str
    price: Decimal
    currency: str
    payment_ttl_s: int
    payment_method: str
    shipping: Shipping
    note: str
    counted: bool = False
    from_cart: bool = False


class Decision(msgspec.Struct, frozen=True):
    """What became of the message at (partition, offset). Fields of the line are empty for a dead letter.

    `first_offset` is, for a repeated line, where it was decided, or was forwarded from; its partition is the same.
    `detail` says for a dead letter what was wrong, and of a forwarded line is the message as it was sent on.
    """

    partition: int
    offset: int
    kind: Kind
    decided_at: datetime
    checkout_id: str | None = None
    buyer_id: str = ""
    product_id: str = ""
    quantity: int = 0
    payload_hash: str = ""
    line: int = 0
    lines: int = 1
    accepted_at: datetime | None = None
    reason: Reason | None = None
    order: Order | None = None
    first_offset: int | None = None
    detail: str = ""
    hold: Hold | None = None
    whole: bool = False  # of an all-or-nothing checkout
    slice: int = 0  # of the product

    @property
    def stock_id(self) -> str:
        return stock_id(self.product_id, self.slice)

    def document(self) -> bytes:
        """The decision as JSON: the data of its event, the entry of the view and the answer to a poll."""
        answer: dict[str, Any] = {
            "checkout_id": self.checkout_id,
            "buyer_id": self.buyer_id,
            "line": self.line,
            "lines": self.lines,
            "product_id": self.product_id,
            "quantity": self.quantity,
            "status": "created" if self.order is not None else "refused" if self.hold is None else "held",
            "partition": self.partition,
            "offset": self.offset,
            "accepted_at": self.accepted_at,
            "decided_at": self.decided_at,
        }
        order = self.order
        if order is not None:
            currency = order.currency
            answer["order"] = {
                "order_id": order.order_id,
                "number": order_number(self.decided_at, self.partition, self.offset),
                "name": order.name,
                "cover": order.cover,
                "price": {"amount": str(order.price), "currency": currency},
                "total": {"amount": str(order.total), "currency": currency},
                "payment": {
                    "status": "pending",
                    "method": order.payment_method,
                    "expires_at": order.expires_at,
                },
            }
        elif self.reason is not None:
            answer["reason"] = self.reason.value
            answer["retryable"] = self.reason in RETRYABLE
        if self.whole:
            answer["policy"] = "all_or_nothing"
        return orjson.dumps(answer, option=orjson.OPT_UTC_Z)


BY_COMMAND = 1 << 61  # of an order id's 62 bits of offset: the offset is one of the commands topic


def order_id_of(decided_at_ms: int, partition: int, offset: int) -> str:
    """UUID version 8 (RFC 9562 §5.8) of 48 bits of Unix milliseconds, 12 of partition, 62 of offset.

    Unique because (partition, offset) is, with BY_COMMAND for offsets of commands; sorts by time; `number_of` reads
    it back.
    """
    low = f"{0x8000_0000_0000_0000 | offset:016x}"
    return f"{_id_head(decided_at_ms, partition)}-{low[:4]}-{low[4:]}"


@lru_cache(maxsize=256)  # a batch is decided at one time
def _id_head(decided_at_ms: int, partition: int) -> str:
    text = f"{(decided_at_ms << 16) | 0x8000 | partition:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:]}"


def lowest_order_id(moment: datetime) -> str:
    """The bound between order ids: those from it on are of orders decided at `moment` or later, all others earlier."""
    text = f"{max(to_ms_up(moment), 0):012x}"
    return f"{text[:8]}-{text[8:]}-0000-0000-000000000000"


def order_number(decided_at: datetime, partition: int, offset: int) -> str:
    """What people call an order: UTC second, partition, offset. Unique and, as text, sortable by time."""
    return f"{_number_head(decided_at, partition)}-{offset:012d}"


@lru_cache(maxsize=256)
def _number_head(decided_at: datetime, partition: int) -> str:
    return f"{decided_at:%Y%m%d-%H%M%S}-{partition:04d}"


def number_of(order_id: str) -> str:
    """The order number, from the order id alone. Ends with a C if a command made the order."""
    bits = _bits(order_id)
    offset = bits & 0x3FFF_FFFF_FFFF_FFFF
    number = order_number(from_ms(bits >> 80), (bits >> 64) & 0xFFF, offset & ~BY_COMMAND)
    return f"{number}C" if offset & BY_COMMAND else number


def order_partition(order_id: str) -> int:
    """The partition whose writer made the order, and decides what becomes of it."""
    return (_bits(order_id) >> 64) & 0xFFF


def made_by_command(order_id: str) -> bool:
    """Whether the order came from holds in several partitions, not from a line of its own partition."""
    return bool(_bits(order_id) & BY_COMMAND)


def _bits(order_id: str) -> int:
    return int(order_id.replace("-", ""), 16)
