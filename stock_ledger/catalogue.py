"""The catalogue and the address book: reading them from files and storing them."""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import asyncpg
import msgspec

from contracts.errors import Invalid
from contracts.messages import (
    AddressText,
    Amount,
    Cover,
    Currency,
    Id,
    Name,
    PaymentTtl,
    Phone,
    StockUnits,
    WhenSourceIsDown,
)
from contracts.slices import Slices, stock_id
from contracts.topics import partition_of
from stock_ledger.pool import acquired, fetch

# $1 ids, $2 names, $3 covers, $4 prices, $5 currencies, $6 on_shelf, $7 limits, $8 payment_ttl_s,
# $9 policies of second stock sources, $10 slices, which stay what they are
STORE_PRODUCTS = """
INSERT INTO products AS p (product_id, name, cover, price, currency, on_shelf, buyer_limit, payment_ttl_s, stock_source,
                           slices)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::numeric[], $5::text[], $6::bool[], $7::bigint[], $8::int[],
                     $9::text[], $10::int[])
ON CONFLICT (product_id) DO UPDATE SET name = excluded.name, cover = excluded.cover, price = excluded.price,
    currency = excluded.currency, on_shelf = excluded.on_shelf, buyer_limit = excluded.buyer_limit,
    payment_ttl_s = excluded.payment_ttl_s, stock_source = excluded.stock_source, version = p.version + 1
WHERE (p.name, p.cover, p.price, p.currency, p.on_shelf, p.buyer_limit, p.payment_ttl_s, p.stock_source)
    IS DISTINCT FROM (excluded.name, excluded.cover, excluded.price, excluded.currency, excluded.on_shelf,
                      excluded.buyer_limit, excluded.payment_ttl_s, excluded.stock_source)
"""

# $1 ids
THERE = """
SELECT product_id, name, cover, price, currency, on_shelf, buyer_limit, payment_ttl_s, stock_source, slices FROM products
WHERE product_id = ANY($1::text[]) ORDER BY product_id FOR NO KEY UPDATE
"""

# Stock is given once, with the first ledger entry. $1 ids, $2 partitions, $3 units
OPEN_STOCK = """
WITH opened AS (
    INSERT INTO stock (product_id, partition, available, seq)
    SELECT id, partition, units, 1 FROM unnest($1::text[], $2::int[], $3::bigint[]) AS u (id, partition, units)
    ON CONFLICT (product_id) DO NOTHING RETURNING product_id, available)
INSERT INTO ledger (product_id, seq, delta, available, kind, at)
SELECT product_id, 1, available, available, 'initial', now() FROM opened
"""

# $1 buyers, $2 address ids, $3 contact names, $4 phones, $5 addresses
STORE_ADDRESSES = """
INSERT INTO addresses (buyer_id, address_id, contact_name, phone, address)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
ON CONFLICT (buyer_id, address_id) DO UPDATE SET contact_name = excluded.contact_name,
    phone = excluded.phone, address = excluded.address
"""


T = TypeVar("T")


class ProductEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a catalogue file (NDJSON). `stock` and `slices` count only when the product is new."""

    product_id: Id
    name: Name
    price: Amount
    currency: Currency
    stock: StockUnits
    cover: Cover = ""
    on_shelf: bool = True
    buyer_limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    payment_ttl_s: PaymentTtl = 900
    stock_source: WhenSourceIsDown | None = None
    slices: Slices = 1


class AddressEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of an address file (NDJSON)."""

    buyer_id: Id
    address_id: Id
    contact_name: Name
    phone: Phone
    address: AddressText


def read_products(ndjson: bytes) -> list[ProductEntry]:
    """The entries of a catalogue file. Raises Invalid that names the line and what is wrong with it."""
    return _read(ndjson, ProductEntry)


def read_addresses(ndjson: bytes) -> list[AddressEntry]:
    """The entries of an address file. Raises Invalid that names the line and what is wrong with it."""
    return _read(ndjson, AddressEntry)


def _read(ndjson: bytes, kind: type[T]) -> list[T]:
    decoder = msgspec.json.Decoder(kind)
    entries = []
    for number, line in enumerate(re.split(rb"\r?\n", ndjson), 1):
        if not line.strip():
            continue
        try:
            entries.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Invalid(f"line {number}: {error}") from error
    return entries


def _new_or_changed(entry: ProductEntry, row: Any, partitions: int) -> list[ProductEntry]:
    """What is to be stored of a product, given its row if it is there. All slices of one that is new; of one that has several
    nothing: its slices are told of changes through the log alone. Raises Invalid if there are any.
    """
    if row is None:
        return _parts(entry, entry.slices, partitions)
    if row["slices"] == 1:
        return _parts(entry, 1, partitions)
    told = (entry.name, entry.cover, Decimal(entry.price), entry.currency, entry.on_shelf, entry.buyer_limit,
            entry.payment_ttl_s, entry.stock_source)  # fmt: skip
    if told != tuple(row)[1:-1]:
        raise Invalid(
            f"{entry.product_id} has {row['slices']} slices: change it by PUT or PATCH /v1/products/{entry.product_id}, "
            "which reaches all of them through the log"
        )
    return []


def _parts(entry: ProductEntry, slices: int, partitions: int) -> list[ProductEntry]:
    """Slices with the entry of their product and an equal part of its stock; slice 0 has the rest as well."""
    if slices > partitions or (slices > 1 and entry.stock_source is not None):
        raise Invalid(
            f"{entry.product_id}: no more slices than {partitions}, one for a partition; only 1 with a stock_source"
        )
    share = entry.stock // slices
    return [
        msgspec.structs.replace(
            entry,
            product_id=stock_id(entry.product_id, number),
            stock=share if number else entry.stock - share * (slices - 1),
            slices=slices,
        )
        for number in range(slices)
    ]


async def has_any(pool: "asyncpg.Pool[Any]") -> bool:
    """Whether there is a product. Raises Unavailable."""
    return bool(await fetch(pool, "SELECT FROM products LIMIT 1"))


async def store(
    pool: "asyncpg.Pool[Any]",
    products: Iterable[ProductEntry],
    addresses: Iterable[AddressEntry],
    partitions: int,
) -> None:
    """Add or change products and addresses, and open the stock of new products; all or nothing.

    Writers notice changed products by their version; drop the view afterwards so that they do at once. Raises Invalid for
    slices that a product cannot have, and for changes of one that has several.
    """
    wanted = list(products)
    a = list(addresses)
    async with acquired(pool) as connection, connection.transaction():
        rows = await connection.fetch(THERE, [e.product_id for e in wanted])
        there = {row["product_id"]: row for row in rows}
        p = [
            part
            for entry in wanted
            for part in _new_or_changed(entry, there.get(entry.product_id), partitions)
        ]
        await connection.execute(
            STORE_PRODUCTS,
            [e.product_id for e in p],
            [e.name for e in p],
            [e.cover for e in p],
            [Decimal(e.price) for e in p],
            [e.currency for e in p],
            [e.on_shelf for e in p],
            [e.buyer_limit for e in p],
            [e.payment_ttl_s for e in p],
            [e.stock_source for e in p],
            [e.slices for e in p],
        )
        await connection.execute(
            OPEN_STOCK,
            [e.product_id for e in p],
            [partition_of(e.product_id, partitions) for e in p],
            [e.stock for e in p],
        )
        await connection.execute(
            STORE_ADDRESSES,
            [e.buyer_id for e in a],
            [e.address_id for e in a],
            [e.contact_name for e in a],
            [e.phone for e in a],
            [e.address for e in a],
        )
