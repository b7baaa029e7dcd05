"""Calls from nodes to servers: they take time, get lost on the way there or back, and fail while a server is away."""

import math
from asyncio import get_running_loop, sleep
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NoReturn

from contracts.errors import NotAcknowledged, SluicewayError, Unavailable
from contracts.kafka import Record
from deploy.simulation.loop import Dead, current_node

After = Callable[[str, tuple[Any, ...]], None]  # what was called, with what: told after its effect


class Server:
    """Kafka, Postgres or the cache, as its clients have it: up or down, fast or slow, losing replies or not."""

    def __init__(self, name: str, random: Random, error: type[SluicewayError] = Unavailable) -> None:
        self.name = name
        self.up = True
        self.slow = 1.0  # what its answers take, as a multiple of the usual
        self.losing = 0.0  # share of the replies that get lost after the effect
        self.failed_at = -math.inf  # when somebody was let down last
        self._generation = 0  # of its connections
        self._random = random
        self._error = error

    async def delay(self) -> None:
        """The way there or back. Most often no time that counts; sometimes others get far meanwhile."""
        draw = self._random.random()
        if draw < 0.12 or self.slow > 1:
            await sleep(self.slow * 0.008 * draw)

    def break_connections(self) -> None:
        """As a restart or a failover does: whoever had a connection notices at the next call."""
        self._generation += 1

    def answer(self, *, error: type[SluicewayError] | None = None) -> None:
        """Raise the caller's error if the server is away; end what is called from a node that was killed."""
        alive()
        connections = current_node().connections
        known, connections[self.name] = connections.get(self.name), self._generation
        if not self.up:
            self._fail(error, f"{self.name} is away")
        if known not in (None, self._generation):
            self._fail(error, f"the connection to {self.name} was closed")

    def maybe_lose(self, *, error: type[SluicewayError] | None = None) -> None:
        """Raise the caller's error now and then, though the effect took place."""
        if self.losing and self._random.random() < self.losing:
            self._fail(error, f"{self.name}'s reply was lost")

    def _fail(self, error: type[SluicewayError] | None, what: str) -> NoReturn:
        self.failed_at = get_running_loop().time()
        raise (error or self._error)(what)


def alive() -> None:
    if not current_node().alive:
        raise Dead


class Remote:
    """The methods of a fake, called over the network. Each takes effect at one moment, as a transaction does."""

    def __init__(self, server: Server, fake: Any, after: After) -> None:
        self._server = server
        self._fake = fake
        self._after = after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fake, name)

        async def call(*arguments: Any) -> Any:
            alive()
            await self._server.delay()
            self._server.answer()
            answer = await method(*arguments)
            self._after(name, arguments)
            self._server.maybe_lose()
            await self._server.delay()
            return answer

        self.__dict__[name] = call
        return call


class Publishing:
    """`publish` and `set_aside` of a log: each partition's records for themselves, so that some may get through."""

    def __init__(self, server: Server, log: Any, after: After) -> None:
        self._server = server
        self._log = log
        self._after = after

    async def send(self, name: str, records: Mapping[int, Sequence[Record]], timestamp_ms: int) -> None:
        method = getattr(self._log, name)
        for partition, of_partition in records.items():
            alive()
            await self._server.delay()
            self._server.answer(error=NotAcknowledged)
            part = {partition: of_partition}
            await method(part, timestamp_ms)
            self._after(name, (part, timestamp_ms))
            self._server.maybe_lose(error=NotAcknowledged)
