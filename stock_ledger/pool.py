"""Connections to Postgres, and what the library's errors mean."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from contracts.errors import SettingsError, Unavailable
from contracts.settings import Settings

# The connection, the server or the moment failed, not the statement: the same call may succeed later.
TRANSIENT = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TransactionTimeoutError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.TransactionRollbackError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,  # what it reads was altered since: it is prepared anew
    asyncpg.InternalClientError,
)

# The server answers, and lacks what the URL names, or what a migration makes: no retry mends it.
_UNKNOWN = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
_NOT_MIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)


@contextmanager
def translated() -> Iterator[None]:
    """The library's errors of connection become Unavailable, those of what is not there SettingsError."""
    try:
        yield
    except TRANSIENT as error:
        raise Unavailable(f"Postgres: {error!r}") from error
    except _UNKNOWN as error:
        raise SettingsError(f"Postgres: {error}; correct SLUICEWAY_POSTGRES_URL") from error
    except _NOT_MIGRATED as error:
        raise SettingsError(f"Postgres: {error}; run `sluiceway migrate`") from error


async def connect_pool(settings: Settings, *, timeout_s: float | None = None) -> "asyncpg.Pool[Any]":
    """A pool that connects when first used, only to a server that takes writes: a process can start before it does.

    `timeout_s` bounds the wait for a connection, made or free, and each statement; by default it is the writers'
    `postgres_timeout_s`.
    """
    limit_s = settings.postgres_timeout_s if timeout_s is None else timeout_s
    try:
        with translated():
            return await _Pool(
                settings.postgres_url,
                wait_s=limit_s,
                max_size=settings.postgres_pool_max,
                command_timeout=limit_s,
                timeout=limit_s,
                target_session_attrs=SessionAttribute.read_write,
                server_settings={
                    "application_name": "sluiceway",
                    # A writer that is silent for so long has lost its partitions: its locks must not outlast it.
                    "idle_in_transaction_session_timeout": str(settings.session_timeout_ms),
                },
            )
    except ValueError as error:
        raise SettingsError(f"SLUICEWAY_POSTGRES_URL: {error}") from error


class _Pool(asyncpg.Pool):
    """Bounds what asyncpg does not: the wait for a connection while others use them all, and giving it back."""

    def __init__(self, url: str, *, wait_s: float, **options: Any) -> None:
        super().__init__(
            url,
            min_size=0,
            max_queries=50_000,
            max_inactive_connection_lifetime=300.0,
            reset=_keep,
            loop=None,
            connection_class=asyncpg.Connection,
            record_class=asyncpg.Record,
            **options,
        )
        self._wait_s = wait_s

    def acquire(self, *, timeout: float | None = None) -> Any:
        return super().acquire(timeout=self._wait_s if timeout is None else timeout)


async def _keep(_: Any) -> None:
    """A connection goes back to the pool as it is, without another round trip: nobody leaves anything in its session,
    and a transaction that is left open the pool ends by itself.
    """


@asynccontextmanager
async def acquired(pool: "asyncpg.Pool[Any]") -> AsyncIterator[Any]:
    """A connection of the pool; the library's errors are `translated`."""
    with translated():
        try:
            async with AsyncExitStack() as held:
                try:
                    connection = await held.enter_async_context(pool.acquire())
                except TimeoutError as error:
                    # Whoever uses the others finds out whether they are dead: to replace them all would only cost more.
                    raise Unavailable("Postgres: no connection in time") from error
                yield connection
        except TRANSIENT:
            # After a failover the pool may hold dead or read-only connections: none is trusted again.
            await pool.expire_connections()
            raise


async def fetch(pool: "asyncpg.Pool[Any]", query: str, *arguments: Any) -> list[Any]:
    """The rows of one statement. Raises Unavailable."""
    async with acquired(pool) as connection:
        rows: list[Any] = await connection.fetch(query, *arguments)
        return rows


async def fetch_any(pool: "asyncpg.Pool[Any]", query: str, wanted: Sequence[Any], *more: Any) -> list[Any]:
    """As `fetch`, but where none are wanted, none are there."""
    return await fetch(pool, query, wanted, *more) if wanted else []
