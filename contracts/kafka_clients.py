"""How clients of Kafka begin and end: one producer for all that a process sends, and nothing left of one that failed."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from contracts.errors import NotAcknowledged
from contracts.kafka import producer_options
from contracts.settings import Settings

logger = logging.getLogger(__name__)

_STOP_S = 1.0
_LEAVE_S = 3.0  # for the group's answer: with Kafka away it finds out by itself
_CONNECT_EVERY_S = 1.0


async def start_producer(settings: Settings, client_id: str) -> AIOKafkaProducer:
    """A started producer with `producer_options`. Raises KafkaError if no broker answers."""
    producer = AIOKafkaProducer(client_id=client_id, **producer_options(settings))
    pace(producer.client)
    try:
        await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer


def pace(client: Any) -> None:
    """Have a producer's client wait `retry_backoff_ms` between two questions for metadata. Doing so twice changes nothing.

    By itself it asks as fast as it can for as long as a partition that it sends to has no leader: of brokers that are
    electing one, or that are not there.
    """
    if "_metadata_update" in vars(client):
        return
    ask, asked_at = client._metadata_update, -math.inf  # noqa: SLF001

    async def ask_in_time(cluster: Any, topics: Any) -> Any:
        nonlocal asked_at
        loop = asyncio.get_running_loop()
        await asyncio.sleep(asked_at + client._retry_backoff - loop.time())  # noqa: SLF001
        try:
            return await ask(cluster, topics)
        finally:
            asked_at = loop.time()

    client._metadata_update = ask_in_time  # noqa: SLF001


async def stop_producer(producer: Any) -> None:
    """Stop a producer without waiting for what it could not send: whoever has it sends that again.

    Nothing of it is left, and no ack comes any more: whoever still waits for one does so under a deadline.
    """
    try:
        async with asyncio.timeout(_STOP_S):
            await producer.stop()
    except (KafkaError, TimeoutError) as error:
        logger.warning("producer did not stop cleanly: %r", error, extra={"action": "producer_stop"})
        # An idempotent batch does not expire: it would be sent for ever.
        await _end(producer.client, producer._sender, producer._message_accumulator)  # noqa: SLF001


async def stop_consumer(consumer: Any) -> None:
    """Stop a member of a group, which is not waited for beyond a limit. Nothing of it is left."""
    try:
        async with asyncio.timeout(_LEAVE_S):
            await consumer.stop()
    except (KafkaError, TimeoutError) as error:
        logger.warning("left without the group's answer: %r", error, extra={"action": "consumer_stop"})
        # It would go on to fetch, and connect anew for it.
        await _end(consumer._client, consumer._coordinator, consumer._fetcher)  # noqa: SLF001


async def _end(client: Any, *parts: object) -> None:
    """End what a stop leaves when it is cut short: the tasks of these parts, and the client.

    Connections are aborted: a stalled broker does not take what a close would send first.
    """
    left = {task for task in asyncio.all_tasks() if any(_owner_of(task) is part for part in parts if part)}
    for task in left:
        task.cancel()
    for connection in client._conns.values():  # noqa: SLF001
        if connection._writer is not None:  # noqa: SLF001
            connection._writer.transport.abort()  # noqa: SLF001
    await asyncio.wait({*left, asyncio.create_task(client.close())}, timeout=_STOP_S)


def _owner_of(task: "asyncio.Task[Any]") -> object:
    """Whose method a task runs."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame.f_locals.get("self") if frame is not None else None


class SharedProducer:
    """The one producer of all that a process sends: started by whoever needs it first, one at a time.

    One that failed is dropped, and the next is another one: after a broken sequence it could never send again.
    """

    def __init__(self, start: Callable[[], Awaitable[Any]]) -> None:
        self._start = start
        self._producer: Any = None
        self._starting = asyncio.Lock()
        self._stopped = False

    async def ready(self) -> Any:
        """Raises KafkaError if no broker answers, NotAcknowledged after `stop`."""
        async with self._starting:
            if self._producer is None and not self._stopped:
                self._producer = await self._start()
            if self._stopped:
                await self.drop(self._producer)
                raise NotAcknowledged("the producer is stopped")
            return self._producer

    async def drop(self, producer: Any) -> None:
        """Stop it, see `stop_producer`; nothing is done if it was dropped before, or is None."""
        if producer is None or producer is not self._producer:
            return
        self._producer = None
        await stop_producer(producer)

    async def stop(self) -> None:
        """For good: whoever still sends, or waits for its start, starts none that nobody would stop."""
        self._stopped = True
        await self.drop(self._producer)


async def keep_connected(problem: Callable[[], str], connect: Callable[[], Awaitable[None]]) -> None:
    """Connect while there is a problem, every second: a process that is not ready may be given nothing to send that would
    show that Kafka is back. `connect` raises KafkaError or OSError if it is not.
    """
    while True:
        if problem():
            try:
                await connect()
            except (KafkaError, OSError) as error:
                logger.warning("waiting for Kafka: %r", error, extra={"action": "waiting"})
        await asyncio.sleep(_CONNECT_EVERY_S)
