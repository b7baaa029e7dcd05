"""What the read side asks of the truth: decisions, how far partitions are decided, orders."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

import asyncpg
import msgspec

from contracts.decisions import Decision, lowest_order_id
from contracts.messages import Shipping
from contracts.slices import product_of
from stock_ledger import sql
from stock_ledger.commands.postgres import gathering_of
from stock_ledger.commands.sql import GATHERINGS
from stock_ledger.commands.whole import whole_answer
from stock_ledger.pool import fetch
from stock_ledger.postgres import decision_of

Position = tuple[int, int]  # (partition, offset)

ORDERS_MAX = 200  # of one call of `Reads.orders`
_LOWEST = "00000000-0000-0000-0000-000000000000"  # below every order id
_HIGHEST = "ffffffff-ffff-ffff-ffff-ffffffffffff"  # above every order id


class StoredItem(msgspec.Struct, frozen=True):
    """An item of an order as it was when it was decided; its price is in the order's currency."""

    line: int
    product_id: str
    name: str
    cover: str
    price: Decimal
    quantity: int


class StoredRefund(msgspec.Struct, frozen=True):
    """A payment of an order that is due back or was given back. What its provider said of it is not for buyers."""

    reference: str
    refunded: bool


class StoredPayment(msgspec.Struct, frozen=True):
    """The payment of an order. `reference` is empty while none was taken."""

    status: str
    method: str
    amount: Decimal
    currency: str
    expires_at: datetime
    reference: str = ""
    refunds: list[StoredRefund] = []


class StoredOrder(msgspec.Struct, frozen=True):
    """An order as Postgres holds it, items by line. `sequence` is the number of its newest event."""

    order_id: str
    checkout_id: str
    buyer_id: str
    status: str
    total: Decimal
    currency: str
    shipping: Shipping
    note: str
    created_at: datetime
    items: list[StoredItem]
    payment: StoredPayment
    sequence: int = 1


_refunds = msgspec.json.Decoder(list[StoredRefund])


class OrderFilter(msgspec.Struct, frozen=True):
    """Which orders: in one of `statuses`, or in any if there are none; created from `since` on and before `until`;
    older than the order with the id `before`.
    """

    statuses: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    before: str | None = None

    def id_range(self) -> tuple[str, str]:
        """The ids that fit, as (from, below)."""
        below = _HIGHEST if self.before is None else self.before
        if self.until is not None:
            below = min(below, lowest_order_id(self.until))
        return _LOWEST if self.since is None else lowest_order_id(self.since), below


class Reads(Protocol):
    """Every method raises Unavailable when the server does not answer."""

    async def next_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        """The next offset to decide, by partition; one never claimed is absent."""
        ...

    async def decisions_at(self, positions: Sequence[Position]) -> dict[Position, Decision]:
        """The decisions of those positions that have one, whatever their kind."""
        ...

    async def decisions_of_checkout(self, checkout_id: str) -> list[Decision]:
        """The first decision of each line that has one, by line. `checkout_id` is a UUID."""
        ...

    async def conflicts_of_checkout(self, checkout_id: str) -> list[Decision]:
        """The refusals of messages of another payload, by line. `checkout_id` is a UUID."""
        ...

    async def whole_answer(self, checkout_id: str) -> bytes | None:
        """The one answer to an all-or-nothing checkout as the view shows it, None while there is none.

        `checkout_id` is a UUID.
        """
        ...

    async def order(self, order_id: str, buyer_id: str) -> StoredOrder | None:
        """The order if there is one and it is this buyer's. `order_id` is a UUID."""
        ...

    async def orders(self, buyer_id: str, wanted: OrderFilter, limit: int) -> list[StoredOrder]:
        """Up to `limit` (at most ORDERS_MAX) of the wanted orders of the buyer, newest first."""
        ...


class PostgresReads:
    """See `Reads`. One statement per call."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    async def next_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        rows = await fetch(self._pool, sql.STATE, list(partitions))
        return {row["partition"]: row["next_offset"] for row in rows}

    async def decisions_at(self, positions: Sequence[Position]) -> dict[Position, Decision]:
        if not positions:
            return {}
        partitions, offsets = zip(*positions, strict=True)
        decisions = map(decision_of, await fetch(self._pool, sql.DECISIONS_AT, partitions, offsets))
        return {(d.partition, d.offset): d for d in decisions}

    async def decisions_of_checkout(self, checkout_id: str) -> list[Decision]:
        return [decision_of(row) for row in await fetch(self._pool, sql.DECISIONS_OF_CHECKOUT, checkout_id)]

    async def conflicts_of_checkout(self, checkout_id: str) -> list[Decision]:
        return [decision_of(row) for row in await fetch(self._pool, sql.CONFLICTS_OF_CHECKOUT, checkout_id)]

    async def whole_answer(self, checkout_id: str) -> bytes | None:
        rows = await fetch(self._pool, GATHERINGS, [checkout_id])
        return whole_answer(gathering_of(rows[0])) if rows else None

    async def order(self, order_id: str, buyer_id: str) -> StoredOrder | None:
        found = _orders(await fetch(self._pool, sql.ORDER_OF_BUYER, order_id, buyer_id))
        return found[0] if found else None

    async def orders(self, buyer_id: str, wanted: OrderFilter, limit: int) -> list[StoredOrder]:
        lowest, below = wanted.id_range()
        statuses = list(wanted.statuses) or None
        bounded = max(0, min(limit, ORDERS_MAX))
        return _orders(
            await fetch(self._pool, sql.ORDERS_OF_BUYER, buyer_id, below, lowest, statuses, bounded)
        )


def _orders(rows: Iterable[Any]) -> list[StoredOrder]:
    """Orders in the order of their first rows; there is a row per item."""
    found: dict[Any, StoredOrder] = {}
    for row in rows:
        order = found.get(row["order_id"])
        if order is None:
            order = found[row["order_id"]] = StoredOrder(
                order_id=str(row["order_id"]),
                checkout_id=str(row["checkout_id"]),
                buyer_id=row["buyer_id"],
                status=row["status"],
                total=row["total"],
                currency=row["currency"],
                shipping=Shipping(row["contact_name"], row["phone"], row["address"]),
                note=row["note"],
                created_at=row["created_at"],
                items=[],
                payment=StoredPayment(
                    row["payment_status"],
                    row["method"],
                    row["amount"],
                    row["payment_currency"],
                    row["expires_at"],
                    row["reference"],
                    [] if row["refunds"] is None else _refunds.decode(row["refunds"]),
                ),
                sequence=row["sequence"],
            )
        item = {name: row[name] for name in StoredItem.__struct_fields__}
        order.items.append(StoredItem(**item | {"product_id": product_of(item["product_id"])}))
    return list(found.values())
