"""Migrations of databases that hold data."""

import socket
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest
from alembic import command
from sqlalchemy import Connection

from contracts.decisions import order_id_of
from contracts.errors import SettingsError
from contracts.settings import Settings
from contracts.times import to_ms
from deploy.catalogue import give_out
from deploy.retention import retain
from deploy.stack import Urls
from stock_ledger import schema
from tests.conftest import execute
from tests.harness import NOON, product_of, uuid_of

# Product a: 10 units, a limit of 5; b: 10 units, whose limit came after its first order.
ORDERS = (("a", "buyer-1", 2), ("a", "buyer-2", 1), ("b", "buyer-1", 3), ("b", "buyer-1", 1))
COUNTED = {("a", "buyer-1"): 2, ("a", "buyer-2"): 1, ("b", "buyer-1"): 1}


async def test_orders_of_before_their_life_are_counted(server_settings: Settings, urls: Urls) -> None:
    url = server_settings.postgres_url
    name = urlsplit(url).path[1:]
    await execute(urls.postgres, f"CREATE DATABASE {name}")
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
        await execute(urls.postgres, f"DROP DATABASE {name} WITH (FORCE)")


async def test_the_url_is_read_as_by_every_other_client(database_settings: Settings) -> None:
    """Several servers, and parameters that SQLAlchemy would not take."""
    url = urlsplit(database_settings.postgres_url)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        servers = f"{url.netloc},127.0.0.1:{nobody.getsockname()[1]}"
        several = urlunsplit(url._replace(netloc=servers, query="sslmode=prefer"))
        assert await schema.migrate(several) == (schema.newest_revision(), schema.newest_revision())


async def test_a_database_that_is_not_there_is_told(server_settings: Settings) -> None:
    nobody = server_settings.postgres_url.replace("postgres@", "nobody@")
    for url in (server_settings.postgres_url, nobody):
        settings = msgspec.structs.replace(server_settings, postgres_url=url)
        with pytest.raises(SettingsError, match="does not exist; correct SLUICEWAY_POSTGRES_URL"):
            await schema.migrate(url)
        with pytest.raises(SettingsError, match="does not exist; correct SLUICEWAY_POSTGRES_URL"):
            await give_out(settings, "csv")
        with pytest.raises(SettingsError, match="does not exist; correct SLUICEWAY_POSTGRES_URL"):
            await retain(settings, NOON, dry_run=True)


async def test_a_database_without_a_schema_is_told(server_settings: Settings, urls: Urls) -> None:
    settings = msgspec.structs.replace(
        server_settings, postgres_url=urlunsplit(urlsplit(urls.postgres)._replace(path="/postgres"))
    )
    with pytest.raises(SettingsError, match="does not exist; run `sluiceway migrate`"):
        await give_out(settings, "csv")
    with pytest.raises(SettingsError, match="does not exist; run `sluiceway migrate`"):
        await retain(settings, NOON)
    with pytest.raises(SettingsError, match="does not exist; run `sluiceway migrate`"):
        await retain(settings, NOON, dry_run=True)


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

    engine = schema._engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(move)
    finally:
        await engine.dispose()
