"""The address book of buyers. Orders keep copies: what is changed here changes no order."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Protocol

import asyncpg
import msgspec

from contracts.messages import Shipping
from stock_ledger.pool import acquired, fetch

# The buyer's default comes first.
ADDRESSES_OF_BUYER = """
SELECT address_id, contact_name, phone, address FROM addresses WHERE buyer_id = $1
ORDER BY default_rank DESC, added_at, address_id
"""

# One change of a buyer's address book at a time, until the end of the transaction. $1 buyer
LOCK_ADDRESSES = "SELECT pg_advisory_xact_lock(hashtextextended('addresses ' || $1, 0))"

# Returns whether it is new; no row if the book is full. $1 buyer, $2 address id, $3 contact name, $4 phone, $5 address,
# $6 as the default, $7 now, $8 addresses at most
PUT_ADDRESS = """
WITH book AS (
    SELECT count(*) AS held, count(*) FILTER (WHERE address_id = $2) AS same,
           coalesce(max(default_rank), 0) + 1 AS next_rank
    FROM addresses WHERE buyer_id = $1)
INSERT INTO addresses AS a (buyer_id, address_id, contact_name, phone, address, default_rank, added_at)
SELECT $1, $2, $3, $4, $5, CASE WHEN $6 OR held = 0 THEN next_rank ELSE 0 END, $7
FROM book WHERE same = 1 OR held < $8
ON CONFLICT (buyer_id, address_id) DO UPDATE SET contact_name = excluded.contact_name, phone = excluded.phone,
    address = excluded.address, default_rank = greatest(a.default_rank, excluded.default_rank)
RETURNING (SELECT same = 0 FROM book) AS is_new
"""

REMOVE_ADDRESS = "DELETE FROM addresses WHERE buyer_id = $1 AND address_id = $2"


class Address(msgspec.Struct, frozen=True):
    """An address of a buyer, under an id that is the buyer's own."""

    address_id: str
    shipping: Shipping
    is_default: bool


class StoredAddress(msgspec.Struct, frozen=True):
    """An address after it was stored."""

    address: Address
    is_new: bool


class AddressBook(Protocol):
    """Every method raises Unavailable when the server does not answer; what was changed is then unknown.

    A buyer who has addresses has exactly one default: the one that was last made the default, and is still there, else
    the oldest.
    """

    async def addresses(self, buyer_id: str) -> list[Address]:
        """The buyer's addresses, the default first."""
        ...

    async def put(
        self,
        buyer_id: str,
        address_id: str,
        shipping: Shipping,
        now: datetime,
        *,
        as_default: bool,
        addresses_max: int,
    ) -> StoredAddress | None:
        """Add the address, or replace the one with this id; a replaced one that is the default stays it.

        None, and nothing changed, if it is new and the buyer has `addresses_max` already.
        """
        ...

    async def remove(self, buyer_id: str, address_id: str) -> bool:
        """Whether there was such an address."""
        ...


class PostgresAddressBook:
    """See `AddressBook`."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    async def addresses(self, buyer_id: str) -> list[Address]:
        return default_first(map(_entry, await fetch(self._pool, ADDRESSES_OF_BUYER, buyer_id)))

    async def put(
        self,
        buyer_id: str,
        address_id: str,
        shipping: Shipping,
        now: datetime,
        *,
        as_default: bool,
        addresses_max: int,
    ) -> StoredAddress | None:
        columns = (shipping.contact_name, shipping.phone, shipping.address)
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(LOCK_ADDRESSES, buyer_id)
            is_new = await connection.fetchval(
                PUT_ADDRESS, buyer_id, address_id, *columns, as_default, now, addresses_max
            )
            if is_new is None:
                return None
            book = default_first(map(_entry, await connection.fetch(ADDRESSES_OF_BUYER, buyer_id)))
        stored = next(address for address in book if address.address_id == address_id)
        return StoredAddress(stored, is_new)

    async def remove(self, buyer_id: str, address_id: str) -> bool:
        async with acquired(self._pool) as connection:
            status: str = await connection.execute(REMOVE_ADDRESS, buyer_id, address_id)
        return status == "DELETE 1"


def default_first(entries: Iterable[tuple[str, Shipping]]) -> list[Address]:
    """The addresses of one buyer from their ids and contents, of which the first is the default."""
    return [
        Address(address_id, shipping, is_default=n == 0) for n, (address_id, shipping) in enumerate(entries)
    ]


def _entry(row: Any) -> tuple[str, Shipping]:
    return row["address_id"], Shipping(row["contact_name"], row["phone"], row["address"])
