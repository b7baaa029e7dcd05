"""Growth: what stays of the rate with many stored orders, many partitions, several workers, many lines."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import islice

from contracts.kafka import Record
from deploy.bench.checkouts import backlog_of, baskets, zipf
from deploy.bench.drain import drained, hot_backlog
from deploy.bench.ground import Bench, Ground, plentiful
from deploy.bench.rounds import Goal, Row, row

_PRODUCTS = 10_000
_LINES = 20
_WORKERS = 3
_PARTITIONS = (8, 64)

# Orders that were stored before $2: $1 of them, over half a day, in a partition that no topic has.
# Their numbers are those of `contracts.decisions.order_id_of`, their checkouts' are spread as real ones.
_STORED = """
WITH stored AS MATERIALIZED (
    SELECT n, md5(n::text)::uuid AS checkout_id, 'buyer-' || lpad((n % 5000 + 1)::text, 5, '0') AS buyer_id,
           'stored-' || n % 100 AS product_id, $2::timestamptz - interval '12 hours' + n * interval '20 ms' AS at,
           (lpad(to_hex((extract(epoch FROM $2::timestamptz) * 1000)::bigint - 43200000 + n * 20), 12, '0')
            || '8fff8' || lpad(to_hex(n), 15, '0'))::uuid AS order_id
    FROM generate_series(1, $1::bigint) AS n)
"""
STORE = [
    _STORED
    + """INSERT INTO decisions (partition, "offset", kind, checkout_id, buyer_id, product_id, quantity, payload_hash,
    line, lines, detail, order_id, accepted_at, decided_at)
SELECT 4095, n, 'created', checkout_id, buyer_id, product_id, 1, md5(product_id), 0, 1, '', order_id, at, at FROM stored
""",
    _STORED
    + """INSERT INTO orders (order_id, checkout_id, buyer_id, status, total, currency, contact_name, phone, address,
    note, created_at)
SELECT order_id, checkout_id, buyer_id, 'pending_payment', 3999.00, 'CNY', 'Li Wei', '+86 138 0000 0000',
    '1 Lotus Road, Hangzhou', '', at FROM stored
""",
    _STORED
    + """INSERT INTO order_items (order_id, line, product_id, name, cover, price, quantity)
SELECT order_id, 0, product_id, 'Aurora Phone 15, 256 GB', 'https://img.example/hot.jpg', 3999.00, 1 FROM stored
""",
    _STORED
    + """INSERT INTO payments (order_id, amount, currency, method, status, expires_at, created_at)
SELECT order_id, 3999.00, 'CNY', 'wechat', 'pending', at + interval '15 minutes', at FROM stored
""",
    _STORED
    + """INSERT INTO ledger (product_id, seq, delta, available, kind, partition, "offset", order_id, at)
SELECT product_id, n, -1, 1000000000 - n, 'order', 4095, n, order_id, at FROM stored
""",
]

Rate = Callable[[], Awaitable[float]]


async def run(bench: Bench) -> list[Row]:
    return [
        await _stored(bench),
        await _partitions(bench),
        await _workers(bench),
        await _lines(bench),
    ]


def _size(bench: Bench) -> tuple[int, int]:
    """Rounds, and messages of a backlog."""
    return (1, 9_000) if bench.quick else (3, 100_000)


async def _pairs(bench: Bench, what: str, ours: Rate, theirs: Rate) -> list[tuple[float, float]]:
    rounds, _ = _size(bench)
    pairs = []
    for _ in range(rounds):
        pairs.append((await ours(), await theirs()))
        bench.say(f"  {what}: {pairs[-1][0]:,.0f} lines/s beside {pairs[-1][1]:,.0f}")
    return pairs


async def _stored(bench: Bench) -> Row:
    _, count = _size(bench)
    stored = 20_000 if bench.quick else 2_000_000
    empty = hot_backlog(bench, count)
    async with bench.ground(plentiful()) as full:
        await store(full, stored)

        async def in_full() -> float:
            before = await full.counts()
            per_s = await full.drain(hot_backlog(bench, count))
            if (made := (await full.counts()).orders - before.orders) != count:
                raise RuntimeError(f"{count} checkouts became {made} orders")
            return per_s

        what = f"one product with {stored:,} orders stored"
        pairs = await _pairs(bench, what, in_full, lambda: drained(bench, empty))
    return row("growth", what, "/s", "empty tables", pairs, Goal(0.90))


async def store(ground: Ground, orders: int) -> None:
    """So many orders, whole in every table and index."""
    now = datetime.now(UTC)
    for statement in STORE:
        await ground.execute(statement, orders, now)
    await ground.execute("VACUUM ANALYZE")


async def _partitions(bench: Bench) -> Row:
    _, count = _size(bench)
    few, many = _PARTITIONS
    rates = {of: _over_partitions(bench, of, count) for of in _PARTITIONS}
    pairs = await _pairs(bench, f"{many} partitions", rates[many], rates[few])
    return row(
        "growth", f"{_PRODUCTS:,} products, {many} partitions", "/s", f"{few} partitions", pairs, Goal(0.90)
    )


def _over_partitions(bench: Bench, partitions: int, count: int) -> Rate:
    backlog = backlog_of(((p,) for p in islice(zipf(_PRODUCTS), count)), partitions)
    return lambda: drained(bench, backlog, _PRODUCTS, partitions=partitions)


async def _workers(bench: Bench) -> Row:
    _, count = _size(bench)
    backlog = backlog_of(((p,) for p in islice(zipf(_PRODUCTS), count)), bench.settings.partitions)
    pairs = await _pairs(
        bench,
        f"{_WORKERS} workers",
        lambda: drained(bench, backlog, _PRODUCTS, workers=_WORKERS),
        lambda: drained(bench, backlog, _PRODUCTS),
    )
    return row("growth", f"{_PRODUCTS:,} products, {_WORKERS} workers", "/s", "1 worker", pairs, Goal(1.0))


async def _lines(bench: Bench) -> Row:
    """The same lines, as checkouts of many and of one each."""
    _, count = _size(bench)
    carts = list(islice(baskets(zipf(_PRODUCTS), _LINES), count // _LINES))
    whole = backlog_of(carts, bench.settings.partitions)
    single: dict[int, list[Record]] = backlog_of(
        ((p,) for cart in carts for p in cart), bench.settings.partitions
    )
    pairs = await _pairs(
        bench,
        f"{_LINES} lines",
        lambda: drained(bench, whole, _PRODUCTS),
        lambda: drained(bench, single, _PRODUCTS),
    )
    return row("growth", f"lines of checkouts of {_LINES} lines", "/s", "of 1 line", pairs, Goal(0.80))
