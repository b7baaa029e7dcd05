"""What a shop would do without a queue in front of one writer: `python -m deploy.bench.baseline`, its plan on input.

Each design sells one hot product over many connections, one transaction per order that writes the same rows into the
same schema, with the same durability:

- `for_update`: lock the product's stock, write the order, reduce the stock;
- `skip_locked`: a row per unit, take one that nobody else has locked, write the order;
- `redis_lua`: the checkout comes from Kafka, a Lua script in Redis reduces the stock, then write the order.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from typing import Any, Literal

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer
from redis.asyncio import Redis

from contracts.decisions import order_id_of
from contracts.kafka import consumer_options, tp
from contracts.messages import decode_checkout_line
from contracts.settings import Settings
from contracts.topics import Topics, partition_of

LOCK = "SELECT available, seq FROM stock WHERE product_id = $1 FOR UPDATE"
ADVANCE = "UPDATE stock SET available = $2, seq = $3 WHERE product_id = $1"
UNITS = """
CREATE TABLE units (product_id text NOT NULL, unit bigint NOT NULL, order_id uuid, PRIMARY KEY (product_id, unit));
CREATE INDEX units_free ON units (product_id) WHERE order_id IS NULL;
"""
ADD_UNITS = "INSERT INTO units SELECT $1, unit, NULL FROM generate_series(2, $2::bigint + 1) AS unit"
TAKE = """
UPDATE units SET order_id = $2 WHERE (product_id, unit) = (
    SELECT product_id, unit FROM units WHERE product_id = $1 AND order_id IS NULL LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING unit
"""
DEDUCT = """
local left = tonumber(redis.call('GET', KEYS[1]))
if left < 1 then return -1 end
return redis.call('DECR', KEYS[1])
"""
DECISION = """
INSERT INTO decisions (partition, "offset", kind, checkout_id, buyer_id, product_id, quantity, payload_hash, line,
    lines, detail, order_id, accepted_at, decided_at)
VALUES ($1, $2, 'created', $3, $4, $5, 1, $6, 0, 1, '', $7, now(), now())
"""
ORDER = """
INSERT INTO orders (order_id, checkout_id, buyer_id, status, total, currency, contact_name, phone, address, note,
    created_at)
VALUES ($1, $2, $3, 'pending_payment', $4, 'CNY', 'Li Wei', '+86 138', '1 Lotus Road', '', now())
"""
ITEM = """
INSERT INTO order_items (order_id, line, product_id, name, cover, price, quantity)
VALUES ($1, 0, $2, 'Aurora Phone 15, 256 GB', 'covers/hot.jpg', $3, 1)
"""
PAYMENT = """
INSERT INTO payments (order_id, amount, currency, method, status, expires_at, created_at)
VALUES ($1, $2, 'CNY', 'wechat', 'pending', now() + interval '15 minutes', now())
"""
LEDGER = """
INSERT INTO ledger (product_id, seq, delta, available, kind, partition, "offset", order_id, at)
VALUES ($1, $2, -1, $3, 'order', $4, $5, $6, now())
"""
_PRICE = Decimal("3999.00")
_READ_MAX = 500

Design = Literal["for_update", "skip_locked", "redis_lua"]


class Plan(msgspec.Struct, frozen=True):
    """`orders` of one product, numbered from `first`, over `connections`. Of it: its stock in `settings`' database, and
    for `redis_lua` a backlog of as many checkouts in its log.
    """

    design: Design
    settings: Settings
    product_id: str
    orders: int
    connections: int
    first: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """When the orders were begun and done, on the clock that all processes of a machine share."""

    started_at: float
    ended_at: float


class Checkout(msgspec.Struct, frozen=True):
    """Its place in the log, or a number that stands for one."""

    number: int
    checkout_id: str
    buyer_id: str


Sell = Callable[[Any, Checkout], Awaitable[None]]


async def prepare_units(url: str, product_id: str, units: int) -> None:
    """The table of `skip_locked`, with so many units."""
    connection = await asyncpg.connect(url)
    await connection.execute(UNITS)
    await connection.execute(ADD_UNITS, product_id, units)
    await connection.execute("VACUUM ANALYZE units")
    await connection.close()


async def run(plan: Plan) -> Outcome:
    connect = (asyncpg.connect(plan.settings.postgres_url) for _ in range(plan.connections))
    connections = await asyncio.gather(*connect)
    redis = Redis.from_url(plan.settings.redis_url, max_connections=plan.connections)
    try:
        if plan.design == "redis_lua":
            return await _from_kafka(plan, connections, redis)
        sell = _locking(plan) if plan.design == "for_update" else _taking(plan)
        numbers = iter(range(plan.first, plan.first + plan.orders))
        started_at = time.monotonic()
        await asyncio.gather(*(_each(sell, connection, _made_up(numbers)) for connection in connections))
        return Outcome(started_at, time.monotonic())
    finally:
        await redis.aclose()
        await asyncio.gather(*(connection.close() for connection in connections))


async def _each(sell: Sell, connection: Any, checkouts: Iterator[Checkout]) -> None:
    for checkout in checkouts:
        await sell(connection, checkout)


def _made_up(numbers: Iterator[int]) -> Iterator[Checkout]:
    for number in numbers:
        yield Checkout(number, f"{number:08x}-0000-8000-8000-000000000000", f"buyer-{number % 5000 + 1:05d}")


def _locking(plan: Plan) -> Sell:
    async def sell(connection: Any, checkout: Checkout) -> None:
        async with connection.transaction():
            row = await connection.fetchrow(LOCK, plan.product_id)
            if row["available"] < 1:
                raise RuntimeError("the baseline ran out of stock")
            available, seq = row["available"] - 1, row["seq"] + 1
            await _write(connection, plan, checkout, seq, available)
            await connection.execute(ADVANCE, plan.product_id, available, seq)

    return sell


def _taking(plan: Plan) -> Sell:
    async def sell(connection: Any, checkout: Checkout) -> None:
        async with connection.transaction():
            unit = await connection.fetchval(TAKE, plan.product_id, _order_id(plan, checkout))
            if unit is None:
                raise RuntimeError("the baseline ran out of units")
            await _write(connection, plan, checkout, unit, 0)

    return sell


def _deducting(plan: Plan, redis: Redis, key: str, stock: int) -> Sell:
    deduct = redis.register_script(DEDUCT)

    async def sell(connection: Any, checkout: Checkout) -> None:
        left = int(await deduct(keys=[key]))
        if left < 0:
            raise RuntimeError("the baseline ran out of stock")
        async with connection.transaction():
            await _write(connection, plan, checkout, stock - left + 1, left)

    return sell


async def _from_kafka(plan: Plan, connections: list[Any], redis: Redis) -> Outcome:
    """Batches of the log, each order's script and transaction by itself over whichever connection is free."""
    key, stock = f"{plan.settings.cache_prefix}baseline", 10**9
    await redis.set(key, stock)
    sell = _deducting(plan, redis, key, stock)
    partition = partition_of(plan.product_id, plan.settings.partitions)
    consumer = AIOKafkaConsumer(
        **consumer_options(plan.settings), group_id=f"{plan.settings.topic_prefix}-baseline"
    )
    await consumer.start()
    try:
        consumer.assign([tp(Topics(plan.settings).checkouts, partition)])
        done = 0
        started_at = time.monotonic()
        while done < plan.orders:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=_READ_MAX)).values():
                checkouts = iter([_read(record, plan) for record in records])
                await asyncio.gather(*(_each(sell, connection, checkouts) for connection in connections))
                await consumer.commit()
                done += len(records)
        return Outcome(started_at, time.monotonic())
    finally:
        await consumer.stop()
        await redis.delete(key)


def _read(record: Any, plan: Plan) -> Checkout:
    line = decode_checkout_line(record.value, record.key, record.partition, plan.settings.partitions)
    return Checkout(record.offset, line.checkout_id, line.buyer_id)


async def _write(connection: Any, plan: Plan, checkout: Checkout, seq: int, available: int) -> None:
    """The rows of an order, a statement each."""
    order_id = _order_id(plan, checkout)
    await connection.execute(
        DECISION,
        _partition(plan),
        checkout.number,
        checkout.checkout_id,
        checkout.buyer_id,
        plan.product_id,
        "0" * 32,
        order_id,
    )
    await connection.execute(ORDER, order_id, checkout.checkout_id, checkout.buyer_id, _PRICE)
    await connection.execute(ITEM, order_id, plan.product_id, _PRICE)
    await connection.execute(PAYMENT, order_id, _PRICE)
    await connection.execute(
        LEDGER, plan.product_id, seq, available, _partition(plan), checkout.number, order_id
    )


def _order_id(plan: Plan, checkout: Checkout) -> str:
    return order_id_of(time.time_ns() // 1_000_000, _partition(plan), checkout.number)


def _partition(plan: Plan) -> int:
    return partition_of(plan.product_id, plan.settings.partitions)


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(plan))))


if __name__ == "__main__":
    main()
