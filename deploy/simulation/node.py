"""Nodes: what would be processes. A seeded scheduler (see `loop`) lets them run, pauses and kills them."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from deploy.simulation.loop import Loop

PATIENCE_S = 1.0  # who calls a node waits so long for its answer
NODE: "contextvars.ContextVar[Node]" = contextvars.ContextVar("node")

_TASKS_KEPT = 256  # of a node before those that are done are forgotten


class Dead(BaseException):
    """Raised in what a killed node had under way, as its coroutines are closed: nothing in it may have an effect."""


class ConnectionCut(Exception):
    """The node that was called was killed; what it did of the call is unknown."""


class Handle(msgspec.Struct):
    """A callback to come: as much of `asyncio.TimerHandle` as is used."""

    callback: Any
    arguments: Any
    context: contextvars.Context

    def cancel(self) -> None:
        self.callback = self.arguments = None

    def cancelled(self) -> bool:
        return self.callback is None

    done = cancelled  # as a future that nobody waits for any more


class Node:
    """What would be a process: its callbacks, its tasks, and the calls from other nodes that wait for its answer.

    Its wall clock may be off; time passes for all alike.
    """

    def __init__(self, loop: "Loop", name: str, clock_off_s: float = 0.0) -> None:
        self.name = name
        self.clock_off_s = clock_off_s
        self.alive = True
        self.runs = True  # it is alive, and not paused
        self.ready: deque[Handle] = deque()
        self.connections: dict[str, int] = {}  # server -> generation, see `network.Server`
        self.context = contextvars.Context()
        self.context.run(NODE.set, self)
        self.loop = loop
        self._tasks: list[tuple[asyncio.Task[Any], Coroutine[Any, Any, Any]]] = []
        self._tasks_kept = _TASKS_KEPT
        self._calls: dict[asyncio.Future[Any], float] = {}  # until when they wait; the earliest first
        self._patience: Handle | None = None

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run `work` as a task of this node."""
        return self.loop.create_task(work, context=self.context.copy())

    def own(self, task: "asyncio.Task[Any]", work: Coroutine[Any, Any, Any]) -> None:
        if len(self._tasks) >= self._tasks_kept:
            self._tasks = [kept for kept in self._tasks if not kept[0].done()]
            self._tasks_kept = max(_TASKS_KEPT, 2 * len(self._tasks))
        self._tasks.append((task, work))

    async def call(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run `work` in this node, from another one.

        Raises ConnectionCut if the node is killed before it answers, or does not answer within PATIENCE_S.
        """
        if not self.alive:
            raise ConnectionCut(f"{self.name} is not there")
        call = self.loop.create_future()
        self._calls[call] = self.loop.time() + PATIENCE_S
        if self._patience is None:
            self._lose_patience()
        self.start(_answer(call, work))
        try:
            return await call
        finally:
            del self._calls[call]

    def _lose_patience(self) -> None:
        """Cut off the calls that have waited for too long, and look again when the next one will have."""
        self._patience = None
        for call, until in self._calls.items():
            if until > self.loop.time():
                context = self.loop.world.context
                self._patience = self.loop.call_at(until, self._lose_patience, context=context)
                return
            _cut_off(call, f"{self.name} is silent")

    def pause(self) -> None:
        self.runs = False
        self.loop.withdraw(self)

    def resume(self) -> None:
        self.runs = self.alive
        self.loop.offer(self)

    def kill(self) -> None:
        """End the node at once: nothing of it runs again, and whoever waits for its answer is cut off."""
        self.alive = self.runs = False
        self.loop.withdraw(self)
        errors = len(self.loop.errors)
        self._close()
        del self.loop.errors[errors:]  # what it had not heard of itself is gone with it
        for call in self._calls:
            _cut_off(call, f"{self.name} was killed")

    def _close(self) -> None:
        self.ready.clear()
        tasks, self._tasks = self._tasks, []
        for task, work in tasks:
            if not task.done():
                _close(task, work, self.context)


def current_node() -> Node:
    """The node that runs now."""
    return NODE.get()


async def _answer(call: "asyncio.Future[Any]", work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    try:
        answer = await work()
    except Exception as error:  # noqa: BLE001 - it is the caller's
        if not call.done():
            call.set_exception(error)
    else:
        if not call.done():
            call.set_result(answer)


def _cut_off(call: "asyncio.Future[Any]", why: str) -> None:
    if not call.done():
        call.set_exception(ConnectionCut(why))


def _close(task: "asyncio.Task[Any]", work: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        context.run(work.close)
    except (Dead, RuntimeError, asyncio.CancelledError):
        return  # it tried to go on in a `finally`
