"""What is said over HTTP with a second stock source, as docs/how-to/connect-a-second-stock-source.md tells it.

Answers may have more fields than these.
"""

from typing import Annotated

import msgspec

from contracts.messages import Id

RESERVATIONS = "reservations"
RETURNS = "returns"
STOCK = "stock"
IDEMPOTENCY_KEY = "Idempotency-Key"

Units = Annotated[int, msgspec.Meta(ge=1, le=10**12)]
UnitsOrNone = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Reservation(msgspec.Struct, frozen=True):
    """POST reservations: reserve up to `units` of the product. `batch` is for the source's own records."""

    product_id: Id
    units: Units
    batch: str


class Reserved(msgspec.Struct, frozen=True):
    """Its answer: `granted` units, at most those that were asked for, are the asker's."""

    product_id: Id
    granted: UnitsOrNone


class Return(msgspec.Struct, frozen=True):
    """POST returns: so many reserved units are not needed, or came back. `cause` is for the source's own records."""

    product_id: Id
    units: Units
    cause: str


class Returned(msgspec.Struct, frozen=True):
    """Its answer: the source has these units back."""

    product_id: Id
    units: Units


class InStock(msgspec.Struct, frozen=True):
    """GET stock/{product_id}: units that the source has and nobody has reserved."""

    product_id: Id
    available: UnitsOrNone
