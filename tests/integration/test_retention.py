"""Retention on real servers: what is old goes, sums stay, and it may be stopped and started again anywhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.commands import Close, Complete, Move, PatchProduct, Pay, Pick, Restock, Ship
from contracts.errors import Invalid
from contracts.messages import Money
from contracts.settings import Settings
from contracts.times import from_ms, to_ms
from deploy import archive, retention
from deploy.retention import retain
from stock_ledger import partitions
from stock_ledger.retention import Period
from tests.harness import line_of, real_writer, running, uuid_of
from tests.integration.audit_sale import Sale
from tests.integration.test_audit import told

DAYS = 10
BASE: dict[str, Any] = {"actor": "merchant:m", "asked_at_ms": 1}


class CrashError(Exception):
    """The process is gone."""


@pytest.fixture
def kept(sale: Sale, tmp_path: Path) -> Sale:
    """The sale with a policy."""
    sale.settings = msgspec.structs.replace(
        sale.settings, retention_days=DAYS, archive_dir=str(tmp_path / "archive")
    )
    return sale


async def end_orders(sale: Sale) -> None:
    """All orders so far come to their end: the first one is completed, the others closed."""
    orders = [row["id"] for row in await sale.pool.fetch("SELECT order_id::text AS id FROM orders WHERE status = 'pending_payment'"
                                                         " ORDER BY order_id")]  # fmt: skip
    first = orders[0]
    total = await sale.pool.fetchval("SELECT total FROM orders WHERE order_id = $1", first)
    pay = Pay(
        command_id=uuid_of(f"pay {first}"), **BASE, order_id=first, provider="sandbox", event_id="e", reference="r",
        outcome="paid", amount=Money(str(total), "CNY"), occurred_at_ms=1,
    )  # fmt: skip
    steps = [
        kind(command_id=uuid_of(f"{kind} {first}"), **BASE, order_id=first) for kind in (Pick, Ship, Complete)
    ]
    closes = [Close(command_id=uuid_of(f"close {i}"), **BASE, order_id=i) for i in orders[1:]]
    await sale.ask(pay, *steps, *closes)
    await sale.decide()


async def end_period(sale: Sale) -> datetime:
    """Cut all partitions between what was and what comes; returns when retention is to run, so that what was is old."""
    newest = await sale.pool.fetchval("SELECT max(decided_at) FROM commands")
    at = from_ms(to_ms(newest) + 1)
    async with retention.connected(sale.settings) as connection:
        for leaf in await partitions.leaves(connection):
            if leaf.since is None:
                await partitions.cut(connection, leaf, at)
    return at + timedelta(days=DAYS, seconds=1)


async def test_what_is_old_goes_and_the_sums_stay(kept: Sale) -> None:
    await kept.sell()
    await end_orders(kept)
    now = await end_period(kept)
    before = {t: await kept.pool.fetchval(f"SELECT count(*) FROM {t}") for t in partitions.KEYS}  # noqa: S608
    await kept.pool.execute(
        "UPDATE payments SET status = 'refund_due' WHERE order_id = $1", await kept.order_of(100)
    )
    done = await retain(kept.settings, now)
    assert not done.dropped
    assert len(done.kept) == 1
    assert "1 have not ended" in done.kept[0]
    assert await kept.order_of(100) in done.kept[0]
    await kept.pool.execute(
        "UPDATE payments SET status = 'paid' WHERE order_id = $1", await kept.order_of(100)
    )
    await kept.pool.execute("UPDATE payments SET status = 'expired' FROM orders WHERE orders.order_id = payments.order_id"
                            " AND orders.status <> 'completed'")  # fmt: skip
    assert (await retain(kept.settings, now, dry_run=True)).dropped
    done = await retain(kept.settings, now)
    assert len(done.dropped) == 1
    assert not await kept.pool.fetchval("SELECT count(*) FROM decisions")
    report = await kept.audit()
    assert report.ok, told(report)
    assert report.law("log-complete").not_checkable
    await _is_in_the_archive(kept, done.dropped[0], before)
    again = await retain(kept.settings, now)
    assert again == retention.Retained(dry_run=False)

    await kept.send([kept.sent(line_of(n, kept.plain, 2)) for n in range(300, 320)])
    await kept.decide()
    report = await kept.audit()
    assert report.ok, told(report)
    assert report.totals.orders == 20
    await _planted_errors_are_found(kept)
    await end_orders(kept)
    report = await kept.audit()
    assert report.ok, told(report)
    # The second period goes too: the empty partitions before it become one.
    done = await retain(kept.settings, await end_second_period(kept))
    assert len(done.dropped) == 1, done
    report = await kept.audit()
    assert report.ok, told(report)
    names = [leaf.name for leaf in await _leaves(kept) if leaf.table == "orders" and leaf.since is None]
    assert len(names) == 1
    assert names[0].startswith("orders_before_")


async def test_what_slices_have_moved_and_sent_on_goes_too(kept: Sale) -> None:
    """Units of the plain product go from slice to slice before and after the period that is dropped, lines are sent on."""
    await kept.sell()
    plain = kept.plain
    await kept.ask(PatchProduct(command_id=uuid_of("split"), **BASE, product_id=plain, slices=2))
    await kept.decide()
    await kept.ask(
        Restock(command_id=uuid_of("more"), **BASE, product_id=plain, units=9),
        Move(command_id=uuid_of("move"), **BASE, product_id=plain, slice=1, to=0, units=50),
    )
    await kept.send([kept.sent(line_of(n, plain)) for n in range(300, 320)])
    await kept.decide()
    await end_orders(kept)
    report = await kept.audit()
    assert report.ok, told(report)
    assert 0 < report.totals.forwarded < 20
    done = await retain(kept.settings, await end_period(kept))
    assert len(done.dropped) == 1, done
    report = await kept.audit()
    assert report.ok, told(report)
    assert report.totals.forwarded == 0
    await kept.ask(Move(command_id=uuid_of("back"), **BASE, product_id=plain, slice=0, to=1, units=70))
    await kept.send([kept.sent(line_of(n, plain)) for n in range(400, 420)])
    await kept.decide()
    report = await kept.audit()
    assert report.ok, told(report)
    assert 0 < report.totals.forwarded < 20
    for name in (plain, f"{plain}~1"):
        await kept.pool.execute("UPDATE history_stock SET given = given + 1 WHERE product_id = $1", name)
        assert "conservation" in (await kept.audit(0.0)).broken()
        await kept.pool.execute("UPDATE history_stock SET given = given - 1 WHERE product_id = $1", name)
    assert (await kept.audit(0.0)).ok


async def end_second_period(sale: Sale) -> datetime:
    at = from_ms(to_ms(datetime.now(UTC)) + 1)
    async with retention.connected(sale.settings) as connection:
        for leaf in await partitions.leaves(connection):
            if leaf.since is not None and leaf.since < at and (leaf.until is None or leaf.until > at):
                await partitions.cut(connection, leaf, at)
    return at + timedelta(days=DAYS, seconds=1)


async def _leaves(sale: Sale) -> list[partitions.Leaf]:
    async with retention.connected(sale.settings) as connection:
        return await partitions.leaves(connection)


async def _is_in_the_archive(sale: Sale, name: str, before: dict[str, int]) -> None:
    """What was dropped comes back from its files, row for row."""
    folder = Path(sale.settings.archive_dir) / name
    manifest = archive.read_manifest(folder)
    assert manifest is not None
    archive.check(folder, manifest)
    assert {t: manifest.tables[t].rows for t in before} == before
    async with retention.connected(sale.settings) as connection:
        await connection.execute("CREATE TEMPORARY TABLE restored (LIKE orders)")
        assert await archive.read_table(connection, folder / "orders.csv.gz", "restored") == before["orders"]
        content = await archive.content_of(connection, "SELECT * FROM restored ORDER BY order_id")
    assert content == manifest.tables["orders"].content_sha256
    (folder / "orders.csv.gz").write_bytes(b"spoilt")
    with pytest.raises(Invalid, match="orders"):
        archive.check(folder, manifest)


PLANTS = (
    ("UPDATE ledger SET delta = delta - 1 WHERE seq = (SELECT max(seq) FROM ledger)", "ledger-running"),
    ("DELETE FROM ledger WHERE (product_id, seq) = (SELECT product_id, max(seq) - 3 FROM ledger GROUP BY product_id LIMIT 1)",
     "ledger-sequence"),
    ('DELETE FROM decisions WHERE "offset" = (SELECT max("offset") - 2 FROM decisions)', "log-complete"),
    ("UPDATE history_stock SET given = given + 1", "conservation"),
    ("UPDATE history_stock SET paid = paid + 1", "stock-counts"),
    ("UPDATE history_stock SET counted = counted + 1", "purchases"),
    ("UPDATE history_stock SET entries = entries - 1", "ledger-sequence"),
    ("UPDATE stock SET available = available - 1, paid = paid + 1 WHERE available > 0", "conservation"),
)  # fmt: skip


async def _planted_errors_are_found(sale: Sale) -> None:
    tables = ("ledger", "decisions", "history_stock", "stock")
    for table in tables:
        await sale.pool.execute(f"CREATE TABLE saved_{table} AS SELECT * FROM {table}")  # noqa: S608
    for plant, law in PLANTS:
        assert await sale.pool.execute(plant) not in ("UPDATE 0", "DELETE 0"), plant
        report = await sale.audit(0.0)
        assert law in report.broken(), (plant, report.broken())
        for table in tables:
            await sale.pool.execute(f"DELETE FROM {table}")  # noqa: S608
            await sale.pool.execute(f"INSERT INTO {table} SELECT * FROM saved_{table}")  # noqa: S608


# In the order in which they come: each run gets one step further than the one before.
CRASHES = (
    "INSERT INTO history (until",
    "DETACH PARTITION payments",
    "ATTACH PARTITION orders_before",
    "ATTACH PARTITION decisions_before",
    "DROP TABLE ledger",
    "UPDATE history SET dropped_at",
)


async def test_it_goes_on_wherever_it_was_stopped(kept: Sale, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept.sell()
    await end_orders(kept)
    now = await end_period(kept)
    orders = await kept.pool.fetchval("SELECT count(*) FROM orders")
    await _change_at_the_last_moment(kept, now)
    statements: list[str] = []
    connected = retention.connected

    @asynccontextmanager
    async def crashing(settings: Settings) -> AsyncIterator[Any]:
        async with connected(settings) as connection:
            yield Crashing(connection, statements)

    monkeypatch.setattr(retention, "connected", crashing)
    for statement in CRASHES:
        statements[:] = [statement]
        with pytest.raises(CrashError):
            await retain(kept.settings, now)
        to_do = await retain(kept.settings, now, dry_run=True)
        assert (len(to_do.dropped), to_do.kept) == (1, [])
        report = await kept.audit(0.0)
        assert report.ok, (statement, told(report))
    statements.clear()
    done = await retain(kept.settings, now)
    assert len(done.dropped) == 1
    report = await kept.audit()
    assert report.ok, told(report)
    manifest = archive.read_manifest(Path(kept.settings.archive_dir) / done.dropped[0])
    assert manifest is not None
    assert manifest.tables["orders"].rows == orders
    assert not [leaf for leaf in await _leaves(kept) if leaf.going]


async def test_a_payment_after_the_archive_is_still_given_back(
    kept: Sale, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An order that ended long ago is paid once more just when its period is to be dropped."""
    await kept.sell()
    await end_orders(kept)
    now = await end_period(kept)
    order_id = await kept.pool.fetchval("SELECT order_id::text FROM orders WHERE status = 'completed'")
    total = await kept.pool.fetchval("SELECT total FROM orders WHERE order_id = $1", order_id)
    again = Pay(
        command_id=uuid_of("pay again"), **BASE, order_id=order_id, provider="sandbox", event_id="e2", reference="r2",
        outcome="paid", amount=Money(str(total), "CNY"), occurred_at_ms=1,
    )  # fmt: skip
    drop = retention.Retention.drop

    async def late(self: retention.Retention, period: Period) -> None:
        await kept.ask(again)
        await kept.decide()
        await drop(self, period)

    with monkeypatch.context() as patch:
        patch.setattr(retention.Retention, "drop", late)
        done = await retain(kept.settings, now)
    assert not done.dropped
    assert "changed" in done.kept[0]
    assert await kept.pool.fetchval("SELECT reference FROM refunds WHERE NOT refunded") == "r2"
    done = await retain(kept.settings, now)
    assert not done.dropped
    assert f"order {order_id}" in done.kept[0]
    report = await kept.audit()
    assert report.ok, told(report)


class Crashing:
    """A connection that ends before a statement."""

    def __init__(self, connection: Any, statements: list[str]) -> None:
        self._connection = connection
        self._statements = statements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def execute(self, statement: str, *arguments: Any) -> Any:
        if any(part in statement for part in self._statements):
            raise CrashError(statement)
        return await self._connection.execute(statement, *arguments)


async def _change_at_the_last_moment(sale: Sale, now: datetime) -> None:
    """What is not in the archive as it is now is put back."""
    first = await sale.order_of(100)
    detach = partitions.detach

    async def late(connection: Any, leaf: partitions.Leaf) -> None:
        if leaf.table == "orders":
            await sale.pool.execute("UPDATE orders SET note = 'late' WHERE order_id = $1", first)
        await detach(connection, leaf)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "detach", late)
        done = await retain(sale.settings, now)
    assert not done.dropped
    assert "changed" in done.kept[0]
    assert await sale.pool.fetchval("SELECT note FROM orders WHERE order_id = $1", first) == "late"
    report = await sale.audit(0.0)
    assert report.ok, told(report)


async def test_a_writer_goes_on_meanwhile(kept: Sale) -> None:
    await kept.sell()
    await end_orders(kept)
    now = await end_period(kept)
    lines = [kept.sent(line_of(n, kept.plain, 1)) for n in range(1000, 1300)]

    async def sell() -> None:
        for start in range(0, len(lines), 10):
            await kept.send(lines[start : start + 10])

    async with real_writer(kept.settings, "w2") as writer, running(writer):
        done, _ = await asyncio.gather(retain(kept.settings, now), sell())
        assert done.cut
        assert done.dropped
    await kept.decide()
    report = await kept.audit(30.0)
    assert report.ok, told(report)
    assert report.totals.orders == 300
