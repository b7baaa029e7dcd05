"""Periods of history: which can go, what they came to, and that they are gone."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from stock_ledger.partitions import KEYS, Leaf, stamp

AUDITING = (
    7_310_402_212  # advisory lock: audits share it while they read, so that no partition goes meanwhile
)
RETAINING = 7_310_402_213  # one retention at a time

# An order has ended when nothing can happen to it any more, or to its money.
ENDED = """
o.status IN ('completed', 'closed_by_user', 'closed_by_timeout', 'closed_by_merchant')
AND pay.status IN ('paid', 'expired', 'refunded')
AND NOT EXISTS (SELECT FROM refunds AS r WHERE r.order_id = o.order_id AND NOT r.refunded)
"""

# What keeps a period from going: up to 5 orders or checkouts of it that have not ended, with how many there are.
OPEN_ORDERS = """
SELECT 'order ' || o.order_id || ', ' || o.status || ', payment ' || coalesce(pay.status, 'missing') AS what,
       count(*) OVER () AS count
FROM {orders} AS o LEFT JOIN {payments} AS pay USING (order_id)
WHERE (""" + ENDED + """) IS NOT TRUE ORDER BY o.order_id LIMIT 5
"""  # fmt: skip
OPEN_CHECKOUTS = """
SELECT 'checkout ' || c.checkout_id || ', ' || c.what AS what, count(*) OVER () AS count FROM (
    SELECT h.checkout_id, 'a hold is ' || h.state AS what
    FROM {decisions} AS d JOIN holds AS h USING (checkout_id, product_id)
    WHERE d.kind = 'held' AND h.state NOT IN ('paid', 'released')
    UNION ALL
    SELECT g.checkout_id, 'a hold is ' || h.state FROM gatherings AS g JOIN holds AS h USING (checkout_id)
    WHERE g.decided_at < $2 AND ($1::timestamptz IS NULL OR g.decided_at >= $1) AND h.state NOT IN ('paid', 'released')
    UNION ALL
    SELECT checkout_id, 'undecided' FROM gatherings WHERE decided_at IS NULL AND deadline < $2) AS c
ORDER BY c.checkout_id LIMIT 5
"""

# Of unpartitioned tables, what goes with a period: checkouts that were decided in it, refunds of its orders.
# $1 since (or null), $2 until
_GATHERINGS = "gatherings AS g WHERE g.decided_at < $2 AND ($1::timestamptz IS NULL OR g.decided_at >= $1)"
_HOLDS = f"holds AS h WHERE h.checkout_id IN (SELECT g.checkout_id FROM {_GATHERINGS})"  # noqa: S608 - constants alone
_LOWEST = "rpad(lpad(to_hex((extract(epoch FROM {}::timestamptz) * 1000)::bigint), 12, '0'), 32, '0')::uuid"
_REFUNDS = f"refunds WHERE order_id < {_LOWEST.format('$2')} AND ($1::timestamptz IS NULL OR order_id >= {_LOWEST.format('$1')})"
# In the order in which they can be deleted: by table, where its rows are, and how they are sorted.
_GOING_ALONG = {
    "holds": (_HOLDS, "checkout_id, product_id"),
    "gatherings": (_GATHERINGS, "checkout_id"),
    "refunds": (_REFUNDS, "order_id, reference"),
}
WITH_PERIOD = {table: f"SELECT * FROM {of} ORDER BY {by}" for table, (of, by) in _GOING_ALONG.items()}  # noqa: S608
DELETES = [f"DELETE FROM {of}" for of, _ in _GOING_ALONG.values()]  # noqa: S608

ORDER_BY = {
    "decisions": 'partition, "offset"',
    "commands": 'partition, "offset"',
    "ledger": "product_id, seq",
    "orders": "order_id",
    "order_items": "order_id, line",
    "payments": "order_id",
    **{table: by for table, (_, by) in _GOING_ALONG.items()},
}

# $1 until, $2 since (or null). An order that a command made counts by its holds: bit 61 of its id is set.
TOTALS = """
INSERT INTO history_stock (until, product_id, entries, last_seq, available, given, taken, returned, paid, counted)
SELECT $1, product_id, sum(entries), max(last_seq), max(available), sum(given), sum(taken), sum(returned), sum(paid),
       sum(counted)
FROM (
    SELECT product_id, count(*) AS entries, 0 AS last_seq, 0 AS available,
           coalesce(sum(delta) FILTER (WHERE kind IN ('initial', 'restock', 'adjust', 'set_stock', 'move')), 0) AS given, 0 AS taken,
           coalesce(sum(delta) FILTER (WHERE kind NOT IN ('initial', 'restock', 'adjust', 'set_stock', 'move', 'order', 'hold')
                                       AND "offset" IS NOT NULL), 0) AS returned, 0 AS paid, 0 AS counted
    FROM {ledger} GROUP BY product_id
    UNION ALL
    (SELECT DISTINCT ON (product_id) product_id, 0, seq, available, 0, 0, 0, 0, 0 FROM {ledger}
     ORDER BY product_id, seq DESC)
    UNION ALL
    SELECT product_id, 0, 0, 0, 0, sum(quantity), 0, 0, 0 FROM {decisions} WHERE kind IN ('created', 'held')
    GROUP BY product_id
    UNION ALL
    SELECT i.product_id, 0, 0, 0, 0, 0, 0, sum(i.quantity),
           coalesce(sum(i.quantity) FILTER (WHERE i.counted), 0)
    FROM {order_items} AS i JOIN {orders} AS o USING (order_id)
    WHERE o.status = 'completed' AND substring(o.order_id::text FROM 20 FOR 1) NOT IN ('a', 'b') GROUP BY i.product_id
    UNION ALL
    SELECT product_id, 0, 0, 0, 0, 0, 0, coalesce(sum(quantity) FILTER (WHERE state = 'paid'), 0),
           coalesce(sum(quantity) FILTER (WHERE counted AND state = 'paid'), 0)
    FROM {holds} AS h GROUP BY product_id
) AS parts GROUP BY product_id
"""
LOG_TOTALS = """
INSERT INTO history_log (until, partition, decisions, last_offset, commands, last_command)
SELECT $1, partition, sum(decisions), max(last_offset), sum(commands), max(last_command) FROM (
    SELECT partition, count(*) AS decisions, max("offset") AS last_offset, 0 AS commands, NULL::bigint AS last_command
    FROM {decisions} GROUP BY partition
    UNION ALL
    SELECT partition, 0, NULL, count(*), max("offset") FROM {commands} GROUP BY partition) AS parts GROUP BY partition
"""
BEGIN_DROP = "INSERT INTO history (until, leaves, archived_at) VALUES ($1, $2, now())"
END_DROP = "UPDATE history SET dropped_at = now() WHERE until = $1"
TAKE_BACK = "DELETE FROM history WHERE until = $1"
ALL = "SELECT until FROM history"
BEGUN = "SELECT until, leaves FROM history WHERE dropped_at IS NULL ORDER BY until"


class Period(msgspec.Struct, frozen=True):
    """One span of time: a partition of every table."""

    since: datetime | None
    until: datetime
    leaves: dict[str, Leaf]  # by table

    @property
    def name(self) -> str:
        return folder_of(self.until)

    def names(self) -> dict[str, str]:
        return {table: leaf.name for table, leaf in self.leaves.items()}


def folder_of(until: datetime) -> str:
    """What the archive of a period is called."""
    return f"until-{stamp(until)}"


def periods(found: Sequence[Leaf]) -> list[Period]:
    """The ended spans for which every table has a partition, the oldest first."""
    spans: dict[tuple[datetime | None, datetime], dict[str, Leaf]] = {}
    for leaf in found:
        if leaf.until is not None:
            spans.setdefault((leaf.since, leaf.until), {})[leaf.table] = leaf
    whole = [Period(since, until, of) for (since, until), of in spans.items() if of.keys() == KEYS.keys()]
    return sorted(whole, key=lambda period: period.until)


def due(found: Sequence[Period], now: datetime, days: int) -> list[Period]:
    """Those that ended more than `days` days ago; none for 0 days, which keeps all."""
    return [period for period in found if days and period.until <= now - timedelta(days=days)]


def row_queries(names: dict[str, str]) -> dict[str, str]:
    """What an archive is made of, by table: the same rows always in the same order."""
    return {table: f"SELECT * FROM ONLY {names[table]} ORDER BY {ORDER_BY[table]}" for table in KEYS}  # noqa: S608


async def open_of(connection: Any, period: Period) -> tuple[int, list[str]]:
    """How many orders and checkouts of the period have not ended, and a few of them."""
    orders = await connection.fetch(OPEN_ORDERS.format(**period.names()))
    checkouts = await connection.fetch(OPEN_CHECKOUTS.format(**period.names()), period.since, period.until)
    counts = [rows[0]["count"] for rows in (orders, checkouts) if rows]
    return sum(counts), [row["what"] for row in (*orders, *checkouts)]


async def is_empty(connection: Any, period: Period) -> bool:
    """Whether no table has a row of the period."""
    for name in period.names().values():
        if not await has_none(connection, name):
            return False
    return True


async def has_none(connection: Any, name: str) -> bool:
    """Whether this partition has no row."""
    return not await connection.fetchval(f"SELECT EXISTS (SELECT FROM ONLY {name})")  # noqa: S608 - own names


async def tables_of(connection: Any, period: Period) -> list[str]:
    """Those of the period's partitions that were not dropped yet."""
    names = list(period.names().values())
    rows = await connection.fetch(
        "SELECT name FROM unnest($1::text[]) AS n (name) WHERE to_regclass(name) IS NOT NULL", names
    )
    return [row["name"] for row in rows]


async def begin(connection: Any, period: Period) -> None:
    """Keep what the period came to; from then on audits read that instead of its rows."""
    names, span = period.names(), (period.since, period.until)
    async with connection.transaction():
        await connection.execute(BEGIN_DROP, period.until, list(names.values()))
        await connection.execute("CREATE TEMPORARY TABLE going (LIKE holds) ON COMMIT DROP")
        await connection.execute(f"INSERT INTO going {WITH_PERIOD['holds']}", *span)
        await connection.execute(TOTALS.format(**names, holds="going"), period.until)
        await connection.execute(LOG_TOTALS.format(**names), period.until)
        for query in DELETES:
            await connection.execute(query, *span)
