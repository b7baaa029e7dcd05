"""What commands have in common: who asks for what, under which id, and whose writer decides it."""

from typing import Annotated, Literal, NamedTuple

import msgspec

from contracts.decisions import order_partition
from contracts.messages import Id, Uuid
from contracts.slices import StockId
from contracts.topics import partition_of

Units = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
Millis = Annotated[int, msgspec.Meta(ge=0, le=4_102_444_800_000)]  # since 1970, up to the year 2100
Why = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z", max_length=500)]
Short = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z", min_length=1, max_length=255)]


class Wrong(NamedTuple):
    """A field of a command, and what is wrong with it."""

    field: str
    detail: str


class _Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="action", omit_defaults=True):
    """What all commands have. The same `command_id` again is the same command: it has no second effect.

    `actor` is who asks: "buyer:ID", "merchant:ID", "provider:NAME", or "sluiceway" for what the pipeline asks itself.
    """

    v: Literal[1] = 1
    command_id: Uuid
    actor: Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z", min_length=1, max_length=100)]
    asked_at_ms: Millis

    def wrong(self) -> Wrong | None:
        """What types cannot say; None if there is nothing."""
        return None


class OfOrder(_Command, frozen=True):
    order_id: Uuid

    def subject(self) -> str:
        """What the command is about: the key of its message."""
        return self.order_id

    def partition(self, partitions: int) -> int:
        """The partition whose writer decides it."""
        return order_partition(self.order_id)


class OfSlice(_Command, frozen=True):
    """Of a slice of a product, by its stock id."""

    product_id: StockId

    def subject(self) -> str:
        return self.product_id

    def partition(self, partitions: int) -> int:
        return partition_of(self.subject(), partitions)


class OfProduct(OfSlice, frozen=True):
    """Of slice 0, the product itself."""

    product_id: Id


class OfCheckout(_Command, frozen=True):
    checkout_id: Uuid

    def subject(self) -> str:
        return self.checkout_id

    def partition(self, partitions: int) -> int:
        return partition_of(self.checkout_id, partitions)
