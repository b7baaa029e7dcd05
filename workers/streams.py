"""The Faust application: work beside the hot path. Live sale figures from the events topic, timers, refunds."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import faust

from contracts.errors import Unavailable
from contracts.settings import Settings
from contracts.topics import Topics
from stock_ledger.commands.due import DueStore
from stock_ledger.figures import FigureStore
from workers.health import Health
from workers.making_good import MakingGood
from workers.refunds import Refunding
from workers.timers import Timers

logger = logging.getLogger(__name__)

Events = Mapping[int, Sequence[tuple[int, bytes]]]  # (offset, value) by partition

_TAKE_WITHIN_S = 0.5
_RETRY_S = 0.5
_PATIENCE_S = (
    300.0  # a consumer that fetches nothing for 1000 s is put out, and Faust does not come back from that
)


def build(
    settings: Settings,
    figures: FigureStore,
    due: DueStore,
    refunding: Refunding,
    making_good: MakingGood,
    health: Health,
    clock: Callable[[], datetime],
    data_dir: Path,
) -> faust.App:
    """The application, not started.

    One event at a time per partition and acknowledged only after its effect: `concurrency` 1 and `noack_take`,
    because Faust otherwise commits past events in flight. While Postgres is away everything waits for it, the figures for
    minutes. Else the app ends when they fail; started again, it resumes from the committed offset, and folding an event
    twice is harmless. Health tells that its loop goes round. Nothing is kept in `data_dir`, which Faust wants to have.
    """
    app = faust.App(
        id=f"{settings.topic_prefix}-streams",
        datadir=str(data_dir),
        broker=[f"kafka://{server}" for server in settings.kafka_url.split(",")],
        web_enabled=False,  # it would listen on every interface
        topic_disable_leader=True,
        topic_allow_declare=False,  # topics are made by `sluiceway topics`, which asserts their partition counts
        autodiscover=False,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=settings.fetch_bytes_max,  # of each partition
        stream_buffer_maxsize=settings.batch_rows_max,
        broker_commit_interval=1.0,
        stream_wait_empty=False,
        stream_ack_exceptions=False,
        stream_ack_cancelled_tasks=False,
    )
    raw: dict[str, Any] = {
        "key_type": bytes,
        "value_type": bytes,
        "key_serializer": "raw",
        "value_serializer": "raw",
    }
    events = app.topic(Topics(settings).events, **raw)
    commands = app.topic(Topics(settings).commands, **raw)
    timers = Timers(due, settings, clock)

    @app.agent(events, concurrency=1)
    async def sale_figures(stream: Any) -> None:
        async for taken in stream.noack_take(settings.batch_rows_max, within=_TAKE_WITHIN_S):
            by_partition: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
            for event in taken:
                by_partition[event.message.partition].append((event.message.offset, event.value))
            try:
                await keep(figures.add, by_partition, _RETRY_S, _PATIENCE_S)
            except Exception as error:
                logger.exception("figures could not be kept", extra={"action": "figures"})
                await app.crash(error)
                raise
            for event in taken:
                await stream.ack(event)
            health.decided(len(taken))

    async def send(key: bytes, value: bytes, partition: int) -> Awaitable[Any]:
        return await commands.send(key=key, value=value, partition=partition)

    _every(app, settings.timer_interval_s, lambda: timers.ask(send))
    _every(app, settings.timer_interval_s, lambda: refunding.ask(send))
    _every(app, settings.stock_source_retry_s, making_good.round)

    @app.timer(interval=1.0)  # type: ignore[untyped-decorator]
    async def beat() -> None:
        health.progressed(len(app.consumer.assignment()) if app.consumer is not None else 0)

    return app


async def keep(
    add: Callable[[Events], Awaitable[None]], events: Events, retry_s: float, patience_s: float
) -> None:
    """Have `FigureStore.add` fold them, again every `retry_s` while Postgres is away.

    Raises Unavailable when that takes longer than `patience_s`, and whatever else `add` does.
    """
    patient_until = time.monotonic() + patience_s
    while True:
        try:
            await add(events)
        except Unavailable as error:
            if time.monotonic() >= patient_until:
                raise
            logger.warning("figures wait: %s", error, extra={"action": "figures"})
            await asyncio.sleep(retry_s)
        else:
            return


def _every(app: faust.App, interval_s: float, chore: Callable[[], Awaitable[None]]) -> None:
    @app.timer(interval=interval_s)  # type: ignore[untyped-decorator]
    async def by_time() -> None:
        await chore()
