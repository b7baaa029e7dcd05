"""Migrations of databases that hold data."""

from typing import Any

import asyncpg
from alembic import command
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from contracts.decisions import order_id_of
from contracts.settings import Settings
from contracts.times import to_ms
from stock_ledger import schema
from tests.conftest import execute
from tests.harness import NOON, product_of, uuid_of

# Product a: 10 units, a limit of 5; b: 10 units, whose limit came after its first order.
ORDERS = (("a", "buyer-1", 2), ("a", "buyer-2", 1), ("b", "buyer-1", 3), ("b", "buyer-1", 1))
COUNTED = {("a", "buyer-1"): 2, ("a", "buyer-2"): 1, ("b", "buyer-1"): 1}


async def test_orders_of_before_their_life_are_counted(server_settings: Settings) -> None:
    url = server_settings.postgres_url
    await execute(url.rsplit("/", 1)[0] + "/postgres", f"CREATE DATABASE {url.rsplit('/', 1)[1]}")
    await _to(url, "0002")
    connection = await asyncpg.connect(url)
    try:
        await _sell(connection)
        assert await schema.migrate(url) == ("0002", schema.newest_revision())
        counts = await connection.fetch(
            "SELECT product_id, held, pending, paid FROM stock ORDER BY product_id"
        )
        assert [tuple(row) for row in counts] == [("a", 0, 3, 0), ("b", 0, 4, 0)]
        items = await connection.fetch(
            "SELECT product_id, quantity, counted FROM order_items ORDER BY order_id"
        )
        assert [tuple(row) for row in items] == [
            ("a", 2, True),
            ("a", 1, True),
            ("b", 3, False),
            ("b", 1, True),
        ]
        assert await connection.fetchval("SELECT count(*) FROM ONLY orders_begin") == len(ORDERS)
        await _to(url, "0003", down=True)
        assert await connection.fetchval("SELECT count(*) FROM ONLY orders") == len(ORDERS)
        assert await schema.migrate(url) == ("0003", schema.newest_revision())
    finally:
        await connection.close()
        await execute(
            url.rsplit("/", 1)[0] + "/postgres", f"DROP DATABASE {url.rsplit('/', 1)[1]} WITH (FORCE)"
        )


async def _sell(connection: Any) -> None:
    """Orders as writers made them under 0002."""
    for product_id in ("a", "b"):
        p = product_of(product_id, buyer_limit=5)
        await connection.execute(
            "INSERT INTO products VALUES ($1, $2, $3, $4, $5, true, 5, 900, 1)",
            p.product_id, p.name, p.cover, p.price, p.currency,
        )  # fmt: skip
        await connection.execute("INSERT INTO stock VALUES ($1, 0, 10, 5)", product_id)
    for n, (product_id, buyer_id, quantity) in enumerate(ORDERS):
        order_id = order_id_of(to_ms(NOON) + n, 0, n)
        await connection.execute(
            "INSERT INTO orders VALUES ($1, $2, $3, 'pending_payment', 10, 'CNY', 'n', '1', 'a', '', $4)",
            order_id, uuid_of(n), buyer_id, NOON,
        )  # fmt: skip
        await connection.execute(
            "INSERT INTO order_items VALUES ($1, 0, $2, 'n', 'c', 10, $3)", order_id, product_id, quantity
        )
    for (product_id, buyer_id), units in COUNTED.items():
        await connection.execute("INSERT INTO purchases VALUES ($1, $2, $3)", product_id, buyer_id, units)


async def _to(url: str, revision: str, *, down: bool = False) -> None:
    def move(connection: Connection) -> None:
        config = schema._config()
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)

    engine = create_async_engine(schema._sqlalchemy_url(url))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(move)
    finally:
        await engine.dispose()
