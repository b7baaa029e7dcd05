"""The Faust application: work beside the hot path. Live sale figures from the events topic, timers, refunds."""

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import faust
from faust.exceptions import ProducerSendError

from contracts.errors import NotAcknowledged, Unavailable
from contracts.kafka_clients import pace
from contracts.settings import Settings
from contracts.topics import Topics
from stock_ledger.commands.due import DueReads
from stock_ledger.figures import FigureStore
from workers.asking import Send
from workers.health import Health
from workers.making_good import MakingGood
from workers.refunds import Refunding
from workers.timers import Timers

logger = logging.getLogger(__name__)

Events = Mapping[int, Sequence[tuple[int, bytes]]]  # (offset, value) by partition

_TAKE_WITHIN_S = 0.5
_RETRY_S = 0.5
_METADATA_MAX_AGE_MS = 30_000  # until a topic that is made anew is found
_SESSION_MAX_S = 60.0  # below the time that Faust gives a broker to answer
_PATIENCE_S = (
    300.0  # a consumer that fetches nothing for 1000 s is put out, and Faust does not come back from that
)


def build(
    settings: Settings,
    figures: FigureStore,
    due: DueReads,
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
    twice is harmless. Health tells that its loop goes round, as long as the rounds of timers and refunds end. Nothing is
    kept in `data_dir`, which Faust wants to have.
    """
    app = _application(settings, data_dir)
    raw: dict[str, Any] = {
        "key_type": bytes,
        "value_type": bytes,
        "key_serializer": "raw",
        "value_serializer": "raw",
    }
    events = app.topic(Topics(settings).events, **raw)
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

    send = sender_of(app, Topics(settings).commands)
    late_s = settings.postgres_timeout_s + settings.produce_ack_deadline_s
    # The answers of providers, then a note of each, one by one.
    refunds_s = settings.refund_deadline_s + settings.stall_exit_s
    _every(app, settings.timer_interval_s, lambda: timers.ask(send), health, late_s)
    _every(app, settings.timer_interval_s, lambda: refunding.ask(send), health, refunds_s)
    # One call after the other: how long that takes is the source's to say.
    _every(app, settings.stock_source_retry_s, making_good.round, health, math.inf)

    @app.timer(interval=1.0)  # type: ignore[untyped-decorator]
    async def beat() -> None:
        if health.is_held_up():
            return
        health.progressed(len(app.consumer.assignment()) if app.consumer is not None else 0)

    return app


def _application(settings: Settings, data_dir: Path) -> faust.App:
    """With nothing in it yet."""
    session_s = min(settings.session_timeout_ms / 1000, _SESSION_MAX_S)
    return faust.App(
        id=f"{settings.topic_prefix}-streams",
        datadir=str(data_dir),
        broker=[f"kafka://{server}" for server in settings.kafka_url.split(",")],
        web_enabled=False,  # it would listen on every interface
        topic_disable_leader=True,
        topic_allow_declare=False,  # topics are made by `sluiceway topics`, which asserts their partition counts
        autodiscover=False,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=_METADATA_MAX_AGE_MS,
        consumer_max_fetch_size=settings.fetch_bytes_max,  # of each partition
        stream_buffer_maxsize=settings.batch_rows_max,
        broker_commit_interval=1.0,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 12,
        producer_request_timeout=settings.produce_ack_deadline_s,  # for so long it tries to send a batch
        producer_max_batch_size=settings.produce_batch_bytes,
        stream_wait_empty=False,
        stream_ack_exceptions=False,
        stream_ack_cancelled_tasks=False,
    )


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


def sender_of(app: faust.App, topic: str) -> Send:
    """How to send to a topic by the application's producer: past Faust's own topics, which log each message that fails."""

    async def send(key: bytes, value: bytes, partition: int) -> Awaitable[Any]:
        producer = await app.maybe_start_producer()
        pace(producer._producer.client)  # noqa: SLF001
        try:
            ack: asyncio.Future[Any] = await producer.send(topic, key, value, partition, None, None)
        except ProducerSendError as error:
            raise NotAcknowledged(f"{topic}: {error!r}") from error
        ack.add_done_callback(_heard)
        return ack

    return send


def _heard(ack: "asyncio.Future[Any]") -> None:
    """Its error may find nobody waiting for it any more: that its partition takes nothing is known by then."""
    if not ack.cancelled():
        ack.exception()


def _every(
    app: faust.App, interval_s: float, chore: Callable[[], Awaitable[None]], health: Health, within_s: float
) -> None:
    @app.timer(interval=interval_s)  # type: ignore[untyped-decorator]
    async def by_time() -> None:
        with health.round(within_s):
            await chore()
