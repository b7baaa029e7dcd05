"""Schema migrations: Alembic over asyncpg, one at a time whoever calls."""

from pathlib import Path
from typing import Any

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from contracts.errors import Unavailable
from stock_ledger.pool import translated

_LOCK = 7_310_402_211  # advisory lock: any number, the same for everyone who migrates


async def migrate(postgres_url: str) -> tuple[str | None, str | None]:
    """Bring the schema to the newest revision. Returns (revision before, revision after).

    All or nothing in one transaction under an advisory lock. Raises Unavailable if Postgres does not answer,
    SettingsError if it has not what the URL names.
    """
    engine = _engine(postgres_url)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            return await connection.run_sync(_upgrade)
    except (OSError, OperationalError, InterfaceError) as error:
        raise Unavailable(f"Postgres: {error}") from error
    finally:
        await engine.dispose()


def newest_revision() -> str | None:
    """The revision that this code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _upgrade(connection: Connection) -> tuple[str | None, str | None]:
    before = MigrationContext.configure(connection).get_current_revision()
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return before, MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _engine(postgres_url: str) -> AsyncEngine:
    """Asyncpg reads the URL, as everywhere else: SQLAlchemy knows one server and other parameters."""

    async def connect() -> Any:
        with translated():
            return await asyncpg.connect(postgres_url)

    return create_async_engine("postgresql+asyncpg://", async_creator=connect)
