"""The composition roots: one function per kind of process. Everything is connected here and nowhere else."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import uvloop
from aiokafka.errors import KafkaError

from api.app import Asked, Kept
from api.app import build as build_api
from api.payments.providers import build as build_providers
from api.publisher import KafkaCommands
from contracts.auth import BearerVerifier
from contracts.errors import Unavailable
from contracts.http import Pages
from contracts.http import health as health_pages
from contracts.kafka_clients import start_producer
from contracts.receipts import ReceiptSigner
from contracts.settings import PREFIX, Settings
from contracts.times import from_ms
from contracts.topics import Topics, remember_partitions
from deploy import logs
from deploy.serving import Interface, serve
from ingest.app import Ingest
from ingest.backpressure import Backpressure
from ingest.gate import PayloadMemory, SoldOutGate
from ingest.publisher import Publisher
from stock_ledger.addresses import PostgresAddressBook
from stock_ledger.carts import PostgresCarts
from stock_ledger.commands.due import DueStore
from stock_ledger.commands.postgres import PostgresCommandLedger
from stock_ledger.commands.reads import PostgresCommandReads
from stock_ledger.commands.refunds import PostgresRefunds
from stock_ledger.figures import FigureStore
from stock_ledger.pool import connect_pool
from stock_ledger.postgres import PostgresLedger
from stock_ledger.reads import PostgresReads
from stock_ledger.redis_view import RedisView, connect_redis
from stock_ledger.upstream.http import connect_stock_source
from stock_ledger.upstream.source import NoStockSource, StockSource
from stock_ledger.upstream.store import PostgresOpen
from workers.health import Health, ended_within, start_watchdog
from workers.kafka_log import KafkaLog
from workers.making_good import MakingGood
from workers.refunds import Refunding
from workers.shelf import Shelf
from workers.streams import build as build_streams
from workers.writer import Writer

logger = logging.getLogger(__name__)

Main = Callable[[Settings, asyncio.Event], Awaitable[None]]


def run(main: Main, settings: Settings) -> None:
    """Run a process until it ends or SIGTERM or SIGINT asks it to; the event is set then."""
    logs.set_up(settings.log_level)
    remember_partitions(settings.partition_cache_max)

    async def with_signals() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        gc.freeze()  # what is imported stays: no collection needs to look at it again
        gc.set_threshold(
            50_000, 20, 20
        )  # requests and batches make no cycles: looking for them is mostly in vain
        await main(settings, stop)

    uvloop.run(with_signals())


async def ingest(settings: Settings, stop: asyncio.Event) -> None:
    settings.require_secrets()
    redis = connect_redis(settings)
    view = RedisView(redis, settings)
    payloads = PayloadMemory(view, settings, time.monotonic)
    backpressure = Backpressure(settings, time.monotonic)
    publisher = Publisher(
        lambda: start_producer(settings, "sluiceway-ingest"),
        payloads,
        Topics(settings).checkouts,
        settings,
        now_ms,
        backpressure,
    )
    gate = SoldOutGate(view, settings, time.monotonic, backpressure)
    app = Ingest(
        settings,
        BearerVerifier(settings),
        ReceiptSigner(settings.receipt_secret),
        publisher,
        gate,
        backpressure,
        now_ms,
    )
    try:
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(gate.run()),
                tasks.create_task(publisher.run()),
            ]
            try:
                await serve(
                    app, Interface.RSGI, settings.ingest_port, settings, stop, settings.shutdown_drain_s
                )
            finally:
                for task in background:
                    task.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
    finally:
        await publisher.stop()
        await redis.aclose()


async def api(settings: Settings, stop: asyncio.Event) -> None:
    settings.require_secrets()
    redis = connect_redis(settings)
    pool = await connect_pool(settings, timeout_s=settings.read_timeout_s)
    commands = KafkaCommands(lambda: start_producer(settings, "sluiceway-api"), settings)
    providers = build_providers(settings)
    app = build_api(
        settings,
        PostgresReads(pool),
        RedisView(redis, settings),
        BearerVerifier(settings),
        ReceiptSigner(settings.receipt_secret),
        now,
        time.monotonic,
        Kept(PostgresAddressBook(pool), PostgresCarts(pool), lambda: uuid.uuid4().hex),
        Asked(commands, PostgresCommandReads(pool), providers),
    )
    connecting = asyncio.create_task(commands.run())
    try:
        await serve(app, Interface.ASGI, settings.api_port, settings, stop, settings.shutdown_drain_s)
    finally:
        connecting.cancel()
        await commands.stop()
        for provider in providers.values():
            await provider.close()
        await pool.close()
        await redis.aclose()


async def worker(settings: Settings, stop: asyncio.Event) -> None:
    owner = f"{socket.gethostname()}-{os.getpid()}"
    redis = connect_redis(settings)
    pool = await connect_pool(settings)
    ledger = PostgresLedger(pool)
    shelf = Shelf(RedisView(redis, settings), ledger, settings, time.monotonic)
    health = Health(settings, time.monotonic)
    commands = PostgresCommandLedger(pool, settings.partitions)
    try:
        async with _stock_source(settings) as source:
            log = KafkaLog(settings, owner)
            writer = Writer(log, ledger, commands, shelf, health, settings, owner, now, source)
            await _attended(writer.run(), writer.stop, health, settings.worker_port, settings, stop)
    finally:
        pool.terminate()
        await redis.aclose()


@contextlib.asynccontextmanager
async def _stock_source(settings: Settings) -> AsyncIterator[StockSource]:
    """The configured one, if there is one."""
    if not settings.stock_source_url:
        yield NoStockSource()
        return
    async with connect_stock_source(settings) as source:
        yield source


async def streams(settings: Settings, stop: asyncio.Event) -> None:
    pool = await connect_pool(settings)
    health = Health(settings, time.monotonic)
    providers = build_providers(settings)
    refunding = Refunding(PostgresRefunds(pool), list(providers.values()), settings, now)
    ending = asyncio.Event()

    async def run_app(source: StockSource, data_dir: str) -> None:
        making_good = MakingGood(source, PostgresOpen(pool), settings)
        app = build_streams(
            settings, FigureStore(pool), DueStore(pool), refunding, making_good, health, now, Path(data_dir)
        )
        try:
            async with app:
                while not (ending.is_set() or app.crashed):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            await ending.wait()
                if app.crashed:
                    raise Unavailable("the streams ended") from app.crash_reason
        except KafkaError as error:
            raise Unavailable(f"Kafka: {error!r}") from error

    try:
        with passing_folder() as data_dir:
            async with _stock_source(settings) as source:
                await _attended(
                    run_app(source, data_dir), ending.set, health, settings.streams_port, settings, stop
                )
    finally:
        for provider in providers.values():
            await provider.close()
        pool.terminate()


def passing_folder() -> tempfile.TemporaryDirectory[str]:
    """In the home of the local stack, where there is one."""
    home = os.environ.get(f"{PREFIX}HOME", "")
    return tempfile.TemporaryDirectory(prefix="streams-", dir=home if home and Path(home).is_dir() else None)


async def _attended(
    work: Any,
    stop_work: Callable[[], None],
    health: Health,
    port: int,
    settings: Settings,
    stop: asyncio.Event,
) -> None:
    """Run `work` beside /livez and /readyz and under the watchdog; whichever ends first ends the process."""
    watchdog_off = threading.Event()
    start_watchdog(health, settings, watchdog_off)

    async def ready() -> tuple[bool, dict[str, object]]:
        return health.report()

    async def stop_both() -> None:
        await stop.wait()
        # A worker waits for a Postgres that stands still, streams for Kafka too: with its loop, and without end.
        with ended_within(settings.shutdown_grace_s, 0):
            stop_work()
            await asyncio.Event().wait()  # until all has ended

    served_until = asyncio.Event()
    pages = Pages(health_pages(ready))
    serving = asyncio.create_task(serve(pages, Interface.RSGI, port, settings, served_until))
    serving.add_done_callback(lambda _: None if served_until.is_set() else stop_work())
    stopping = asyncio.create_task(stop_both())
    try:
        await work
    finally:
        watchdog_off.set()
        served_until.set()
        stopping.cancel()
        await serving


def now() -> datetime:
    """UTC, in whole milliseconds: what order ids and Kafka keep."""
    return from_ms(now_ms())


def now_ms() -> int:
    return time.time_ns() // 1_000_000
