"""The audit against real servers: a sale that was right is proven, and whatever is planted in it is found."""

import asyncio

import msgspec
import orjson

from contracts.decisions import order_id_of
from contracts.times import to_ms
from stock_ledger.audit.report import AuditReport
from tests.harness import (
    eventually,
    line_of,
    product_in,
    real_writer,
    running,
    uuid_of,
)
from tests.integration.audit_sale import Sale


def told(report: AuditReport) -> str:
    return str([(law.code, law.deviations[:3]) for law in report.laws if not law.ok])


async def test_a_sale_is_proven(sale: Sale) -> None:
    await sale.sell()
    await sale.fold_figures()
    report = await sale.audit(30.0)
    assert report.ok, told(report)
    of_commands = {
        "commands-drained", "command-faithful", "command-repeats", "commands-asked", "gatherings", "holds",
        "entry-causes", "command-events", "refunds", "forwards", "slice-moves", "slice-entries", "cache-slices",
    }  # fmt: skip
    assert {law.code for law in report.laws if not law.checked} == of_commands
    t = report.totals
    assert (t.messages, t.decided, t.lost, t.oversold) == (115, 115, 0, 0)
    assert (t.repeated, t.conflicts, t.dead_lettered) == (1, 1, 1)
    assert t.created == t.orders
    assert set(t.refused) == {"sold_out", "insufficient_stock", "buyer_limit", "unknown_product"}
    assert t.events == 113
    assert orjson.loads(report.to_json())["totals"]["units_sold"] == t.units_sold


async def test_a_redelivery_is_counted_and_a_lagging_consumer_is_none_of_the_laws_business(
    sale: Sale,
) -> None:
    await sale.sell()
    event = (await sale.events())[0]
    async with sale.producing() as producer:
        await producer.send_and_wait(
            sale.topics.events, event.value, event.key, event.partition, headers=list(event.headers)
        )
    report = await sale.audit()
    assert report.ok, told(report)
    assert report.totals.redelivered_events == 1
    assert report.law("figures").not_checkable == 3
    await sale.fold_figures()
    report = await sale.audit()
    assert report.ok, told(report)
    assert report.law("figures").checked > 0


async def test_what_is_planted_in_tables_and_cache_is_found(sale: Sale) -> None:
    await sale.sell()
    await _lose_a_decision(sale)
    await _double_an_order(sale)
    await _spoil_a_total(sale)
    await _drift_the_cache(sale)
    report = await sale.audit()
    assert report.ok, f"planted deviations were not all taken back: {told(report)}"


async def _lose_a_decision(sale: Sale) -> None:
    await sale.pool.execute(
        'CREATE TABLE kept AS SELECT * FROM decisions WHERE partition = 1 AND "offset" = 7'
    )
    await sale.pool.execute('DELETE FROM decisions WHERE partition = 1 AND "offset" = 7')
    report = await sale.audit()
    assert "log-complete" in report.broken()
    (deviation,) = report.law("log-complete").deviations
    assert (deviation.partition, deviation.offset) == (1, 7)
    assert (deviation.product_id, deviation.checkout_id) == (sale.plain, uuid_of(107))
    assert report.totals.lost == 1
    assert {"orders", "order-items", "order-payments", "order-entries", "events"} <= set(report.broken())
    await sale.pool.execute("INSERT INTO decisions SELECT * FROM kept")


async def _double_an_order(sale: Sale) -> None:
    row = await sale.pool.fetchrow('SELECT * FROM decisions WHERE partition = 1 AND "offset" = 3')
    assert row is not None
    doubled = order_id_of(to_ms(row["decided_at"]) + 1, 1, 3)
    columns = "checkout_id, buyer_id, status, total, currency, contact_name, phone, address, note, created_at"
    await sale.pool.execute(
        f"INSERT INTO orders (order_id, {columns}) SELECT $1, {columns} FROM orders WHERE order_id = $2",  # noqa: S608
        doubled,
        row["order_id"],
    )
    report = await sale.audit()
    assert report.broken() == ["orders", "order-events"], told(report)
    assert doubled in report.law("orders").deviations[0].detail
    await sale.pool.execute("DELETE FROM orders WHERE order_id = $1", doubled)


async def _spoil_a_total(sale: Sale) -> None:
    await sale.pool.execute("UPDATE stock SET available = available + 1 WHERE product_id = $1", sale.plain)
    report = await sale.audit()
    assert report.broken() == ["conservation", "cache-stock"], told(report)
    assert report.law("conservation").deviations[0].product_id == sale.plain
    await sale.pool.execute("UPDATE stock SET available = available - 1 WHERE product_id = $1", sale.plain)


async def _drift_the_cache(sale: Sale) -> None:
    key = sale.keys.stock(1, sale.plain)
    before = await sale.redis.get(key)
    assert isinstance(before, bytes)
    epoch, seq, _ = before.split(b":")
    await sale.redis.set(key, b"%b:%b:7777" % (epoch, seq))
    product = await sale.redis.get(sale.keys.product(1, sale.plain))
    assert isinstance(product, bytes)
    await sale.redis.set(sale.keys.product(1, sale.plain), product.replace(b'"129.00"', b'"1.00"'))
    await sale.redis.srem(sale.keys.gate(0), sale.hot)
    result = sale.keys.result(uuid_of(100))
    document = await sale.redis.hget(result, sale.plain)
    assert isinstance(document, bytes)
    await sale.redis.hset(result, sale.plain, document.replace(b'"created"', b'"refused"'))
    report = await sale.audit()
    assert report.broken() == ["cache-stock", "cache-products", "cache-sold-out", "cache-results"], told(
        report
    )
    assert "7777" in report.law("cache-stock").deviations[0].detail
    assert "the cache says price 1.00, Postgres 129.00" in report.law("cache-products").deviations[0].detail
    assert report.law("cache-sold-out").deviations[0].product_id == sale.hot
    assert report.law("cache-results").deviations[0].checkout_id == uuid_of(100)
    progress = sale.keys.progress(1)
    shown = await sale.redis.get(progress)
    assert isinstance(shown, bytes)
    await sale.redis.delete(progress)
    report = await sale.audit()
    assert report.law("cache-products").ok, "what no writer takes from the cache is not held against it"
    await sale.redis.set(progress, shown)
    await sale.redis.set(key, before)
    await sale.redis.set(sale.keys.product(1, sale.plain), product)
    await sale.redis.sadd(sale.keys.gate(0), sale.hot)
    await sale.redis.hset(result, sale.plain, document)


async def test_a_missing_event_and_a_dead_letter_without_copy_are_found(sale: Sale) -> None:
    """As if a writer had saved its decisions and never told anyone."""
    await sale.sell()
    line = line_of("unheard", product_in(3, sale.settings.partitions))
    await sale.send([sale.sent(line), (3, b"k", b"{")])
    await sale.pool.execute(
        'INSERT INTO decisions (partition, "offset", kind, checkout_id, buyer_id, product_id, quantity, payload_hash, '
        "line, lines, reason, detail, decided_at) "
        "VALUES (3, 0, 'refused', $1, $2, $3, 1, $4, 0, 1, 'unknown_product', '', now()), "
        "(3, 1, 'dead_lettered', NULL, '', '', 0, '', 0, 1, NULL, 'not JSON', now())",
        line.checkout_id,
        line.buyer_id,
        line.product_id,
        line.payload_hash,
    )
    await sale.pool.execute("UPDATE partition_state SET next_offset = 2 WHERE partition = 3")
    await sale.redis.delete(sale.keys.progress(3))
    report = await sale.audit()
    assert report.broken() == ["dead-letter-copies", "events"], told(report)
    (missing,) = report.law("events").deviations
    assert (missing.partition, missing.offset, missing.checkout_id) == (3, 0, line.checkout_id)
    (uncopied,) = report.law("dead-letter-copies").deviations
    assert (uncopied.partition, uncopied.offset) == (3, 1)


async def test_messages_that_no_one_decides_are_told(sale: Sale) -> None:
    await sale.send(sale.messages())
    report = await sale.audit(0.5)
    assert report.broken() == ["log-drained"], told(report)
    assert report.law("log-drained").deviation_count == report.totals.lost == 115


async def test_a_cache_that_does_not_answer_is_no_deviation(sale: Sale) -> None:
    await sale.sell()
    sale.settings = msgspec.structs.replace(sale.settings, redis_url="redis://127.0.0.1:1/0")
    report = await sale.audit()
    assert report.ok, told(report)
    for code in ("cache-stock", "cache-products", "cache-sold-out", "cache-progress", "cache-results"):
        assert (report.law(code).checked, report.law(code).not_checkable > 0) == (0, True)
        assert "could not be read" in report.law(code).note


async def test_a_running_sale_gives_no_false_alarm(sale: Sale) -> None:
    over = asyncio.Event()

    async def buy() -> None:
        number = 1000
        async with sale.producing() as producer:
            while not over.is_set():
                for n in range(number, number + 20):
                    partition, key, value = sale.sent(line_of(n, sale.plain))
                    await producer.send(sale.topics.checkouts, value, key=key, partition=partition)
                number += 20
                await asyncio.sleep(0.02)

    async with real_writer(sale.settings, "w1") as writer, running(writer):
        buying = asyncio.create_task(buy())
        try:
            await eventually(lambda: _some(sale))
            reports = [await sale.audit(20.0) for _ in range(3)]
        finally:
            over.set()
            await buying
    for report in reports:
        assert report.ok, told(report)
    assert reports[0].totals.decided < reports[-1].totals.decided


async def _some(sale: Sale) -> bool:
    return await sale.decided() > 100
