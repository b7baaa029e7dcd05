"""Calls from nodes to servers: they take time, get lost on the way there or back, and fail while a server is away."""

import math
from asyncio import get_running_loop, sleep
from collections.abc import Callable
from random import Random
from typing import Any, NoReturn

from contracts.errors import SluicewayError, Unavailable
from deploy.simulation.loop import Dead, current_node

After = Callable[[str, tuple[Any, ...]], None]  # what was called, with what: told after its effect


class Server:
    """Kafka, Postgres or the cache, as its clients have it: up or down, fast or slow, losing replies or not."""

    def __init__(self, name: str, random: Random) -> None:
        self.name = name
        self.up = True
        self.slow = 1.0  # what its answers take, as a multiple of the usual
        self.losing = 0.0  # share of the replies that get lost after the effect
        self.failed_at = -math.inf  # when somebody was let down last
        self._generation = 0  # of its connections
        self._random = random

    async def delay(self) -> None:
        """The way there or back. Most often no time that counts; sometimes others get far meanwhile."""
        draw = self._random.random()
        if draw < 0.12 or self.slow > 1:
            await sleep(self.slow * 0.008 * draw)

    def break_connections(self) -> None:
        """As a restart or a failover does: whoever had a connection notices at the next call."""
        self._generation += 1

    def answer(self, error: type[SluicewayError]) -> None:
        """Raise the caller's error if the server is away; end what is called from a node that was killed."""
        alive()
        connections = current_node().connections
        known, connections[self.name] = connections.get(self.name), self._generation
        if not self.up:
            self._fail(error, f"{self.name} is away")
        if known not in (None, self._generation):
            self._fail(error, f"the connection to {self.name} was closed")

    def maybe_lose(self, error: type[SluicewayError]) -> None:
        """Raise the caller's error now and then, though the effect took place."""
        if self.losing and self._random.random() < self.losing:
            self._fail(error, f"{self.name}'s reply was lost")

    def _fail(self, error: type[SluicewayError], what: str) -> NoReturn:
        self.failed_at = get_running_loop().time()
        raise error(what)


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
        async def call(*arguments: Any) -> Any:
            answer = await self.send(name, *arguments)
            await self._server.delay()
            return answer

        self.__dict__[name] = call
        return call

    async def send(self, name: str, *arguments: Any, error: type[SluicewayError] = Unavailable) -> Any:
        """Call a method; without the way back. Raises `error` where the server does not answer."""
        alive()
        await self._server.delay()
        self._server.answer(error)
        answer = await getattr(self._fake, name)(*arguments)
        self._after(name, arguments)
        self._server.maybe_lose(error)
        return answer
