"""The carts of buyers: what they mean to buy, shown with the catalogue as it is now."""

from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Protocol

import asyncpg
import msgspec

from stock_ledger.pool import acquired, fetch

_SHOWN = """
SELECT c.product_id, c.quantity, p.name, p.cover, coalesce(p.sale_price, p.price) AS price, p.currency, p.on_shelf,
       p.sale_from, p.sale_to, coalesce(s.available, 0) + coalesce(of_slices.available, 0) AS available, c.added_at, c.updated_at
"""
_CATALOGUE = """
JOIN products AS p USING (product_id) LEFT JOIN stock AS s USING (product_id)
LEFT JOIN LATERAL (
    SELECT sum(o.available)::bigint AS available FROM generate_series(1, p.slices - 1) AS number
    JOIN stock AS o ON o.product_id = p.product_id || '~' || number) AS of_slices ON p.slices > 1
"""

LINES_OF_BUYER = (
    _SHOWN + "FROM carts AS c" + _CATALOGUE + "WHERE c.buyer_id = $1 ORDER BY c.added_at DESC, product_id"
)

# $1 buyer, $2 product, $3 quantity, $4 now
_CHANGED = """
WITH c AS (
    UPDATE carts SET quantity = $3, updated_at = $4 WHERE buyer_id = $1 AND product_id = $2 RETURNING *)
"""
CHANGE_LINE = _CHANGED + _SHOWN + "FROM c" + _CATALOGUE

# One addition to a buyer's cart at a time, until the end of the transaction. $1 buyer
LOCK_CART = "SELECT pg_advisory_xact_lock(hashtextextended('cart ' || $1, 0))"

# No row if there is no such product on the shelf, the line is there already, or the cart is full.
# $1 buyer, $2 product, $3 quantity, $4 now, $5 lines at most
_ADDED = """
WITH c AS (
    INSERT INTO carts (buyer_id, product_id, quantity, added_at, updated_at)
    SELECT $1, product_id, $3, $4, $4 FROM products
    WHERE product_id = $2 AND on_shelf AND (SELECT count(*) FROM carts WHERE buyer_id = $1) < $5
    ON CONFLICT DO NOTHING RETURNING *)
"""
ADD_LINE = _ADDED + _SHOWN + "FROM c" + _CATALOGUE

IS_ON_SHELF = "SELECT EXISTS (SELECT FROM products WHERE product_id = $1 AND on_shelf)"

REMOVE_LINE = "DELETE FROM carts WHERE buyer_id = $1 AND product_id = $2"

# This and `sql.CLEAR_BOUGHT` lock in the order of the key, so that neither can hold a line that the other, which holds one
# too, waits for.
CLEAR_CART = """
DELETE FROM carts WHERE (buyer_id, product_id) IN (
    SELECT buyer_id, product_id FROM carts WHERE buyer_id = $1 ORDER BY buyer_id, product_id FOR UPDATE)
"""


class CartLine(msgspec.Struct, frozen=True):
    """A line of a cart, with its product as it is now.

    `price` is what it sells for; it sells from `sale_from` on and before `sale_to`, where they are given. `available`
    units are left, for everybody.
    """

    product_id: str
    quantity: int
    name: str
    cover: str
    price: Decimal
    currency: str
    on_shelf: bool
    sale_from: datetime | None
    sale_to: datetime | None
    available: int
    added_at: datetime
    updated_at: datetime


class StoredLine(msgspec.Struct, frozen=True):
    """A line after it was stored."""

    line: CartLine
    is_new: bool


class CartRefusal(Enum):
    """Why a line was not stored."""

    UNKNOWN_PRODUCT = "unknown_product"
    FULL = "full"


class Carts(Protocol):
    """Every method raises Unavailable when the server does not answer; what was changed is then unknown."""

    async def lines(self, buyer_id: str) -> list[CartLine]:
        """The buyer's cart, what was added last first."""
        ...

    async def put(
        self, buyer_id: str, product_id: str, quantity: int, now: datetime, *, lines_max: int
    ) -> StoredLine | CartRefusal:
        """Add the product, or change its quantity. A line more than `lines_max` is refused, and a new one of a product that
        is not on the shelf.
        """
        ...

    async def remove(self, buyer_id: str, product_id: str) -> bool:
        """Whether there was such a line."""
        ...

    async def clear(self, buyer_id: str) -> None: ...


class PostgresCarts:
    """See `Carts`.

    No line that others see stays locked between two round trips: a writer that makes an order, and clears its line,
    would have to wait for this process.
    """

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    async def lines(self, buyer_id: str) -> list[CartLine]:
        return [_line(row) for row in await fetch(self._pool, LINES_OF_BUYER, buyer_id)]

    async def put(
        self, buyer_id: str, product_id: str, quantity: int, now: datetime, *, lines_max: int
    ) -> StoredLine | CartRefusal:
        wanted = (buyer_id, product_id, quantity, now)
        async with acquired(self._pool) as connection:
            changed = await connection.fetchrow(CHANGE_LINE, *wanted)
            if changed is not None:
                return StoredLine(_line(changed), is_new=False)
            async with connection.transaction():
                await connection.execute(LOCK_CART, buyer_id)
                added = await connection.fetchrow(ADD_LINE, *wanted, lines_max)
            if added is not None:
                return StoredLine(_line(added), is_new=True)
            changed = await connection.fetchrow(
                CHANGE_LINE, *wanted
            )  # another call may have added it meanwhile
            if changed is not None:
                return StoredLine(_line(changed), is_new=False)
            known = await connection.fetchval(IS_ON_SHELF, product_id)
        return CartRefusal.FULL if known else CartRefusal.UNKNOWN_PRODUCT

    async def remove(self, buyer_id: str, product_id: str) -> bool:
        async with acquired(self._pool) as connection:
            status: str = await connection.execute(REMOVE_LINE, buyer_id, product_id)
        return status == "DELETE 1"

    async def clear(self, buyer_id: str) -> None:
        async with acquired(self._pool) as connection:
            await connection.execute(CLEAR_CART, buyer_id)


def _line(row: Any) -> CartLine:
    return CartLine(**{name: row[name] for name in CartLine.__struct_fields__})
