"""Where a round is run: a database, topics and cache keys of its own on the local servers, and processes on them."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
from aiokafka.admin import AIOKafkaAdminClient
from redis.asyncio import Redis

from contracts.settings import PREFIX, Settings
from contracts.topics import Topics
from deploy import sample
from deploy.bench.checkouts import BUYERS, Backlog, write
from deploy.bench.children import ROOT
from deploy.fleet import Fleet, Member
from deploy.local import prepare
from deploy.progress import decided
from deploy.records import Records, reading
from deploy.stack import LocalStack, end, spawn
from deploy.stack.ports import find_free
from stock_ledger.catalogue import ProductEntry
from stock_ledger.pool import acquired, connect_pool, fetch

PLENTY = 10**9  # units: nothing is sold out
_LOOK_S = 0.02
_STALL_S = 60.0
_PAUSED_S = 60.0  # workers are held that long at most while a backlog is written
_EXECUTE_S = 1800.0
_ERASE = 5000  # keys at once

# What decisions came to, in every table that has a row of each order.
COUNTS = """
SELECT (SELECT count(*) FROM decisions) AS decisions,
       (SELECT count(*) FROM decisions WHERE kind = 'created') AS created,
       (SELECT count(*) FROM orders) AS orders,
       (SELECT count(*) FROM order_items) AS items,
       (SELECT count(*) FROM payments) AS payments,
       (SELECT count(*) FROM ledger WHERE kind = 'order') AS entries,
       (SELECT coalesce(sum(-delta), 0)::bigint FROM ledger WHERE kind = 'order') AS units
"""


class Counts(msgspec.Struct, frozen=True):
    """Rows of decisions, of those that created an order, and of what belongs to an order; units sold."""

    decisions: int
    created: int
    orders: int
    items: int
    payments: int
    entries: int
    units: int

    def check(self, wanted: int) -> None:
        """Raises RuntimeError unless there are exactly so many orders of one unit each, whole in every table."""
        if set(msgspec.structs.astuple(self)) != {wanted}:
            raise RuntimeError(f"{wanted} checkouts were to become an order each; there are {self}")


class Bench:
    """What all suites share. `sustained_per_s` is the rate found end to end, 0 until then."""

    def __init__(
        self, stack: LocalStack, settings: Settings, log_dir: Path, say: Callable[[str], None], *, quick: bool
    ) -> None:
        self.stack = stack
        self.settings = settings
        self.log_dir = log_dir
        self.say = say
        self.quick = quick
        self.sustained_per_s = 0.0
        self._numbers = count(1)

    @asynccontextmanager
    async def ground(self, products: Sequence[ProductEntry], **changes: Any) -> AsyncIterator["Ground"]:
        """A ground with these products; `changes` are of its settings. Nothing of it is left afterwards.

        Raises RuntimeError at its end if the cache was full meanwhile: the processes went on without it.
        """
        name = f"bench{os.getpid()}x{next(self._numbers)}"
        url = urlsplit(self.settings.postgres_url)
        settings = msgspec.structs.replace(
            self.settings,
            postgres_url=urlunsplit(url._replace(path=f"/{name}")),
            topic_prefix=name,
            consumer_group=f"{name}-writers",
            cache_prefix=f"{name}:",
            session_timeout_ms=int(_PAUSED_S * 1000),
            stall_exit_s=5 * _PAUSED_S,
            **changes,
        )
        await _execute(self.settings.postgres_url, f"CREATE DATABASE {name}")
        ground = Ground(self, settings)
        try:
            await prepare(settings, products, sample.addresses(BUYERS))
            refused = await _refused_by_cache(settings)
            async with ground:
                yield ground
            if await _refused_by_cache(settings) > refused:
                raise RuntimeError("the cache was full and refused what it was to keep: it was not measured")
        finally:
            await asyncio.to_thread(ground.fleet.stop)
            await _erase(settings)
            await _execute(self.settings.postgres_url, f"DROP DATABASE {name} WITH (FORCE)")

    @asynccontextmanager
    async def bare(self, kind: str, body_bytes: int) -> AsyncIterator[int]:
        """A server that does nothing but answer (see `deploy.bench.bare`), on this port."""
        port = find_free(set())
        settings = msgspec.structs.replace(self.settings, ingest_port=port)
        env = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        process = spawn(
            [sys.executable, "-m", "deploy.bench.bare", kind, str(body_bytes)],
            log_path=self.log_dir / f"bare-{kind}.log",
            env=env | settings.as_env(),
            reaper=self.stack.reaper,
            cwd=ROOT,
        )
        try:
            await until(lambda: _listens(settings.host, port), 30)
            yield port
        finally:
            end(process, self.stack.reaper, grace_s=5)


class Ground:
    """See `Bench.ground`. Entered by it."""

    def __init__(self, bench: Bench, settings: Settings) -> None:
        self.bench = bench
        self.settings = settings
        self.fleet = Fleet(bench.stack, bench.log_dir / settings.topic_prefix, bench.say)
        self._pool: Any = None

    async def __aenter__(self) -> Self:
        self._pool = await connect_pool(self.settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    async def start(self, *roles: str) -> list[Member]:
        """Processes of these roles, ready."""
        members = [self.fleet.add(role, self.settings) for role in roles]
        await self.fleet.wait_ready()
        return members

    async def drain(self, backlog: Backlog, workers: int = 1) -> float:
        """Messages per second that so many workers decide of a backlog, from the first progress seen until the event of
        the last is published.

        The workers have claimed their partitions and are held while the backlog is written and what was there before
        it is counted. All of it must be new.
        Raises RuntimeError if decisions or events are not as many as messages.
        """
        members = await self.start(*workers * ["worker"])
        for member in members:
            self.fleet.signal(member, signal.SIGSTOP)
        await write(self.settings, backlog)
        await self.execute("CHECKPOINT")
        async with reading(self.settings) as log:
            decided_before, published_before = await self.decided(), await self._published(log)
            for member in members:
                self.fleet.signal(member, signal.SIGCONT)
            messages = sum(map(len, backlog.values()))
            per_s = await self._drained(log, messages, decided_before, published_before)
        for member in members:
            await asyncio.to_thread(self.fleet.terminate, member)
            self.fleet.members.remove(member)
        return per_s

    async def _drained(
        self, log: Records, messages: int, decided_before: int, published_before: int
    ) -> float:
        """Wait until so many more messages are decided and their events are there; how many per second they were."""
        first: tuple[float, int] | None = None
        seen, seen_at = decided_before, time.monotonic()
        while (done := await self.decided()) < decided_before + messages:
            if done != seen:
                seen, seen_at = done, time.monotonic()
                first = first or (seen_at, done)
            if time.monotonic() > seen_at + _STALL_S:
                raise TimeoutError(f"of {messages} messages only {done - decided_before} are decided")
            await asyncio.sleep(_LOOK_S)
        while (published := await self._published(log) - published_before) < messages:
            if time.monotonic() > seen_at + _STALL_S:
                raise RuntimeError(f"{messages} messages have {published} events")
            await asyncio.sleep(_LOOK_S)
        if first is None:
            raise RuntimeError(f"{messages} messages are too few: all were decided in one batch")
        return (decided_before + messages - first[1]) / (time.monotonic() - first[0])

    async def _published(self, log: Records) -> int:
        return sum((await log.ends(Topics(self.settings).events)).values())

    async def caught_up(self) -> None:
        """Wait until all that is in the log now is decided."""
        async with reading(self.settings) as log:
            end_of_log = sum((await log.ends(Topics(self.settings).checkouts)).values())
        seen, seen_at = -1, time.monotonic()
        while (done := await self.decided()) < end_of_log:
            if done != seen:
                seen, seen_at = done, time.monotonic()
            if time.monotonic() > seen_at + _STALL_S:
                raise TimeoutError(f"of {end_of_log} messages only {done} are decided")
            await asyncio.sleep(_LOOK_S)

    async def decided(self) -> int:
        """How many messages are decided."""
        return await decided(self._pool)

    async def counts(self) -> Counts:
        return Counts(**dict((await self.fetch(COUNTS))[0]))

    async def check_orders(self, wanted: int) -> None:
        """As `Counts.check` does, on an otherwise empty ground."""
        (await self.counts()).check(wanted)

    async def execute(self, statement: str, *arguments: Any) -> None:
        """What may take minutes."""
        async with acquired(self._pool) as connection:
            await connection.execute(statement, *arguments, timeout=_EXECUTE_S)

    async def fetch(self, query: str, *arguments: Any) -> list[Any]:
        return await fetch(self._pool, query, *arguments)


async def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for it. Raises TimeoutError when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not come true within {seconds} s")
        await asyncio.sleep(_LOOK_S)


def plentiful(others: int = 0, slices: int = 1) -> list[ProductEntry]:
    """The hot product and so many others, more of each than can be sold, as much to each buyer as he wants."""
    return [
        msgspec.structs.replace(product, stock=PLENTY, buyer_limit=None, slices=slices)
        for product in sample.products(others, PLENTY)
        if product.on_shelf
    ]


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _erase(settings: Settings) -> None:
    """Delete topics and cache keys, or a long measurement would fill the disk and the cache."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_url.split(","))
    await admin.start()
    try:
        await admin.delete_topics(Topics(settings).all())
    finally:
        await admin.close()
    async with Redis.from_url(settings.redis_url) as redis:
        keys: list[bytes] = []
        async for key in redis.scan_iter(match=f"{settings.cache_prefix}*", count=_ERASE):
            keys.append(key)
            if len(keys) == _ERASE:
                await redis.unlink(*keys)
                keys = []
        if keys:
            await redis.unlink(*keys)


async def _refused_by_cache(settings: Settings) -> int:
    """How many commands the cache has refused since it began because its memory is full."""
    async with Redis.from_url(settings.redis_url) as redis:
        refused = (await redis.info("errorstats")).get("errorstat_OOM")
    return 0 if refused is None else int(refused["count"])


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
