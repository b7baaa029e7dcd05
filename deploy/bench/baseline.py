"""What a shop would do without a queue: one locking Postgres transaction per order, same schema and durability.

`python -m deploy.bench.baseline`, its plan on standard input, orders per second on output.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from decimal import Decimal

import asyncpg
import msgspec
import uvloop

from contracts.decisions import order_id_of

LOCK = "SELECT available, seq FROM stock WHERE product_id = $1 FOR UPDATE"
ADVANCE = "UPDATE stock SET available = $2, seq = $3 WHERE product_id = $1"
DECISION = """
INSERT INTO decisions (partition, "offset", kind, checkout_id, buyer_id, product_id, quantity, payload_hash, line,
    lines, detail, order_id, accepted_at, decided_at)
VALUES ($1, $2, 'created', $3, $4, $5, 1, $6, 0, 1, '', $7, now(), now())
"""
ORDER = """
INSERT INTO orders VALUES ($1, $2, $3, 'pending_payment', $4, 'CNY', 'Li Wei', '+86 138', '1 Lotus Road', '', now())
"""
ITEM = "INSERT INTO order_items VALUES ($1, 0, $2, 'Aurora Phone 15, 256 GB', 'covers/hot.jpg', $3, 1)"
PAYMENT = (
    "INSERT INTO payments VALUES ($1, $2, 'CNY', 'wechat', 'pending', now() + interval '15 minutes', now())"
)
LEDGER = "INSERT INTO ledger VALUES ($1, $2, -1, $3, 'order', $4, $5, $6, now())"


class Plan(msgspec.Struct, frozen=True):
    """`orders` of one product over `connections`. `partition` is one that no writer has; offsets begin at `first`."""

    postgres_url: str
    product_id: str
    orders: int
    connections: int
    partition: int
    first: int


async def run(plan: Plan) -> float:
    """Orders per second."""
    numbers = iter(range(plan.first, plan.first + plan.orders))
    connections = await asyncio.gather(*(asyncpg.connect(plan.postgres_url) for _ in range(plan.connections)))
    started = time.monotonic()
    await asyncio.gather(*(_order(connection, plan, numbers) for connection in connections))
    elapsed = time.monotonic() - started
    await asyncio.gather(*(connection.close() for connection in connections))
    return plan.orders / elapsed


async def _order(
    connection: "asyncpg.Connection[asyncpg.Record]", plan: Plan, numbers: Iterator[int]
) -> None:
    price = Decimal("3999.00")
    for number in numbers:
        order_id = order_id_of(time.time_ns() // 1_000_000, plan.partition, number)
        checkout_id = f"{number:08x}-0000-8000-8000-{plan.partition:012x}"
        buyer = f"buyer-{number % 5000:05d}"
        async with connection.transaction():
            row = await connection.fetchrow(LOCK, plan.product_id)
            if row is None or row["available"] < 1:
                raise RuntimeError("the baseline ran out of stock")
            available, seq = row["available"] - 1, row["seq"] + 1
            await connection.execute(
                DECISION, plan.partition, number, checkout_id, buyer, plan.product_id, "0" * 32, order_id
            )
            await connection.execute(ORDER, order_id, checkout_id, buyer, price)
            await connection.execute(ITEM, order_id, plan.product_id, price)
            await connection.execute(PAYMENT, order_id, price)
            await connection.execute(
                LEDGER, plan.product_id, seq, available, plan.partition, number, order_id
            )
            await connection.execute(ADVANCE, plan.product_id, available, seq)


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(plan))))


if __name__ == "__main__":
    main()
