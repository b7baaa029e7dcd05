"""The writer on Kafka, Postgres and Valkey: everything is decided once, whatever happens on the way."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from random import Random
from typing import Any

import asyncpg
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from contracts.kafka import Record, producer_options, send, tp
from contracts.settings import Settings
from contracts.topics import Topics, partition_of
from stock_ledger.pool import connect_pool
from stock_ledger.redis_view import RedisView, connect_redis
from tests.harness import (
    encoded,
    eventually,
    insert_product,
    line_of,
    product_of,
    real_writer,
    results_of,
    running,
    uuid_of,
)

STOCK = {"sku-a": 300, "sku-b": 1000, "sku-c": 5, "sku-d": 0, "sku-e": 250, "sku-f": 80}
LIMITED = "sku-f"


class Sale:
    """The outside of the writers: what goes into the log, and what must have come of it."""

    def __init__(self, settings: Settings, pool: "asyncpg.Pool[Any]") -> None:
        self.settings = settings
        self.pool = pool
        self.topics = Topics(settings)
        self.sent: Counter[int] = Counter()  # messages by partition
        self.random = Random(7)  # noqa: S311 - a seed that makes every run the same

    async def open(self) -> None:
        for product_id, available in STOCK.items():
            product = product_of(product_id, buyer_limit=2 if product_id == LIMITED else None)
            partition = partition_of(product_id, self.settings.partitions)
            await insert_product(self.pool, product, available, 1, partition)

    def messages(self, checkouts: Sequence[int]) -> list[tuple[int, Record]]:
        """Of each checkout a line; of some the same again, of some a conflicting one, and here and there poison."""
        found: list[tuple[int, Record]] = []
        for number in checkouts:
            product_id = self.random.choice(list(STOCK))
            partition = partition_of(product_id, self.settings.partitions)
            line = line_of(number, product_id, self.random.randint(1, 3), buyer_id=f"b{number % 40}")
            values = [encoded(line)]
            if number % 10 == 3:
                values.append(encoded(line))
            if number % 50 == 7:
                values.append(encoded(msgspec.structs.replace(line, payload_hash="f" * 32)))
            if number % 100 == 9:
                values.append(encoded(line)[:-5])
            found += [(partition, (line.partition_key(), value, [])) for value in values]
        return found

    async def send(self, messages: list[tuple[int, Record]]) -> None:
        producer = AIOKafkaProducer(**producer_options(self.settings))
        await producer.start()
        try:
            for partition in {p for p, _ in messages}:
                records = [record for p, record in messages if p == partition]
                self.sent[partition] += len(records)
                for _, ack in await send(producer, self.topics.checkouts, partition, records, 1):
                    await ack
        finally:
            await producer.stop()

    async def decided(self) -> int:
        count: int = await self.pool.fetchval("SELECT count(*) FROM decisions")
        return count

    async def all_decided(self) -> bool:
        return await self.decided() == self.sent.total()

    async def check(self) -> None:
        """Everything sent is decided once; the books agree; the view and the events tell the same."""
        await self._check_decisions()
        await self._check_books()
        await self._check_view()
        await self._check_events()

    async def _check_decisions(self) -> None:
        rows = await self.pool.fetch(
            'SELECT partition, count(*), min("offset"), max("offset") FROM decisions GROUP BY 1'
        )
        assert {r["partition"]: (r["count"], r["min"], r["max"]) for r in rows} == {
            p: (count, 0, count - 1) for p, count in self.sent.items()
        }
        first = await self.pool.fetchval(
            "SELECT count(*) - count(DISTINCT (checkout_id, product_id)) FROM decisions "
            "WHERE kind IN ('created', 'refused')"
        )
        assert first == 0

    async def _check_books(self) -> None:
        rows = await self.pool.fetch(
            """
            SELECT s.product_id, s.available, s.seq,
                   (SELECT coalesce(sum(quantity), 0)::bigint FROM decisions AS d
                    WHERE d.product_id = s.product_id AND kind = 'created') AS sold,
                   (SELECT sum(delta)::bigint FROM ledger AS l WHERE l.product_id = s.product_id) AS balance,
                   (SELECT count(*) FROM ledger AS l WHERE l.product_id = s.product_id) AS entries,
                   (SELECT sum(quantity)::bigint FROM order_items AS i WHERE i.product_id = s.product_id) AS items
            FROM stock AS s
            """
        )
        assert {r["product_id"] for r in rows} == STOCK.keys()
        for r in rows:
            assert r["available"] == STOCK[r["product_id"]] - r["sold"] == r["balance"]
            assert r["seq"] == r["entries"]
            assert r["sold"] == (r["items"] or 0)
        counts = await self.pool.fetchrow(
            "SELECT (SELECT count(*) FROM decisions WHERE kind = 'created') AS created, "
            "(SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM order_items) AS items, "
            "(SELECT count(*) FROM payments WHERE status = 'pending') AS payments"
        )
        assert counts is not None
        assert len(set(counts.values())) == 1
        bought = await self.pool.fetch(
            "SELECT buyer_id, quantity FROM purchases WHERE product_id = $1", LIMITED
        )
        assert bought
        assert all(r["quantity"] <= 2 for r in bought)

    async def _check_view(self) -> None:
        redis = connect_redis(self.settings)
        try:
            view = RedisView(redis, self.settings)
            wanted: dict[int, list[str]] = {}
            for product_id in STOCK:
                wanted.setdefault(partition_of(product_id, self.settings.partitions), []).append(product_id)
            shown = await view.load(wanted)
            seen = {i: stock for part in shown.values() for i, (_, stock) in part.entries.items()}
            rows = await self.pool.fetch("SELECT product_id, available, seq FROM stock")
            assert {i: (s.available, s.seq) for i, s in seen.items()} == {
                r["product_id"]: (r["available"], r["seq"]) for r in rows
            }
            gates = await view.gates(list(wanted))
            assert {i for gate in gates.values() for i in gate.sold_out} == {
                r["product_id"] for r in rows if r["available"] == 0
            }
            assert {p: g.progress.next_offset for p, g in gates.items() if g.progress} == dict(self.sent)
        finally:
            await redis.aclose()

    async def _check_events(self) -> None:
        events = await self.records(self.topics.events)
        by_id: dict[bytes, Record] = {}
        for _, record in events:
            assert by_id.setdefault(dict(record[2])["ce_id"], record) == record
        rows = await self.pool.fetch(
            "SELECT partition, \"offset\", kind FROM decisions WHERE kind IN ('created', 'refused', 'conflict')"
        )
        types = {"created": b"order.created", "refused": b"checkout.refused", "conflict": b"checkout.refused"}
        assert {i: dict(record[2])["ce_type"] for i, record in by_id.items()} == {
            b"%d-%d" % (r["partition"], r["offset"]): types[r["kind"]] for r in rows
        }
        dead = await self.pool.fetch(
            "SELECT partition, \"offset\" FROM decisions WHERE kind = 'dead_lettered'"
        )
        letters = [dict(record[2]) for _, record in await self.records(self.topics.dead_letters)]
        assert {(int(told["partition"]), int(told["offset"])) for told in letters} == {tuple(r) for r in dead}

    async def records(self, topic: str) -> list[tuple[int, Record]]:
        where = [tp(topic, p) for p in range(self.settings.partitions)]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_url, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        consumer.assign(where)
        await consumer.start()
        try:
            total = sum((await consumer.end_offsets(where)).values())
            found: list[tuple[int, Record]] = []
            while len(found) < total:
                for of_one in (await consumer.getmany(timeout_ms=1000)).values():
                    found += [(m.partition, (m.key, m.value, list(m.headers))) for m in of_one]
            return found
        finally:
            await consumer.stop()

    async def committed(self) -> dict[int, int]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka_url,
            group_id=self.settings.consumer_group,
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            found = {p: await consumer.committed(tp(self.topics.checkouts, p)) for p in self.sent}
            return {p: offset or 0 for p, offset in found.items()}
        finally:
            await consumer.stop()

    async def all_committed(self) -> bool:
        return await self.committed() == dict(self.sent)

    async def all_shown(self) -> bool:
        redis = connect_redis(self.settings)
        try:
            progress = await RedisView(redis, self.settings).progress(list(self.sent))
        finally:
            await redis.aclose()
        return {p: found.next_offset for p, found in progress.items()} == dict(self.sent)

    async def all_done(self) -> None:
        await eventually(self.all_decided)
        await eventually(self.all_committed)
        await eventually(self.all_shown)


@pytest.fixture
async def sale(settings: Settings) -> AsyncIterator[Sale]:
    pool = await connect_pool(settings)
    made = Sale(settings, pool)
    await made.open()
    yield made
    await pool.close()


async def test_a_backlog_is_decided_once(sale: Sale) -> None:
    await sale.send(sale.messages(range(2000)))
    assert sale.sent.total() == 2000 + 200 + 40 + 20
    async with real_writer(sale.settings, "one") as writer, running(writer):
        await sale.all_done()
    await sale.check()
    kinds = dict(await sale.pool.fetch("SELECT kind, count(*) FROM decisions GROUP BY 1"))
    assert kinds["created"] + kinds["refused"] == 2000
    assert (kinds["repeated"], kinds["conflict"], kinds["dead_lettered"]) == (200, 40, 20)
    reasons = dict(
        await sale.pool.fetch("SELECT reason, count(*) FROM decisions WHERE reason IS NOT NULL GROUP BY 1")
    )
    assert reasons.keys() == {"sold_out", "insufficient_stock", "buyer_limit", "idempotency_conflict"}


async def test_decisions_are_in_the_order_of_the_log(sale: Sale) -> None:
    await sale.send(sale.messages(range(1000)))
    async with real_writer(sale.settings, "one") as writer, running(writer):
        await eventually(sale.all_decided)
    rows = await sale.pool.fetch(
        "SELECT product_id, seq, partition, \"offset\" FROM ledger WHERE kind = 'order' ORDER BY product_id, seq"
    )
    assert len(rows) > 100
    for before, after in pairwise(rows):
        if before["product_id"] == after["product_id"]:
            assert before["seq"] + 1 == after["seq"]
            assert before["offset"] < after["offset"]


async def test_two_writers_and_a_rebalance_in_the_middle(sale: Sale) -> None:
    settings = sale.settings
    messages = sale.messages(range(2000))
    async with real_writer(settings, "one") as one, real_writer(settings, "two") as two, running(one):
        await sale.send(messages[:700])
        await eventually(lambda: _some(sale, 200))
        async with running(two):
            await sale.send(messages[700:1400])
            await eventually(lambda: bool(one._claims) and bool(two._claims))
            assert not one._claims.keys() & two._claims.keys()
            await eventually(sale.all_decided)
        await sale.send(messages[1400:])
        await sale.all_done()
        await eventually(lambda: len(one._claims) == settings.partitions)
    await sale.check()
    owners = await sale.pool.fetch("SELECT partition, epoch, owner FROM partition_state")
    assert {r["owner"] for r in owners} == {"one"}
    assert max(r["epoch"] for r in owners) >= 3


async def _some(sale: Sale, count: int) -> bool:
    return await sale.decided() >= count


async def test_a_flush_of_the_cache_in_the_middle(sale: Sale) -> None:
    messages = sale.messages(range(2000))
    redis = connect_redis(sale.settings)
    async with real_writer(sale.settings, "one") as writer, running(writer):
        await sale.send(messages[:500])
        await eventually(lambda: _some(sale, 100))
        await redis.flushall()
        await sale.send(messages[500:1500])
        await eventually(lambda: _some(sale, 600))
        await redis.flushall()
        await sale.send(messages[1500:])
        await sale.all_done()
        await redis.flushall()
        await eventually(sale.all_shown)
    await redis.aclose()
    await sale.check()


async def test_a_second_writer_makes_up_for_what_was_not_published(sale: Sale) -> None:
    """Decided and persisted, but of the events and the commits nothing: as after a crash in between."""
    await sale.send(sale.messages(range(300)))
    async with real_writer(sale.settings, "one") as writer, running(writer):
        await sale.all_done()
    before = len(await sale.records(sale.topics.events))
    settings = msgspec.structs.replace(sale.settings, consumer_group=f"{sale.settings.consumer_group}-anew")
    redis = connect_redis(settings)
    await redis.flushall()
    sale.settings = settings
    async with real_writer(settings, "two") as writer, running(writer):
        await sale.all_done()
    assert len(await sale.records(sale.topics.events)) == 2 * before
    result = await results_of(RedisView(redis, settings), uuid_of(3))
    assert result
    await redis.aclose()
    await sale.check()
