"""Publishing checkouts: requests that arrive together share a produce batch per partition."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from contracts.errors import IdempotencyConflict, NotAcknowledged, Overloaded, SluicewayError, SoldOut
from contracts.kafka import Record, producer_options, send
from contracts.settings import Settings
from ingest.gate import PayloadMemory

logger = logging.getLogger(__name__)

_EXPIRY_EVERY_S = 0.1
_NOWHERE = (-1, -1)

Position = tuple[int, int]  # (partition, offset)

ProducerFactory = Callable[[], Awaitable[Any]]


async def start_producer(settings: Settings) -> AIOKafkaProducer:
    """A started producer with acks=all and idempotence. Raises KafkaError if no broker answers."""
    producer = AIOKafkaProducer(client_id="sluiceway-ingest", **producer_options(settings))
    try:
        await producer.start()
    except BaseException:
        await producer.stop()
        raise
    return producer


class Submission:
    """The records of one checkout on their way.

    `acknowledged` is the (partition, offset) of each, in order, once all are in the log.
    """

    __slots__ = ("acknowledged", "expires_at", "left", "only_if_known", "payload", "positions")

    def __init__(
        self,
        records: int,
        payload: tuple[str, str] | None,
        acknowledged: "asyncio.Future[list[Position]]",
        expires_at: float,
        only_if_known: bool,
    ) -> None:
        self.payload = payload  # still to be held against the payload memory
        self.only_if_known = only_if_known
        self.acknowledged = acknowledged
        self.positions = [_NOWHERE] * records
        self.left = records
        self.expires_at = expires_at

    def landed(self, index: int, position: Position) -> None:
        self.positions[index] = position
        self.left -= 1
        if not self.left and not self.acknowledged.done():
            self.acknowledged.set_result(self.positions)

    def fail(self, error: SluicewayError) -> None:
        if not self.acknowledged.done():
            self.acknowledged.set_exception(error)


Waiting = list[tuple[Record, Submission, int]]  # the record is the submission's at that index


class Publisher:
    """Hands checkouts to Kafka and tells their offsets once the brokers have acknowledged them.

    Records wait up to `produce_linger_ms`, or as long as the partition's batch before them is under way. What has
    gathered is held against the payload memory in one round trip, then sent as one batch. A producer to
    that failed is replaced: after a broken sequence it could never send again.
    """

    def __init__(
        self,
        start: ProducerFactory,
        payloads: PayloadMemory,
        topic: str,
        settings: Settings,
        now_ms: Callable[[], int],
    ) -> None:
        self._start = start
        self._payloads = payloads
        self._topic = topic
        self._settings = settings
        self._now_ms = now_ms
        self._waiting: dict[int, Waiting] = {}
        self._waiting_count = 0
        self._busy: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._under_way: deque[Submission] = deque()  # in the order in which they expire
        self._expiry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._producer: Any = None
        self._starting = asyncio.Lock()
        self.problem = "no producer yet"  # why the last batch failed; empty when it did not

    def submit(
        self,
        records: Sequence[tuple[int, Record]],
        payload: tuple[str, str] | None,
        *,
        only_if_known: bool = False,
    ) -> "asyncio.Future[list[Position]]":
        """Queue a checkout's (partition, record)s; the future is their positions in the log.

        `payload` is (checkout_id, hash) to be held against the payload memory, None if the key is new. With
        `only_if_known` the checkout is taken in only if that memory has its checkout id already.

        Raises Overloaded when `produce_queue_max` records wait. The future raises IdempotencyConflict if another
        payload came before, SoldOut if it was to be known and is not, NotAcknowledged if the producer failed or
        nothing came within `produce_ack_deadline_s`: the outcome is then unknown.
        """
        if self._waiting_count >= self._settings.produce_queue_max:
            raise Overloaded(f"{self._waiting_count} checkouts wait for Kafka")
        loop = asyncio.get_running_loop()
        expires_at = loop.time() + self._settings.produce_ack_deadline_s
        submission = Submission(len(records), payload, loop.create_future(), expires_at, only_if_known)
        self._under_way.append(submission)
        self._waiting_count += len(records)
        if len(records) == 1:
            self._queue(submission, records)
        else:  # held against the memory before any of its lines is sent
            self._run(self._check_and_queue(submission, records))
        if self._expiry is None:
            self._expiry = loop.call_later(_EXPIRY_EVERY_S, self._expire)
        return submission.acknowledged

    async def ensure_producer(self) -> Any:
        """The producer, started if need be. Raises KafkaError if no broker answers."""
        async with self._starting:
            if self._producer is None:
                self._producer = await self._start()
                self.problem = ""
            return self._producer

    async def stop(self) -> None:
        """Send what waits, then stop the producer."""
        self._flush()
        try:
            async with asyncio.timeout(self._settings.produce_ack_deadline_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            logger.warning(
                "%d checkouts were not acknowledged", self._waiting_count, extra={"action": "produce_cut"}
            )
        await self._replace(self._producer)

    def _queue(self, submission: Submission, records: Sequence[tuple[int, Record]]) -> None:
        for index, (partition, record) in enumerate(records):
            self._waiting.setdefault(partition, []).append((record, submission, index))
        if self._timer is None:
            delay_s = self._settings.produce_linger_ms / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._flush)

    async def _check_and_queue(self, submission: Submission, records: Sequence[tuple[int, Record]]) -> None:
        await self._check([submission])
        submission.payload = None
        self._queue(submission, records)

    async def _check(self, submissions: Sequence[Submission]) -> None:
        """Fail those whose key came with another payload before, or was to be known and is not."""
        asked = [
            (submission, submission.payload, submission.only_if_known)
            for submission in submissions
            if submission.payload is not None
        ]
        payloads = [(payload[0], "") if only_ask else payload for _, payload, only_ask in asked]
        known = await self._payloads.remember(payloads)
        for (submission, payload, only_if_known), before in zip(asked, known, strict=True):
            if before is None:
                if only_if_known:
                    submission.fail(SoldOut("nothing of it is left"))
            elif before != payload[1]:
                submission.fail(IdempotencyConflict("use a new Idempotency-Key for another checkout"))

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for partition in [p for p in self._waiting if p not in self._busy]:
            self._send_waiting(partition)

    def _send_waiting(self, partition: int) -> None:
        self._busy.add(partition)
        self._run(self._send(partition, self._waiting.pop(partition)))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _expire(self) -> None:
        """Fail what has waited for too long, and forget what is done."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._under_way:
            oldest = self._under_way[0]
            if not oldest.acknowledged.done():
                if oldest.expires_at > now:
                    break
                oldest.fail(NotAcknowledged("no acknowledgement within the deadline"))
            self._under_way.popleft()
        self._expiry = loop.call_later(_EXPIRY_EVERY_S, self._expire) if self._under_way else None

    async def _send(self, partition: int, batch: Waiting) -> None:
        self._waiting_count -= len(batch)
        producer = None
        try:
            await self._check([submission for _, submission, _ in batch])
            batch = [entry for entry in batch if not entry[1].acknowledged.done()]  # the others are answered
            if not batch:
                return
            async with asyncio.timeout(self._settings.produce_ack_deadline_s):
                producer = await self.ensure_producer()
                await self._append(producer, partition, batch)
            self.problem = ""
        except (KafkaError, NotAcknowledged, OSError) as error:
            self.problem = repr(error)
            logger.warning("a produce batch failed: %r", error, extra={"action": "produce_failed"})
            for _, submission, _ in batch:
                submission.fail(NotAcknowledged(str(error)))
            await self._replace(producer)
        finally:
            self._busy.discard(partition)
            if partition in self._waiting:
                self._send_waiting(partition)

    async def _append(self, producer: Any, partition: int, batch: Waiting) -> None:
        """Send, and tell each submission where its records lie as the acks come."""
        records = [record for record, _, _ in batch]
        position = 0
        for count, ack in await send(producer, self._topic, partition, records, self._now_ms()):
            base = (await ack).offset
            if base < 0:
                raise NotAcknowledged("the broker took the batch twice and does not tell its offset")
            for offset, (_, submission, index) in enumerate(batch[position : position + count], base):
                submission.landed(index, (partition, offset))
            position += count

    async def _replace(self, producer: Any) -> None:
        if producer is None or producer is not self._producer:
            return
        self._producer = None
        try:
            async with asyncio.timeout(1.0):
                await producer.stop()
        except (KafkaError, TimeoutError) as error:
            logger.warning("producer did not stop cleanly: %r", error, extra={"action": "producer_stop"})
