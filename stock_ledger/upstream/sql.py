"""What is open with the second stock source, in the transactions of the ledgers."""

from collections.abc import Iterable, Sequence
from typing import Any

from contracts.errors import FenceLost
from stock_ledger.batch import OpenRow
from stock_ledger.ledger import Advance
from stock_ledger.upstream.settle import Short, against_short
from stock_ledger.upstream.source import GiveBack, Intended, Outstanding, Reserve, rows_of

# Locked against a claim, so that whoever claims next finds what is remembered here. $1 partitions, $2 epochs, $3 offsets
_STILL_OURS = """
SELECT s.partition FROM partition_state AS s
JOIN unnest($1::int[], $2::bigint[], $3::bigint[]) AS u (partition, epoch, next_offset)
    ON s.partition = u.partition AND s.epoch = u.epoch AND s.next_offset = u.next_offset
ORDER BY s.partition FOR SHARE OF s
"""
_OF_BATCH = """
SELECT r.product_id, r.batch, r.units FROM stock_source_requests AS r
JOIN unnest($1::int[], $2::bigint[]) AS u (partition, next_offset) USING (partition, next_offset)
ORDER BY r.product_id
"""
_REMEMBER = """
INSERT INTO stock_source_requests (partition, next_offset, product_id, batch, units)
SELECT * FROM unnest($1::int[], $2::bigint[], $3::text[], $4::text[], $5::bigint[])
"""
_FORGET = """
DELETE FROM stock_source_requests AS r USING unnest($1::int[], $2::bigint[]) AS u (partition, next_offset)
WHERE r.partition = u.partition AND r.next_offset = u.next_offset
"""
# $1 kinds, $2 products, $3 causes, $4 units, $5 sold
PUT_OPEN = """
INSERT INTO stock_source_open (kind, product_id, cause, units, sold)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
ON CONFLICT (kind, product_id, cause) DO NOTHING
"""
# What is short of these products. $1 products
_SHORT = """
SELECT product_id, cause, units FROM stock_source_open WHERE kind = 'short' AND product_id = ANY($1::text[])
ORDER BY id FOR UPDATE
"""
# $1 products, $2 causes, $3 units that are left
_SET_SHORT = """
UPDATE stock_source_open AS o SET units = u.units, sold = u.units
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS u (product_id, cause, units)
WHERE o.kind = 'short' AND o.product_id = u.product_id AND o.cause = u.cause
"""
_FORGET_SHORT = "DELETE FROM stock_source_open WHERE kind = 'short' AND units = 0"


async def intend(connection: Any, advances: Sequence[Advance], requests: Sequence[Reserve]) -> Intended:
    """See `stock_ledger.ledger.Ledger.intend`; within a transaction."""
    at = [a.partition for a in advances], [a.claim.next_offset for a in advances]
    ours = await connection.fetch(_STILL_OURS, at[0], [a.claim.epoch for a in advances], at[1])
    if len(ours) != len(advances):
        raise FenceLost(f"of partitions {at[0]} {len(ours)} are still ours")
    before = [
        Reserve(r["product_id"], r["batch"], r["units"]) for r in await connection.fetch(_OF_BATCH, *at)
    ]
    again = frozenset(request.product_id for request in before)
    new = [request for request in requests if request.product_id not in again]
    if new:
        offsets = {a.partition: a.claim.next_offset for a in advances}
        partitions = [request.partition() for request in new]
        await connection.execute(
            _REMEMBER,
            partitions,
            [offsets[p] for p in partitions],
            [request.product_id for request in new],
            [request.batch for request in new],
            [request.units for request in new],
        )
    return Intended([*before, *new], again)


async def settle_batch(connection: Any, advances: Sequence[Advance], left_open: Iterable[OpenRow]) -> None:
    """With the batch decided, what is left open of its requests takes their place."""
    await connection.execute(
        _FORGET, [a.partition for a in advances], [a.claim.next_offset for a in advances]
    )
    await put_open(connection, left_open)


async def put_returns(connection: Any, returns: Sequence[GiveBack]) -> None:
    """Units that came back: what is short is filled first, the rest is open to be given back."""
    products = sorted({back.product_id for back in returns})
    before = [Short(*row) for row in await connection.fetch(_SHORT, products)]
    going, left = against_short(returns, before)
    if filled := [one for one in left if one not in before]:
        await connection.execute(
            _SET_SHORT, [s.product_id for s in filled], [s.batch for s in filled], [s.units for s in filled]
        )
        await connection.execute(_FORGET_SHORT)
    await put_open(connection, rows_of(Outstanding(going, [])))


async def put_open(connection: Any, rows: Iterable[OpenRow]) -> None:
    found = list(rows)
    if found:
        await connection.execute(PUT_OPEN, *zip(*found, strict=True))
