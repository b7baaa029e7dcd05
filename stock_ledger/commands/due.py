"""What time brings: payments not made in time and checkouts not answered in time, as commands to decide."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import asyncpg
import msgspec

from contracts.commands import Abandon, Command, Expire
from contracts.times import to_ms
from stock_ledger.pool import fetch

_TIMERS = uuid.UUID("a3f0c1de-4a56-5d0e-9a0f-5f3a2f9d7c21")

# $1 now, $2 after this time, $3 and order, $4 how many
PAYMENTS = """
SELECT expires_at, order_id FROM payments
WHERE status IN ('pending', 'failed') AND expires_at <= $1 AND (expires_at, order_id) > ($2, $3)
ORDER BY expires_at, order_id LIMIT $4
"""
# $1 now, $2 after this time, $3 and checkout, $4 how many
GATHERINGS = """
SELECT deadline, checkout_id FROM gatherings
WHERE decided_at IS NULL AND deadline <= $1 AND (deadline, checkout_id) > ($2, $3)
ORDER BY deadline, checkout_id LIMIT $4
"""

Due = tuple[datetime, str]  # when, and what it is about


class DueReads(Protocol):
    """Reads what is due, in its order, in pieces. Every method raises Unavailable if Postgres does not answer."""

    async def payments(self, now: datetime, after: Due, rows_max: int) -> list[Due]:
        """(expires_at, order_id) of payments that are late."""
        ...

    async def gatherings(self, now: datetime, after: Due, rows_max: int) -> list[Due]:
        """(deadline, checkout_id) of all-or-nothing checkouts that are late."""
        ...


class DueStore:
    """See `DueReads`."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    async def payments(self, now: datetime, after: Due, rows_max: int) -> list[Due]:
        return await self._fetch(PAYMENTS, now, after, rows_max)

    async def gatherings(self, now: datetime, after: Due, rows_max: int) -> list[Due]:
        return await self._fetch(GATHERINGS, now, after, rows_max)

    async def _fetch(self, query: str, now: datetime, after: Due, rows_max: int) -> list[Due]:
        rows = await fetch(self._pool, query, now, after[0], after[1], rows_max)
        return [(when, str(what)) for when, what in rows]


class Position(msgspec.Struct):
    """How far what is due was read.

    Once it was read to its end, from the beginning again: after `again_s` for what was asked and never decided, at once
    for what was `missed`, which could not be asked. Not before, or those at the beginning would keep all others waiting.
    """

    again_s: float
    after: Due | None = None
    since: datetime | None = None
    is_end: bool = False
    missed: bool = False

    def start(self, now: datetime) -> Due:
        if (
            self.after is None
            or self.since is None
            or (self.is_end and self._is_to_begin_again(now, self.since))
        ):
            self.since, self.missed = now, False
            self.after = (datetime.min.replace(tzinfo=now.tzinfo), str(uuid.UUID(int=0)))
        return self.after

    def _is_to_begin_again(self, now: datetime, since: datetime) -> bool:
        return self.missed or now - since >= timedelta(seconds=self.again_s)

    def moved(self, found: Sequence[Due], *, is_end: bool, missed: bool) -> None:
        if found:
            self.after = found[-1]
        self.is_end = is_end
        self.missed = self.missed or missed


def expire(due: Due, now: datetime) -> Command:
    """The command that ends an order whose payment is late. A new one each time: it may come too early."""
    at_ms = to_ms(due[0])
    return Expire(
        command_id=str(uuid.uuid5(_TIMERS, f"{due[1]} {at_ms} {to_ms(now)}")),
        actor="sluiceway",
        asked_at_ms=to_ms(now),
        order_id=due[1],
        expires_at_ms=at_ms,
    )


def abandon(due: Due, now: datetime) -> Command:
    """The command that ends a checkout whose lines were not all answered. A new one each time: it may come too early."""
    return Abandon(
        command_id=str(uuid.uuid5(_TIMERS, f"{due[1]} {to_ms(now)}")),
        actor="sluiceway",
        asked_at_ms=to_ms(now),
        checkout_id=due[1],
    )
