"""Commands into the log: acknowledged by every in-sync replica before anyone is told."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiokafka.errors import KafkaError

from contracts.commands import Command, encode_command
from contracts.errors import NotAcknowledged
from contracts.kafka_clients import SharedProducer, keep_connected
from contracts.settings import Settings
from contracts.topics import Topics

logger = logging.getLogger(__name__)

Start = Callable[[], Awaitable[Any]]  # a producer that is started


class CommandPublisher(Protocol):
    """Where commands go. `problem` is why the last one was not acknowledged; empty when it was, none came yet, or the
    log answers again.
    """

    @property
    def problem(self) -> str: ...

    async def publish(self, command: Command) -> tuple[int, int]:
        """(partition, offset) once it is acknowledged. Raises NotAcknowledged if that is not known in time."""
        ...


class KafkaCommands:
    """See `CommandPublisher`. A producer that failed is replaced: its sequence may be stuck."""

    def __init__(self, start: Start, settings: Settings) -> None:
        self._producer = SharedProducer(start)
        self._settings = settings
        self._topic = Topics(settings).commands
        self._problem = ""

    @property
    def problem(self) -> str:
        return self._problem

    async def publish(self, command: Command) -> tuple[int, int]:
        place = command.partition(self._settings.partitions)
        producer = None
        try:
            async with asyncio.timeout(self._settings.produce_ack_deadline_s):
                producer = await self._producer.ready()
                sent = await producer.send_and_wait(
                    self._topic, encode_command(command), command.subject().encode(), place
                )
        except (KafkaError, OSError, TimeoutError) as error:
            self._problem = repr(error)
            logger.warning("a command was not acknowledged: %r", error, extra={"action": "produce_failed"})
            await self._producer.drop(producer)
            raise NotAcknowledged(f"{self._topic}: {error!r}") from error
        if sent.offset < 0:
            raise NotAcknowledged("the broker took the command twice and does not tell its offset")
        self._problem = ""
        return place, sent.offset

    async def run(self) -> None:
        """After a command failed, connect before the next: it may be long until one shows that Kafka is back."""
        await keep_connected(lambda: self._problem, self._connect)

    async def stop(self) -> None:
        await self._producer.stop()

    async def _connect(self) -> None:
        # Longer than the client's own deadline, whose error says more.
        async with asyncio.timeout(2 * self._settings.produce_ack_deadline_s):
            await self._producer.ready()
        self._problem = ""


class MemoryCommands:
    """See `CommandPublisher`: keeps what it is given, for tests. `available` False makes it raise."""

    def __init__(self, partitions: int) -> None:
        self.published: list[Command] = []
        self.available = True
        self.problem = ""
        self._partitions = partitions
        self._ends = [0] * partitions

    async def publish(self, command: Command) -> tuple[int, int]:
        if not self.available:
            self.problem = "the log in memory is switched off"
            raise NotAcknowledged(self.problem)
        self.problem = ""
        self.published.append(command)
        partition = command.partition(self._partitions)
        self._ends[partition] += 1
        return partition, self._ends[partition] - 1
