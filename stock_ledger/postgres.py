"""The ledger in Postgres: the truth."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import asyncpg

from contracts.decisions import Decision, Hold, Order
from contracts.errors import FenceLost, SoldMeanwhile, StaleView
from contracts.messages import Shipping
from contracts.outcomes import Kind, Reason
from contracts.slices import product_of as product_of_slice
from contracts.slices import slice_of
from contracts.topics import Stream
from stock_ledger import sql
from stock_ledger.batch import Decided, Loaded, Product, Stock
from stock_ledger.ledger import Advance, Claim, Entry, Need
from stock_ledger.pool import acquired, fetch, fetch_any
from stock_ledger.rows import columns_of
from stock_ledger.upstream import sql as upstream_sql
from stock_ledger.upstream.source import Intended, Reserve


class PostgresLedger:
    """See `stock_ledger.ledger.Ledger`."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    async def claim(self, partitions: Sequence[int], owner: str, now: datetime) -> dict[int, Claim]:
        return _claims(await fetch(self._pool, sql.CLAIM, list(partitions), owner, now))

    async def state(self, partitions: Sequence[int]) -> dict[int, Claim]:
        return _claims(await fetch(self._pool, sql.STATE, list(partitions)))

    async def products(self, product_ids: Sequence[str]) -> dict[str, Entry]:
        return _entries(await fetch(self._pool, sql.PRODUCTS, list(product_ids)))

    async def partition_products(self, partition: int) -> dict[str, Entry]:
        return _entries(await fetch(self._pool, sql.PARTITION_PRODUCTS, partition))

    async def load(self, need: Need, entries: dict[str, Entry]) -> Loaded:
        decided, forwarded, bought, addresses = await asyncio.gather(
            fetch(self._pool, sql.DECIDED, need.checkouts),
            fetch_any(self._pool, sql.FORWARDED, need.sliced),
            self._fetch_pairs(sql.BOUGHT, need.limited),
            self._fetch_pairs(sql.ADDRESSES, need.addresses),
        )
        return Loaded(
            products={product_id: product for product_id, (product, _) in entries.items()},
            stock={product_id: stock for product_id, (_, stock) in entries.items()},
            bought={(r["product_id"], r["buyer_id"]): r["quantity"] for r in bought},
            addresses={
                (r["buyer_id"], r["address_id"]): Shipping(r["contact_name"], r["phone"], r["address"])
                for r in addresses
            },
            decided={(str(r["checkout_id"]), r["product_id"]): r["offset"] for r in decided},
            forwarded={(str(r["checkout_id"]), r["product_id"]): r["offset"] for r in forwarded},
            hashes={
                (str(r["checkout_id"]), r["product_id"]): r["payload_hash"] for r in [*forwarded, *decided]
            },
        )

    async def intend(self, advances: Sequence[Advance], requests: Sequence[Reserve]) -> Intended:
        async with acquired(self._pool) as connection, connection.transaction():
            return await upstream_sql.intend(connection, advances, requests)

    async def persist(self, advances: Sequence[Advance], decided: Decided, loaded: Loaded) -> None:
        async with acquired(self._pool) as connection:
            try:
                async with connection.transaction():
                    await pass_fence(connection, Stream.CHECKOUTS, advances)
                    d = decided.decisions
                    await connection.execute(sql.PERSIST, d[0].decided_at, *columns_of(d, loaded.stock))
                    if decided.held:
                        await copy(connection, "holds", sql.HOLD_COLUMNS, _hold_rows(d))
                    if decided.stock:
                        await _advance_stock(connection, decided, loaded)
                        await _add_purchases(connection, decided, loaded)
                    if decided.from_carts:
                        await clear_bought(connection, decided.from_carts)
                    if decided.left_open is not None:
                        await upstream_sql.settle_batch(connection, advances, decided.left_open)
            except asyncpg.IntegrityConstraintViolationError as error:
                raise StaleView(f"{error.constraint_name}: {error.detail or error}") from error

    async def decisions(self, partition: int, start: int, end: int) -> list[Decision]:
        return [
            decision_of(row) for row in await fetch(self._pool, sql.DECISIONS_BETWEEN, partition, start, end)
        ]

    async def _fetch_pairs(self, query: str, pairs: list[tuple[str, str]]) -> list[Any]:
        if not pairs:
            return []
        first, second = zip(*pairs, strict=True)
        return await fetch(self._pool, query, first, second)


async def pass_fence(connection: Any, stream: Stream, advances: Sequence[Advance]) -> None:
    """Advance the stream's partitions. Raises FenceLost unless all are still ours and where we think."""
    status = await connection.execute(
        sql.FENCE[stream],
        [a.partition for a in advances],
        [a.claim.epoch for a in advances],
        [a.claim.next_of(stream) for a in advances],
        [a.next_offset for a in advances],
    )
    if rows_of(status) != len(advances):
        raise FenceLost(f"of partitions {[a.partition for a in advances]} {rows_of(status)} are still ours")


async def _advance_stock(connection: Any, decided: Decided, loaded: Loaded) -> None:
    moves = []
    for i, after in decided.stock.items():
        before, held = loaded.stock[i], decided.held.get(i, 0)
        ordered = before.available - after.available - held
        moves.append(StockMove(i, loaded.products[i].version, before, after, held, ordered, 0))
    await advance_stock(connection, moves)


class StockMove(NamedTuple):
    """A product's stock before and after, with its version, and how many units more are held, pending, paid."""

    product_id: str
    version: int
    before: Stock
    after: Stock
    held: int
    pending: int
    paid: int


async def advance_stock(connection: Any, moves: Sequence[StockMove]) -> None:
    """Write new totals. Raises StaleView unless stock and version of every product are as loaded."""
    status = await connection.execute(
        sql.ADVANCE_STOCK,
        [m.product_id for m in moves],
        [m.before.seq for m in moves],
        [m.before.available for m in moves],
        [m.after.seq for m in moves],
        [m.after.available for m in moves],
        [m.version for m in moves],
        [m.held for m in moves],
        [m.pending for m in moves],
        [m.paid for m in moves],
    )
    if rows_of(status) != len(moves):
        raise StaleView(f"stock or catalogue of {len(moves) - rows_of(status)} products is not as loaded")


async def _add_purchases(connection: Any, decided: Decided, loaded: Loaded) -> None:
    """Raises SoldMeanwhile if another slice has meanwhile sold to a buyer: the limit was checked without that."""
    if decided.bought:
        sums = await add_purchases(connection, decided.bought)
        if stale := loaded.sold_meanwhile(sums, decided):
            raise SoldMeanwhile(f"other slices sold to {len(stale)} buyers of products with a limit")


async def add_purchases(connection: Any, bought: Mapping[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """Add units to what (product, buyer) has, and give the sums."""
    pairs = sorted(bought)
    products, buyers = zip(*pairs, strict=True)
    rows = await connection.fetch(sql.ADD_PURCHASES, products, buyers, [bought[pair] for pair in pairs])
    return {(r["product_id"], r["buyer_id"]): r["quantity"] for r in rows}


async def clear_bought(connection: Any, from_carts: Sequence[tuple[str, str]]) -> None:
    """Take (buyer, product) out of the carts. Last in a transaction, so that a cart's line is locked for no longer."""
    buyers, products = zip(*from_carts, strict=True)
    await connection.execute(sql.CLEAR_BOUGHT, buyers, products)


async def copy(connection: Any, table: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    await connection.copy_records_to_table(table, records=rows, columns=columns)


def rows_of(status: str) -> int:
    """The row count of a command tag such as "UPDATE 3"."""
    return int(status.rsplit(" ", 1)[1])


def _hold_rows(decisions: list[Decision]) -> list[tuple[Any, ...]]:
    return [
        (
            d.checkout_id, d.stock_id, d.buyer_id, d.quantity, "held", h.counted, h.name, h.cover, h.price, h.currency,
            h.payment_ttl_s, h.payment_method, h.shipping.contact_name, h.shipping.phone, h.shipping.address, h.note,
            h.from_cart,
        )
        for d in decisions if (h := d.hold) is not None
    ]  # fmt: skip


def _claims(rows: list[Any]) -> dict[int, Claim]:
    return {r["partition"]: Claim(r["epoch"], r["next_offset"], r["next_command"]) for r in rows}


def _entries(rows: list[Any]) -> dict[str, Entry]:
    return {r["product_id"]: (product_of(r), Stock(r["available"], r["seq"])) for r in rows}


def product_of(row: Any) -> Product:
    """A catalogue entry from a row that has its columns."""
    return Product(**{name: row[name] for name in Product.__struct_fields__})


def _snapshot(row: Any) -> dict[str, Any]:
    """What a hold and an order keep alike of the item and the buyer's wishes."""
    return {
        **{name: row[name] for name in ("name", "cover", "price", "currency", "note", "counted")},
        "payment_method": row["method"],
        "shipping": Shipping(row["contact_name"], row["phone"], row["address"]),
    }


def decision_of(row: Any) -> Decision:
    """A decision as it was persisted, from a row of `sql.DECISIONS`."""
    order = hold = None
    if row["kind"] == Kind.HELD:
        hold = Hold(**_snapshot(row), payment_ttl_s=row["payment_ttl_s"], from_cart=row["from_cart"])
    elif row["order_id"] is not None:
        order = Order(
            **_snapshot(row),
            order_id=str(row["order_id"]),
            total=row["total"],
            expires_at=row["expires_at"],
        )
    return Decision(
        partition=row["partition"],
        offset=row["offset"],
        kind=Kind(row["kind"]),
        decided_at=row["decided_at"],
        checkout_id=None if row["checkout_id"] is None else str(row["checkout_id"]),
        buyer_id=row["buyer_id"],
        product_id=product_of_slice(row["product_id"]),
        quantity=row["quantity"],
        payload_hash=row["payload_hash"],
        line=row["line"],
        lines=row["lines"],
        accepted_at=row["accepted_at"],
        reason=None if row["reason"] is None else Reason(row["reason"]),
        order=order,
        first_offset=row["first_offset"],
        detail=row["detail"],
        hold=hold,
        whole=row["whole"],
        slice=slice_of(row["product_id"]),
    )
