"""Publishing checkouts: requests that arrive together share a produce batch per partition."""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from aiokafka.errors import KafkaError

from contracts.errors import (
    IdempotencyConflict,
    NotAcknowledged,
    Overloaded,
    SettingsError,
    SluicewayError,
    SoldOut,
)
from contracts.kafka import Record, send
from contracts.kafka_clients import SharedProducer, keep_connected
from contracts.settings import Settings
from ingest.backpressure import Backpressure
from ingest.gate import PayloadMemory

logger = logging.getLogger(__name__)

_EXPIRY_EVERY_S = 0.1
_NOWHERE = (-1, -1)

Position = tuple[int, int]  # (partition, offset)

ProducerFactory = Callable[[], Awaitable[Any]]


class Submission:
    """The records of one checkout on their way.

    `acknowledged` is the (partition, offset) of each, in order, once all are in the log.
    """

    __slots__ = ("acknowledged", "left", "payload", "positions", "records", "sizes", "sold_out")

    def __init__(
        self,
        records: Sequence[tuple[int, Record]],
        payload: tuple[str, str] | None,
        sold_out: Sequence[str],
        acknowledged: "asyncio.Future[list[Position]]",
    ) -> None:
        self.records = records
        self.sizes = [len(key or b"") + len(value or b"") for _, (key, value, _) in records]  # bytes
        self.payload = payload
        self.sold_out = sold_out
        self.acknowledged = acknowledged
        self.left = len(records)
        self.positions = [_NOWHERE] * self.left

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

    Checkouts gather for `produce_linger_ms`, or as long as those before them are held against the payload memory:
    that takes one round trip for all. Then each partition's records are sent as one batch, as soon as the batch
    before is acknowledged. A producer that failed is replaced: after a broken sequence it could never send again.
    """

    def __init__(
        self,
        start: ProducerFactory,
        payloads: PayloadMemory,
        topic: str,
        settings: Settings,
        now_ms: Callable[[], int],
        backpressure: Backpressure,
    ) -> None:
        self._producer = SharedProducer(start)
        self._payloads = payloads
        self._topic = topic
        self._settings = settings
        self._now_ms = now_ms
        self._backpressure = backpressure
        self._gathered: list[Submission] = []  # not yet held against the payload memory
        self._linger: asyncio.TimerHandle | None = None  # until the next round
        self._in_round = False
        self._waiting: dict[int, Waiting] = defaultdict(list)  # for their partition's turn
        self._queued = 0  # records of both and of the batches under way, and their bytes
        self._queued_bytes = 0
        self._busy: set[int] = set()  # partitions with a batch under way
        self._under_way: deque[tuple[float, list[Submission]]] = deque()  # by when they expire
        self._expiry: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.problem = "no producer yet"  # why the last batch failed; empty when it did not

    def check(self) -> None:
        """Raise Overloaded while `produce_queue_max` records or `produce_queue_bytes_max` bytes are on their way."""
        if (
            self._queued >= self._settings.produce_queue_max
            or self._queued_bytes >= self._settings.produce_queue_bytes_max
        ):
            raise Overloaded(f"{self._queued} checkouts wait for Kafka")

    def submit(
        self,
        records: Sequence[tuple[int, Record]],
        payload: tuple[str, str] | None,
        *,
        sold_out: Sequence[str] = (),
    ) -> "asyncio.Future[list[Position]]":
        """Queue a checkout's (partition, record)s; the future is their positions in the log.

        `payload` is (checkout_id, hash) to be held against the payload memory, None if the key is new. With
        `sold_out`, product ids for which it has no hope, it is taken in only if that memory has its checkout id already.

        Raises Overloaded as `check` does. The future raises IdempotencyConflict if another
        payload came before, SoldOut if it has no hope and is not known, NotAcknowledged if the producer failed or
        nothing came within `produce_ack_deadline_s`: the outcome is then unknown.
        """
        self.check()
        acknowledged = asyncio.get_running_loop().create_future()
        if not self._gathered:
            self._begin_gathering()
        submission = Submission(records, payload, sold_out, acknowledged)
        self._gathered.append(submission)
        self._queued += len(records)
        self._queued_bytes += sum(submission.sizes)
        return acknowledged

    async def run(self) -> None:
        """Connect before the first request, and after a batch failed before the next. Raises SettingsError as `connect`."""
        await keep_connected(lambda: self.problem, self.connect)

    async def connect(self) -> None:
        """Raises KafkaError or TimeoutError if Kafka does not tell the topic's partitions in time, SettingsError if it has
        another count of them.

        A producer that does not tell them is replaced: one that was dropped meanwhile never would.
        """
        producer = None
        try:
            # Longer than the client's own deadline, whose error says more.
            async with asyncio.timeout(2 * self._settings.produce_ack_deadline_s):
                producer = await self._producer.ready()
                count = len(await producer.partitions_for(self._topic))
        except (KafkaError, TimeoutError):
            await self._producer.drop(producer)
            raise
        if count != self._settings.partitions:
            raise SettingsError(
                f"SLUICEWAY_PARTITIONS is {self._settings.partitions}, the topic {self._topic} has {count}"
            )
        self.problem = ""

    async def stop(self) -> None:
        """Send what waits, then stop the producer."""
        try:
            async with asyncio.timeout(self._settings.produce_ack_deadline_s):
                while self._linger is not None or self._tasks:
                    if self._linger is not None:
                        self._linger.cancel()
                        self._start_round()
                    await asyncio.wait(self._tasks)
        except TimeoutError:
            logger.warning(
                "%d checkouts were not acknowledged", self._queued, extra={"action": "produce_cut"}
            )
        await self._producer.stop()

    def _begin_gathering(self) -> None:
        """What gathers from now on expires together. It waits for the linger, and for the round under way."""
        loop = asyncio.get_running_loop()
        self._under_way.append((loop.time() + self._settings.produce_ack_deadline_s, self._gathered))
        if self._expiry is None:
            self._expiry = loop.call_later(_EXPIRY_EVERY_S, self._expire)
        if not self._in_round:
            self._start_linger()

    def _start_linger(self) -> None:
        delay_s = self._settings.produce_linger_ms / 1000
        self._linger = asyncio.get_running_loop().call_later(delay_s, self._start_round)

    def _start_round(self) -> None:
        self._linger = None
        self._in_round = True
        self._run(self._round())

    async def _round(self) -> None:
        """Hold what has gathered against the payload memory, and hand it to its partitions."""
        submissions, self._gathered = self._gathered, []
        try:
            await self._check(submissions)
        finally:
            self._in_round = False
            if self._gathered:
                self._start_linger()
        for submission in submissions:
            if submission.acknowledged.done():  # refused, or it waited for too long
                self._leave(submission.sizes)
                continue
            for index, (partition, record) in enumerate(submission.records):
                self._waiting[partition].append((record, submission, index))
        for partition in self._waiting.keys() - self._busy:
            self._send_waiting(partition)

    async def _check(self, submissions: Sequence[Submission]) -> None:
        """Fail those whose key came with another payload before, or that have no hope and are not known."""
        asked = [(s, s.payload) for s in submissions if s.payload is not None]
        known = await self._payloads.remember(
            [(payload[0], "") if s.sold_out else payload for s, payload in asked]
        )
        for place, (submission, payload) in enumerate(asked):
            if place not in known:
                if submission.sold_out:
                    submission.fail(SoldOut(submission.sold_out))
            elif known[place] != payload[1]:
                submission.fail(IdempotencyConflict("use a new Idempotency-Key for another checkout"))

    def _leave(self, sizes: Sequence[int]) -> None:
        """Records of these sizes are not queued any more."""
        self._queued -= len(sizes)
        self._queued_bytes -= sum(sizes)

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
        for expires_at, submissions in self._under_way:
            if expires_at > now:
                break
            for submission in submissions:
                submission.fail(NotAcknowledged("no acknowledgement within the deadline"))
        self._under_way = deque(
            entry
            for entry in self._under_way
            if entry[1] is self._gathered or not all(s.acknowledged.done() for s in entry[1])
        )
        self._expiry = loop.call_later(_EXPIRY_EVERY_S, self._expire) if self._under_way else None

    async def _send(self, partition: int, batch: Waiting) -> None:
        producer = None
        queued = batch
        try:
            batch = [entry for entry in batch if not entry[1].acknowledged.done()]  # the others are answered
            if not batch:
                return
            async with asyncio.timeout(self._settings.produce_ack_deadline_s):
                producer = await self._producer.ready()
                await self._append(producer, partition, batch)
            self.problem = ""
        except (KafkaError, NotAcknowledged, OSError) as error:
            self.problem = repr(error)
            logger.warning("a produce batch failed: %r", error, extra={"action": "produce_failed"})
            for _, submission, _ in batch:
                submission.fail(NotAcknowledged(str(error)))
            await self._producer.drop(producer)
        finally:
            self._leave([submission.sizes[index] for _, submission, index in queued])
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
            self._backpressure.acknowledged(partition, base, count)
