"""Orders, holds and stock as commands change them, in Postgres."""

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import asyncpg
import msgspec

from contracts.commands import encode_command
from contracts.errors import StaleView
from contracts.outcomes import OrderStatus, PaymentStatus
from contracts.times import from_ms
from contracts.topics import Stream, partition_of
from stock_ledger.batch import Stock
from stock_ledger.commands import sql
from stock_ledger.commands.book import (
    Book,
    CommandDecision,
    Counts,
    Gathering,
    HoldState,
    Item,
    Need,
    NewOrder,
    Obeyed,
    OrderState,
    Refund,
    Told,
)
from stock_ledger.ledger import Advance
from stock_ledger.pool import acquired, fetch, fetch_any
from stock_ledger.postgres import (
    StockMove,
    add_purchases,
    advance_stock,
    clear_bought,
    copy,
    pass_fence,
    product_of,
    rows_of,
)
from stock_ledger.sql import ITEM_COLUMNS, LEDGER_COLUMNS, ORDER_COLUMNS, PAYMENT_COLUMNS, PRODUCTS
from stock_ledger.upstream.sql import put_returns

_answers = msgspec.json.Decoder(Gathering.__annotations__["answers"])
_refunds = msgspec.json.Decoder(tuple[Refund, ...])
_told = msgspec.json.Decoder(Told)
_encode = msgspec.json.Encoder().encode


class PostgresCommandLedger:
    """See `stock_ledger.commands.ledger.CommandLedger`."""

    def __init__(self, pool: "asyncpg.Pool[Any]", partitions: int) -> None:
        self._pool = pool
        self._partitions = partitions

    async def load(self, need: Need) -> Book:
        decided, orders, holds, gatherings = await asyncio.gather(
            fetch_any(self._pool, sql.DECIDED, need.commands),
            fetch_any(self._pool, sql.ORDERS, need.orders),
            fetch_any(self._pool, sql.HOLDS, [c for c, _ in need.holds], [p for _, p in need.holds]),
            fetch_any(self._pool, sql.GATHERINGS, need.checkouts),
        )
        found = {o.order_id: o for o in orders_of(orders)}
        of_orders = {item.product_id for order in found.values() for item in order.items}
        products = await fetch_any(self._pool, PRODUCTS, sorted({*need.products, *of_orders}))
        return Book(
            decided={str(r["command_id"]): r["offset"] for r in decided},
            orders=found,
            holds={(h.checkout_id, h.product_id): h for h in map(_hold, holds)},
            gatherings={str(r["checkout_id"]): gathering_of(r) for r in gatherings},
            products={r["product_id"]: product_of(r) for r in products},
            stock={r["product_id"]: Stock(r["available"], r["seq"]) for r in products},
            counts={r["product_id"]: Counts(r["held"], r["pending"], r["paid"]) for r in products},
        )

    async def persist(self, advances: Sequence[Advance], obeyed: Obeyed) -> None:
        async with acquired(self._pool) as connection:
            try:
                async with connection.transaction():
                    await pass_fence(connection, Stream.COMMANDS, advances)
                    rows = [_decision_row(d) for d in obeyed.decisions]
                    await copy(connection, "commands", sql.COMMAND_COLUMNS, rows)
                    await self._put_products(connection, obeyed)
                    await _put_orders(connection, obeyed)
                    await _put_checkouts(connection, obeyed)
                    if obeyed.ledger:
                        await copy(
                            connection,
                            "ledger",
                            LEDGER_COLUMNS,
                            [msgspec.structs.astuple(e) for e in obeyed.ledger],
                        )
                        await advance_stock(connection, _moves(obeyed))
                    if obeyed.bought:
                        await add_purchases(connection, obeyed.bought)
                    if obeyed.from_carts:
                        await clear_bought(connection, obeyed.from_carts)
                    if obeyed.give_back:
                        await put_returns(connection, obeyed.give_back)
            except asyncpg.IntegrityConstraintViolationError as error:
                raise StaleView(f"{error.constraint_name}: {error.detail or error}") from error

    async def told(self, partition: int, start: int, end: int) -> list[Told]:
        rows = await fetch(self._pool, sql.TOLD_BETWEEN, partition, start, end)
        return [_told.decode(row["told"]) for row in rows]

    async def _put_products(self, connection: Any, obeyed: Obeyed) -> None:
        p = list(obeyed.products.values())
        if not p:
            return
        # One that changed twice in the batch was never seen at the versions between.
        status = await connection.execute(
            sql.PUT_PRODUCTS,
            [e.product_id for e in p], [e.name for e in p], [e.cover for e in p], [e.price for e in p],
            [e.currency for e in p], [e.on_shelf for e in p], [e.buyer_limit for e in p],
            [e.payment_ttl_s for e in p], [e.version for e in p], [e.sale_price for e in p],
            [e.sale_from for e in p], [e.sale_to for e in p], [_version_before(obeyed, e.product_id) for e in p],
            [e.stock_source for e in p], [e.slices for e in p], [e.slices_open for e in p],
        )  # fmt: skip
        if rows_of(status) != len(p):
            raise StaleView(f"{len(p) - rows_of(status)} products are not as loaded")
        if new := sorted(obeyed.new_products):
            await connection.execute(sql.OPEN_STOCK, new, [partition_of(i, self._partitions) for i in new])


async def _put_orders(connection: Any, obeyed: Obeyed) -> None:
    if obeyed.new_orders:
        new = list(obeyed.new_orders.values())
        await copy(connection, "orders", (*ORDER_COLUMNS, "sequence"), [_order_row(o) for o in new])
        await copy(connection, "order_items", ITEM_COLUMNS, [row for o in new for row in _item_rows(o.state)])
        await copy(
            connection,
            "payments",
            (*PAYMENT_COLUMNS, "reference", "provider"),
            [_payment_row(o) for o in new],
        )
    await _put_refunds(connection, obeyed)
    if not obeyed.orders:
        return
    o = list(obeyed.orders.values())
    ids = [order.order_id for order in o]
    before = [obeyed.before.orders[i].sequence for i in ids]
    status = await connection.execute(
        sql.ADVANCE_ORDERS, ids, before, [order.sequence for order in o], [order.status.value for order in o]
    )
    if rows_of(status) != len(o):
        raise StaleView(f"{len(o) - rows_of(status)} orders are not as loaded")
    await connection.execute(
        sql.SET_PAYMENTS,
        ids,
        [order.payment.value for order in o],
        [order.reference for order in o],
        [order.provider for order in o],
    )


async def _put_refunds(connection: Any, obeyed: Obeyed) -> None:
    states = [*obeyed.orders.values(), *(order.state for order in obeyed.new_orders.values())]
    changed = []
    for order in states:
        before = obeyed.before.orders.get(order.order_id)
        known = () if before is None else before.refunds
        changed += [(order.order_id, refund) for refund in order.refunds if refund not in known]
    if changed:
        await connection.execute(
            sql.PUT_REFUNDS,
            [order_id for order_id, _ in changed],
            [refund.reference for _, refund in changed],
            [refund.provider for _, refund in changed],
            [refund.due_at for _, refund in changed],
            [refund.refunded for _, refund in changed],
        )


async def _put_checkouts(connection: Any, obeyed: Obeyed) -> None:
    if obeyed.holds:
        h = list(obeyed.holds.values())
        await connection.execute(
            sql.SET_HOLDS,
            [e.checkout_id for e in h],
            [e.product_id for e in h],
            [e.state for e in h],
            [e.order_id for e in h],
        )
    if obeyed.gatherings:
        g = list(obeyed.gatherings.values())
        await connection.execute(
            sql.PUT_GATHERINGS,
            [e.checkout_id for e in g], [e.partition for e in g], [e.state for e in g], [e.deadline for e in g],
            [_encode(e.answers).decode() for e in g], [e.order_id for e in g], [e.decided_at for e in g],
            [e.decided_offset for e in g],
        )  # fmt: skip


def _version_before(obeyed: Obeyed, product_id: str) -> int:
    before = obeyed.before.products.get(product_id)
    return 0 if before is None else before.version


def _moves(obeyed: Obeyed) -> list[StockMove]:
    moves = []
    for i, after in obeyed.stock.items():
        then, now = obeyed.before.counts.get(i, Counts()), obeyed.counts[i]
        product = obeyed.products.get(i) or obeyed.before.products[i]
        before = obeyed.before.stock.get(i, Stock(0, 0))
        moves.append(
            StockMove(
                i, product.version, before, after, now.held - then.held, now.pending - then.pending, now.paid - then.paid
            )
        )  # fmt: skip
    return moves


def _decision_row(d: CommandDecision) -> tuple[Any, ...]:
    c = d.command
    return (
        d.partition, d.offset, None if c is None else c.command_id, "" if c is None else c.__struct_config__.tag,
        "" if c is None else c.subject(), "" if c is None else c.actor, d.outcome.value,
        None if d.reason is None else d.reason.value, d.detail, d.first_offset,
        None if c is None else encode_command(c).decode(), _encode(d.told),
        None if c is None else from_ms(c.asked_at_ms), d.decided_at,
    )  # fmt: skip


def _order_row(order: NewOrder) -> tuple[Any, ...]:
    s, to = order.state, order.shipping
    return (
        s.order_id, s.checkout_id, s.buyer_id, s.status.value, s.total, s.currency, to.contact_name, to.phone,
        to.address, order.note, order.created_at, s.sequence,
    )  # fmt: skip


def _item_rows(order: OrderState) -> list[tuple[Any, ...]]:
    return [
        (order.order_id, i.line, i.product_id, i.name, i.cover, i.price, i.quantity, i.counted)
        for i in order.items
    ]


def _payment_row(order: NewOrder) -> tuple[Any, ...]:
    s = order.state
    return (
        s.order_id,
        s.total,
        s.currency,
        s.method,
        s.payment.value,
        s.expires_at,
        order.created_at,
        s.reference,
        s.provider,
    )


def orders_of(rows: list[Any]) -> list[OrderState]:
    """Orders from rows of `sql.ORDERS`, one row per item."""
    orders = []
    for order_id, of_order in groupby(rows, key=lambda r: r["order_id"]):
        items = list(of_order)
        r = items[0]
        orders.append(
            OrderState(
                order_id=str(order_id),
                checkout_id=str(r["checkout_id"]),
                buyer_id=r["buyer_id"],
                status=OrderStatus(r["status"]),
                sequence=r["sequence"],
                total=r["total"],
                currency=r["currency"],
                items=tuple(
                    Item(
                        i["line"], i["product_id"], i["name"], i["cover"], i["price"], i["quantity"], i["counted"]
                    )
                    for i in items
                ),
                method=r["method"],
                payment=PaymentStatus(r["payment"]),
                expires_at=r["expires_at"],
                reference=r["reference"],
                provider=r["provider"],
                refunds=() if r["refunds"] is None else _refunds.decode(r["refunds"]),
            )
        )  # fmt: skip
    return orders


def _hold(r: Any) -> HoldState:
    order_id = None if r["order_id"] is None else str(r["order_id"])
    return HoldState(
        str(r["checkout_id"]), r["product_id"], r["buyer_id"], r["quantity"], r["state"], r["counted"], order_id
    )  # fmt: skip


def gathering_of(r: Any) -> Gathering:
    """A gathering from a row of `sql.GATHERINGS`."""
    return Gathering(
        str(r["checkout_id"]), r["partition"], r["state"], r["deadline"], _answers.decode(r["answers"]),
        None if r["order_id"] is None else str(r["order_id"]), r["decided_at"], r["decided_offset"],
    )  # fmt: skip
