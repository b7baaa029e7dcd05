"""What the api reads of commands, orders, products and stock, for everyone and not for one buyer alone."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

import asyncpg
import msgspec

from contracts.slices import stock_ids
from stock_ledger.batch import Product, Stock
from stock_ledger.commands.book import Counts
from stock_ledger.pool import fetch
from stock_ledger.postgres import product_of
from stock_ledger.sql import PRODUCT_PAGE, PRODUCTS

_COMMAND = """
SELECT command_id, action, subject, actor, outcome, reason, detail, partition, "offset", asked_at, decided_at, document
FROM commands
"""
COMMANDS = _COMMAND + "WHERE command_id = ANY($1::uuid[]) AND outcome IN ('applied', 'refused')"
COMMAND_AT = _COMMAND + 'WHERE partition = $1 AND "offset" = $2'
COMMANDS_ABOUT = (
    _COMMAND + """WHERE subject = $1 AND outcome IN ('applied', 'refused') ORDER BY "offset" LIMIT $2"""
)
# $1 order
ORDER = """
SELECT o.order_id, o.buyer_id, o.status, o.total, o.currency, pay.method, pay.status AS payment, pay.expires_at
FROM orders AS o JOIN payments AS pay USING (order_id) WHERE o.order_id = $1
"""
COMMANDS_MAX = 1000


class StoredCommand(msgspec.Struct, frozen=True):
    """A command as it was decided; `document` is the command itself. One that could not be read is without both, and
    `detail` says why.
    """

    command_id: str
    action: str
    subject: str
    actor: str
    outcome: str
    reason: str | None
    partition: int
    offset: int
    decided_at: datetime
    asked_at: datetime | None = None
    detail: str = ""
    document: str | None = None


class OrderHead(msgspec.Struct, frozen=True):
    """Whose an order is, where it is in its life, and what is to be paid."""

    order_id: str
    buyer_id: str
    status: str
    total: Decimal
    currency: str
    method: str
    payment: str
    expires_at: datetime


class Shelf(msgspec.Struct, frozen=True):
    """A product with its stock; `others` are its slices after slice 0 that there are by now, in their order."""

    product: Product
    stock: Stock
    counts: Counts
    others: tuple["Shelf", ...] = ()

    def slices(self) -> tuple["Shelf", ...]:
        return (self, *self.others)

    def available(self) -> int:
        """Units in all slices."""
        return sum(part.stock.available for part in self.slices())


class CommandReads(Protocol):
    """Every method raises Unavailable when the server does not answer."""

    async def command(self, command_id: str) -> StoredCommand | None:
        """The command under this id (a UUID), once it is decided."""
        ...

    async def commands_under(self, command_ids: Sequence[str]) -> list[StoredCommand]:
        """The commands under these ids (UUIDs) that are decided."""
        ...

    async def command_at(self, partition: int, offset: int) -> StoredCommand | None:
        """What became of the message at this place of the commands topic, a repeated one too; None before that."""
        ...

    async def commands_about(self, subject: str) -> list[StoredCommand]:
        """The first COMMANDS_MAX commands about an order or a product, oldest first."""
        ...

    async def order(self, order_id: str) -> OrderHead | None:
        """The order under this id (a UUID), whose ever it is."""
        ...

    async def products(self, product_ids: Sequence[str]) -> list[Shelf]:
        """Those of the products that exist."""
        ...

    async def product_page(self, after: str, limit: int, *, off_shelf_too: bool) -> list[Shelf]:
        """Up to `limit` products by id, beyond the id `after`."""
        ...


class PostgresCommandReads:
    """See `CommandReads`. One statement per call, and one more for products with slices."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    async def command(self, command_id: str) -> StoredCommand | None:
        found = await self.commands_under([command_id])
        return found[0] if found else None

    async def commands_under(self, command_ids: Sequence[str]) -> list[StoredCommand]:
        return [_command(row) for row in await fetch(self._pool, COMMANDS, list(command_ids))]

    async def command_at(self, partition: int, offset: int) -> StoredCommand | None:
        rows = await fetch(self._pool, COMMAND_AT, partition, offset)
        return _command(rows[0]) if rows else None

    async def commands_about(self, subject: str) -> list[StoredCommand]:
        return [_command(row) for row in await fetch(self._pool, COMMANDS_ABOUT, subject, COMMANDS_MAX)]

    async def order(self, order_id: str) -> OrderHead | None:
        rows = await fetch(self._pool, ORDER, order_id)
        if not rows:
            return None
        fields = {name: rows[0][name] for name in OrderHead.__struct_fields__}
        return OrderHead(**fields | {"order_id": str(rows[0]["order_id"])})

    async def products(self, product_ids: Sequence[str]) -> list[Shelf]:
        return await self._with_slices(await fetch(self._pool, PRODUCTS, list(product_ids)))

    async def product_page(self, after: str, limit: int, *, off_shelf_too: bool) -> list[Shelf]:
        return await self._with_slices(await fetch(self._pool, PRODUCT_PAGE, after, off_shelf_too, limit))

    async def _with_slices(self, rows: list[Any]) -> list[Shelf]:
        shelves = [_shelf(row) for row in rows]
        ids = {s.product.product_id: stock_ids(s.product.product_id, s.product.slices)[1:] for s in shelves}
        wanted = [stock_id for of_product in ids.values() for stock_id in of_product]
        if not wanted:
            return shelves
        parts = {row["product_id"]: _shelf(row) for row in await fetch(self._pool, PRODUCTS, wanted)}
        return [
            msgspec.structs.replace(
                s, others=tuple(parts[i] for i in ids[s.product.product_id] if i in parts)
            )
            for s in shelves
        ]


def _command(row: Any) -> StoredCommand:
    fields = {name: row[name] for name in StoredCommand.__struct_fields__}
    return StoredCommand(**fields | {"command_id": str(row["command_id"] or "")})


def _shelf(row: Any) -> Shelf:
    return Shelf(
        product_of(row), Stock(row["available"], row["seq"]), Counts(row["held"], row["pending"], row["paid"])
    )
