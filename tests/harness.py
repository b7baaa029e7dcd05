"""What tests share: makers of messages and products, a clock to turn by hand, writers put together and run."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from contracts.errors import SettingsError, Unavailable
from contracts.messages import CheckoutLine, Shipping
from contracts.settings import Settings
from contracts.topics import partition_of
from deploy.records import reading
from deploy.stack import LocalStack
from deploy.topics import ensure_topics
from stock_ledger.batch import Product
from stock_ledger.commands.ledger import CommandLedger
from stock_ledger.commands.postgres import PostgresCommandLedger
from stock_ledger.ledger import Ledger
from stock_ledger.pool import connect_pool
from stock_ledger.postgres import PostgresLedger
from stock_ledger.redis_view import RedisView, connect_redis
from stock_ledger.upstream.source import StockSource
from stock_ledger.view import View
from workers.health import Health
from workers.kafka_log import KafkaLog
from workers.log import Log
from workers.shelf import Shelf
from workers.writer import Writer

NOON = datetime(2026, 11, 11, 12, tzinfo=UTC)
HOME = Shipping("Li Lei", "+86 138 0000 0000", "1 Long Street, Hangzhou")


class Clock:
    """Time that passes only by `tick`."""

    def __init__(self) -> None:
        self._now = NOON

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - NOON).total_seconds()

    def tick(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


def uuid_of(number: int | str) -> str:
    """The same checkout id for the same number or name."""
    return str(UUID(bytes=blake2b(str(number).encode(), digest_size=16).digest()))


def line_of(checkout: int | str, product_id: str = "p", quantity: int = 1, **fields: Any) -> CheckoutLine:
    """A line that can be decided; `fields` replace what it has."""
    values: dict[str, Any] = {
        "v": 1,
        "checkout_id": uuid_of(checkout),
        "buyer_id": f"buyer-{checkout}",
        "product_id": product_id,
        "quantity": quantity,
        "payload_hash": "0" * 32,
        "accepted_at_ms": 1_794_394_800_000,
        "shipping": HOME,
    }
    return CheckoutLine(**(values | fields))


def product_of(product_id: str = "p", **fields: Any) -> Product:
    """A product that can be bought; `fields` replace what it has."""
    values: dict[str, Any] = {
        "product_id": product_id,
        "name": f"Name of {product_id}",
        "cover": f"https://img.example/{product_id}.jpg",
        "price": Decimal("129.00"),
        "currency": "CNY",
        "on_shelf": True,
        "buyer_limit": None,
        "payment_ttl_s": 900,
        "version": 1,
    }
    return Product(**(values | fields))


def encoded(line: CheckoutLine) -> bytes:
    return msgspec.json.encode(line)


async def results_of(view: View, checkout_id: str) -> dict[str, bytes]:
    """What the view holds of a checkout's decisions."""
    return (await view.checkouts([checkout_id], [])).results[0]


def product_in(partition: int, partitions: int, number: int = 0) -> str:
    """The id of a product that lives in this partition; another one for every number."""
    names = (f"sku-{i}" for i in range(10_000))
    fitting = (name for name in names if partition_of(name, partitions) == partition)
    for _ in range(number):
        next(fitting)
    return next(fitting)


class Wall:
    """The clock that the circuit breakers' library reads."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def time(self) -> float:
        return self.now_s


async def eventually(condition: Callable[[], bool | Awaitable[bool]], timeout_s: float = 20.0) -> None:
    """Return as soon as the condition holds; fail when it does not within the time."""
    pause = asyncio.Event()
    wait_s = 0.0
    async with asyncio.timeout(timeout_s):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            try:
                await asyncio.wait_for(pause.wait(), wait_s)
            except TimeoutError:
                wait_s = min(wait_s + 0.002, 0.05)


async def records_of(settings: Settings, topic: str, partition: int) -> list[Any]:
    """All that lies in a partition in Kafka."""
    async with reading(settings) as log:
        ends = {partition: (await log.ends(topic))[partition]}
        return [record async for record in log.read(topic, {partition: 0}, ends)]


@asynccontextmanager
async def stalled(stack: LocalStack, settings: Settings) -> AsyncIterator[None]:
    """Kafka stands still. At the end it goes on, and takes new topics again: a broker that was silent for too long is
    fenced, until it is heard again.
    """
    after = msgspec.structs.replace(settings, topic_prefix=f"{settings.topic_prefix}-after")

    async def takes_topics() -> bool:
        try:
            await ensure_topics(after)
        except (SettingsError, Unavailable):
            return False
        return True

    pid = stack.kafka.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
        await eventually(takes_topics)


class Traces:
    """Tasks and open files that come from now on."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._files = self._open_files()

    async def are_gone(self) -> None:
        assert asyncio.all_tasks() <= self._tasks
        await eventually(lambda: self._open_files() <= self._files)

    @staticmethod
    def _open_files() -> int:
        return len(list(Path("/dev/fd").iterdir()))


async def insert_product(
    pool: "asyncpg.Pool[Any]", product: Product, available: int, seq: int, partition: int
) -> None:
    """A product with its stock, as the catalogue would have stored it, with the ledger entry of its stock."""
    columns = Product.__struct_fields__
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            f"INSERT INTO products ({', '.join(columns)}) VALUES ({places})",  # noqa: S608
            *(getattr(product, name) for name in columns),
        )
        await connection.execute(
            "INSERT INTO stock (product_id, partition, available, seq) VALUES ($1, $2, $3, $4)",
            product.product_id,
            partition,
            available,
            seq,
        )
        await connection.execute(
            "INSERT INTO ledger (product_id, seq, delta, available, kind, at) VALUES ($1, $2, $3, $3, 'initial', $4)",
            product.product_id,
            seq,
            available,
            NOON,
        )


def make_writer(
    log: Log,
    ledger: Ledger,
    commands: CommandLedger,
    view: View,
    settings: Settings,
    clock: Clock,
    owner: str = "writer",
    source: StockSource | None = None,
) -> Writer:
    shelf = Shelf(view, ledger, settings, clock.monotonic)
    health = Health(settings, clock.monotonic)
    return Writer(log, ledger, commands, shelf, health, settings, owner, clock.now, source)


@asynccontextmanager
async def running(writer: Writer) -> AsyncIterator[None]:
    """The writer at work; stopped in good order at the end. Fails if the writer did."""
    async with failing(writer) as task:
        yield
    task.result()


@asynccontextmanager
async def failing(writer: Writer) -> AsyncIterator["asyncio.Task[None]"]:
    """The writer at work, which the test expects to fail: it awaits the task."""
    task = asyncio.create_task(writer.run())
    try:
        yield task
    except BaseException:
        if task.done():
            task.result()  # why the rest of the test could not go on
        raise
    finally:
        writer.stop()
        async with asyncio.timeout(30):
            await asyncio.wait([task])


@asynccontextmanager
async def real_writer(
    settings: Settings,
    owner: str,
    source: StockSource | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> AsyncIterator[Writer]:
    """A writer on the real servers, by default with the time as it is; not running yet."""
    loop = asyncio.get_running_loop()
    pool = await connect_pool(settings)
    redis = connect_redis(settings)
    try:
        ledger = PostgresLedger(pool)
        shelf = Shelf(RedisView(redis, settings), ledger, settings, loop.time)
        health = Health(settings, loop.time)
        commands = PostgresCommandLedger(pool, settings.partitions)
        log = KafkaLog(settings, owner)
        yield Writer(log, ledger, commands, shelf, health, settings, owner, now, source)
    finally:
        await redis.aclose()
        await pool.close()
