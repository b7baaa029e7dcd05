"""A small sale on real servers, with every kind of decision."""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from redis.asyncio import Redis

from contracts.commands import Command, encode_command
from contracts.kafka import producer_options, tp
from contracts.keys import Keys
from contracts.settings import Settings
from contracts.topics import Topics, partition_of
from deploy.audit import run
from deploy.records import reading
from stock_ledger.audit.report import AuditReport
from stock_ledger.figures import FigureStore
from tests.conftest import examples
from tests.harness import (
    encoded,
    eventually,
    insert_product,
    line_of,
    product_in,
    product_of,
    real_writer,
    records_of,
    running,
    uuid_of,
)

Sent = tuple[int, bytes, bytes]  # partition, key, value


class Sale:
    """A sale on the servers: hot (5 units, limit 2) in partition 0, plain (1000 units) in partition 1."""

    def __init__(self, settings: Settings, pool: "asyncpg.Pool[Any]", redis: Redis) -> None:
        self.settings = settings
        self.pool = pool
        self.redis = redis
        self.keys = Keys(settings.cache_prefix)
        self.topics = Topics(settings)
        self.hot = product_in(0, settings.partitions)
        self.plain = product_in(1, settings.partitions)

    async def open(self) -> None:
        await insert_product(self.pool, product_of(self.hot, buyer_limit=2), 5, 1, 0)
        await insert_product(self.pool, product_of(self.plain), 1000, 1, 1)

    def messages(self) -> list[Sent]:
        """Every kind of decision, and something that is none, of which even the error is not text."""
        lines = [line_of(n, self.hot, 1 + n % 2) for n in range(9)]
        lines += [
            line_of("limited", self.hot, 3),
            lines[0],
            msgspec.structs.replace(lines[0], quantity=2, payload_hash="f" * 32),
        ]
        lines += [line_of(n, self.plain, 1 + n % 3) for n in range(100, 200)]
        lines += [line_of("much", self.plain, 5000), line_of("who", product_in(2, self.settings.partitions))]
        sent = [self.sent(line) for line in lines]
        garbage = (examples() / "checkout.bad.nul-in-a-field-name.json").read_bytes()
        return [*sent[:5], (0, self.hot.encode(), garbage), *sent[5:]]

    def sent(self, line: Any) -> Sent:
        return partition_of(line.product_id, self.settings.partitions), line.partition_key(), encoded(line)

    async def send(self, messages: Sequence[Sent]) -> None:
        async with self.producing() as producer:
            for partition, key, value in messages:
                await producer.send(self.topics.checkouts, value, key=key, partition=partition)

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(**producer_options(self.settings))
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    async def decided(self) -> int:
        count: int = await self.pool.fetchval("SELECT count(*) FROM decisions")
        return count

    async def sell(self) -> None:
        """Decide and publish all; the writer is gone afterwards."""
        await self.send(self.messages())
        await self.decide()

    async def decide(self) -> None:
        """Until nothing in either log is left. What is decided is told only then: a batch is committed in the end, and
        a writer that is stopped before leaves the rest of it to the next one.
        """
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.kafka_url)
        await admin.start()

        async def done() -> bool:
            try:
                committed = await admin.list_consumer_group_offsets(self.settings.consumer_group)
            except KafkaError:  # the first group of a fresh server has no coordinator yet
                return False
            ends = {topic: await log.ends(topic) for topic in (self.topics.checkouts, self.topics.commands)}
            return all(
                tp(topic, p) in committed and committed[tp(topic, p)].offset == end
                for topic, of_topic in ends.items()
                for p, end in of_topic.items()
                if end
            )

        try:
            async with (
                reading(self.settings) as log,
                real_writer(self.settings, "w1") as writer,
                running(writer),
            ):
                await eventually(done)
        finally:
            await admin.close()

    async def ask(self, *commands: Command) -> None:
        """Commands into their log, one after the other."""
        async with self.producing() as producer:
            for command in commands:
                await producer.send_and_wait(
                    self.topics.commands,
                    encode_command(command),
                    key=command.subject().encode(),
                    partition=command.partition(self.settings.partitions),
                )

    async def order_of(self, name: str | int) -> str:
        found: str = await self.pool.fetchval(
            "SELECT order_id::text FROM orders WHERE checkout_id = $1", uuid_of(name)
        )
        return found

    async def events(self) -> list[Any]:
        """All records of the events topic."""
        partitions = range(self.settings.partitions)
        return [r for p in partitions for r in await records_of(self.settings, self.topics.events, p)]

    async def fold_figures(self) -> None:
        events: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
        for record in await self.events():
            events[record.partition].append((record.offset, record.value))
        await FigureStore(self.pool).add(events)

    async def audit(self, drain_timeout_s: float = 1.0) -> AuditReport:
        return await run(self.settings, drain_timeout_s)
