"""Payments that are due back: which are to be asked for now, and what their provider's answer comes to."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

import asyncpg
import msgspec

from contracts.commands import Pay
from contracts.errors import as_text
from contracts.messages import Money
from contracts.payments import Charge
from contracts.times import to_ms
from stock_ledger.pool import acquired, fetch

_REFUNDS = uuid.UUID("2c5f2a06-6f3d-5b0b-8a52-9e0d3f6a7c18")
_EVENT_ID_CHARS_MAX = 255

# Whoever takes a refund has it alone until $2. $1 now, $2 until, $3 how many
TAKE = """
UPDATE refunds AS r SET try_at = $2, tries = r.tries + 1
FROM (SELECT order_id, reference FROM refunds WHERE NOT refunded AND try_at <= $1
      ORDER BY try_at LIMIT $3 FOR UPDATE SKIP LOCKED) AS due
JOIN payments AS pay USING (order_id)
WHERE r.order_id = due.order_id AND r.reference = due.reference
RETURNING r.order_id, r.reference, r.provider, r.tries, pay.method, pay.amount, pay.currency, pay.expires_at
"""
# $1 order, $2 reference, $3 try again at, $4 tries, $5 detail
NOTE = """
UPDATE refunds SET try_at = $3, tries = $4, detail = $5 WHERE order_id = $1 AND reference = $2 AND NOT refunded
"""


class DueRefund(msgspec.Struct, frozen=True):
    """A payment to be given back: all of `amount`, by `provider`, or by whoever serves `method` if that is empty.

    `tries` counts this one.
    """

    order_id: str
    reference: str
    provider: str
    tries: int
    method: str
    amount: Decimal
    currency: str
    expires_at: datetime


class Refunds(Protocol):
    """Every method raises Unavailable if Postgres does not answer."""

    async def take(self, now: datetime, until: datetime, rows_max: int) -> Sequence[DueRefund]:
        """Up to so many refunds that are to be asked for now. Nobody else gets them before `until`."""
        ...

    async def note(self, due: DueRefund, try_at: datetime, detail: str, *, counts: bool = True) -> None:
        """Why it is still due, and when to ask again. Without `counts` it was no try. Nothing if it is given back."""
        ...


class PostgresRefunds:
    """See `Refunds`."""

    def __init__(self, pool: "asyncpg.Pool[Any]") -> None:
        self._pool = pool

    async def take(self, now: datetime, until: datetime, rows_max: int) -> Sequence[DueRefund]:
        rows = await fetch(self._pool, TAKE, now, until, rows_max)
        return [DueRefund(**(dict(row) | {"order_id": str(row["order_id"])})) for row in rows]

    async def note(self, due: DueRefund, try_at: datetime, detail: str, *, counts: bool = True) -> None:
        tries = due.tries if counts else due.tries - 1
        async with acquired(self._pool) as connection:
            await connection.execute(NOTE, due.order_id, due.reference, try_at, tries, detail)


def charge_of(due: DueRefund) -> Charge:
    """What was paid."""
    return Charge.of_order(due.order_id, due.amount, due.currency, due.method, due.expires_at)


def given_back(due: DueRefund, provider: str, refund_id: str, now: datetime) -> Pay:
    """The command that a provider's answer becomes. A payment is given back once, so its id follows from the payment."""
    return Pay(
        command_id=str(uuid.uuid5(_REFUNDS, f"{due.order_id}\0{provider}\0{due.reference}")),
        actor="sluiceway",
        asked_at_ms=to_ms(now),
        order_id=due.order_id,
        provider=provider,
        event_id=as_text(refund_id, _EVENT_ID_CHARS_MAX) or "none",
        reference=due.reference,
        outcome="refunded",
        amount=Money(f"{due.amount:f}", due.currency),
        occurred_at_ms=to_ms(now),
    )


def wait_s(tries: int, first_s: float, max_s: float) -> float:
    """How long to wait after so many tries: twice as long each time."""
    return min(max_s, first_s * 2.0 ** min(tries - 1, 60))
