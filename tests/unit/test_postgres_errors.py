"""Which errors of Postgres mean that the same may succeed later."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest

from contracts.errors import SettingsError, Unavailable
from stock_ledger.pool import acquired


class Failing:
    """A pool whose connections are in order."""

    def __init__(self) -> None:
        self.expired = False

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        yield None

    async def expire_connections(self) -> None:
        self.expired = True


@pytest.mark.parametrize(
    ("state", "what"),
    [
        ("08006", "connection_failure"),
        ("25006", "read_only_sql_transaction: it was the primary"),
        ("25P03", "idle_in_transaction_session_timeout"),
        ("25P04", "transaction_timeout"),
        ("40001", "serialization_failure"),
        ("40P01", "deadlock_detected"),
        ("53100", "disk_full"),
        ("53300", "too_many_connections"),
        ("55P03", "lock_not_available: lock_timeout"),
        ("57014", "query_canceled: statement_timeout"),
        ("57P01", "admin_shutdown"),
        ("57P02", "crash_shutdown"),
        ("57P03", "cannot_connect_now"),
        ("57P05", "idle_session_timeout"),
        ("58030", "io_error"),
    ],
)
async def test_what_may_succeed_later_is_unavailable(state: str, what: str) -> None:
    assert await raised(asyncpg.PostgresError.new({"C": state, "M": what})) == (Unavailable, True)


async def test_a_statement_prepared_before_a_migration_is_prepared_anew() -> None:
    stale = {"C": "0A000", "M": "cached plan must not change result type", "R": "RevalidateCachedQuery"}
    assert await raised(asyncpg.PostgresError.new(stale)) == (Unavailable, True)


@pytest.mark.parametrize("state", ["22021", "23505", "25P02", "42601", "XX001"])
async def test_what_will_fail_for_ever_is_not(state: str) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": "no"})
    assert await raised(error) == (type(error), False)


@pytest.mark.parametrize("state", ["42P01", "42703", "28P01", "3D000"])
async def test_what_is_not_there_is_the_operators_to_mend(state: str) -> None:
    error = asyncpg.PostgresError.new({"C": state, "M": "no"})
    assert await raised(error) == (SettingsError, False)


async def raised(error: BaseException) -> tuple[type[BaseException], bool]:
    """What becomes of an error under a connection, and whether the others are not trusted any more either."""
    pool = Failing()
    with pytest.raises(Exception) as caught:
        async with acquired(cast("asyncpg.Pool[Any]", pool)):
            raise error
    return caught.type, pool.expired
