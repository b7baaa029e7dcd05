"""Calls from nodes to servers: they take time, get lost on the way there or back, and fail while a server is away."""

import math
from collections.abc import Callable
from functools import lru_cache, partial
from inspect import iscoroutinefunction
from random import Random
from typing import Any, NoReturn

from contracts.errors import SluicewayError, Unavailable
from deploy.simulation.loop import Loop
from deploy.simulation.node import Dead, Node, current_node

After = Callable[[str, tuple[Any, ...]], None]  # what was called, with what: told after its effect
Watch = Callable[[Node, str], bool]  # who calls what: whether it is caught


class Server:
    """Kafka, Postgres or the cache, as its clients have it: up or down, fast or slow, losing replies or not."""

    def __init__(self, name: str, loop: Loop, random: Random) -> None:
        self.name = name
        self.up = True
        self.slow = 1.0  # what its answers take, as a multiple of the usual
        self.losing = 0.0  # share of the replies that get lost after the effect
        self.failed_at = -math.inf  # when somebody was let down last
        self.generation = 0  # of its connections
        self.watches: list[Watch] = []  # asked of each call that sets out
        self.loop = loop
        self._random = random

    async def delay(self) -> None:
        """The way there or back. Most often no time that counts; sometimes others get far meanwhile."""
        if seconds := self.draw_delay_s():
            await self.loop.after(seconds)

    def draw_delay_s(self) -> float:
        draw = self._random.random()
        return self.slow * 0.008 * draw if draw < 0.12 or self.slow > 1 else 0.0

    async def set_out(self, node: Node, name: str) -> None:
        """The way there. Who watches for such a call catches it here, and may pause its node."""
        for watch in self.watches:
            if watch(node, name):
                self.watches.remove(watch)
                await self.loop.after(0.0)
                break
        await self.delay()

    def now(self) -> float:
        return self.loop.time()

    def break_connections(self) -> None:
        """As a restart or a failover does: whoever had a connection notices at the next call."""
        self.generation += 1

    def answer(self, node: Node, error: type[SluicewayError]) -> None:
        """Raise the caller's error if the server is away; end what is called from a node that was killed."""
        if not node.alive:
            raise Dead
        known, node.connections[self.name] = node.connections.get(self.name), self.generation
        if not self.up:
            self._fail(error, f"{self.name} is away")
        if known not in (None, self.generation):
            self._fail(error, f"the connection to {self.name} was closed")

    def maybe_lose(self, error: type[SluicewayError]) -> None:
        """Raise the caller's error now and then, though the effect took place."""
        if self.losing and self._random.random() < self.losing:
            self._fail(error, f"{self.name}'s reply was lost")

    def _fail(self, error: type[SluicewayError], what: str) -> NoReturn:
        self.failed_at = self.loop.time()
        raise error(what)


def alive() -> None:
    if not current_node().alive:
        raise Dead


class Remote:
    """The methods of a fake, called over the network. Each takes effect at one moment."""

    def __init__(self, server: Server, fake: Any, after: After) -> None:
        self.server = server
        self._fake = fake
        self._after = after
        for name in _methods(fake.__class__):
            if not hasattr(self, name):
                setattr(self, name, partial(self.call, name))

    async def call(self, name: str, *arguments: Any, error: type[SluicewayError] = Unavailable) -> Any:
        """Call a method. Raises `error` where the server does not answer."""
        node = current_node()
        if not node.alive:
            raise Dead
        server = self.server
        if server.watches:
            await server.set_out(node, name)
        elif seconds := server.draw_delay_s():
            await node.loop.after(seconds)
        server.answer(node, error)
        answer = await getattr(self._fake, name)(*arguments)
        self._after(name, arguments)
        if server.losing:
            server.maybe_lose(error)
        if seconds := server.draw_delay_s():
            await node.loop.after(seconds)
        return answer

    # The two halves of a call, for calls that take longer.

    async def reach(self, name: str, error: type[SluicewayError]) -> Node:
        """The way there, from the node that runs. Ends what is called from a node that was killed."""
        node = current_node()
        if not node.alive:
            raise Dead
        await self.server.set_out(node, name)
        self.server.answer(node, error)
        return node

    async def done(self, name: str, arguments: tuple[Any, ...], error: type[SluicewayError]) -> None:
        """It took effect; the way back."""
        self._after(name, arguments)
        self.server.maybe_lose(error)
        if seconds := self.server.draw_delay_s():
            await self.server.loop.after(seconds)


@lru_cache
def _methods(kind: type) -> list[str]:
    """The coroutine functions of a class that others may call."""
    return [name for name in dir(kind) if name[0] != "_" and iscoroutinefunction(getattr(kind, name))]
