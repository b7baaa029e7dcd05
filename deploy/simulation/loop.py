"""A deterministic event loop: virtual time, and nodes that a seeded scheduler lets run, pauses and kills.

Within a node, callbacks run in the order in which they were made ready, as in a real process; between nodes, any order
may come. The code that runs on it is ordinary asyncio code: it sees an event loop.
"""

import asyncio
import contextvars
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVarTuple, Unpack

_TASKS_KEPT = 256  # of a node before those that are done are forgotten

_Ts = TypeVarTuple("_Ts")
_NODE: "contextvars.ContextVar[Node]" = contextvars.ContextVar("node")


class Stuck(Exception):
    """Nothing is ready and no timer is set: whoever waits, waits for ever."""


class Dead(BaseException):
    """Raised in what a killed node had under way, as its coroutines are closed: nothing in it may have an effect."""


class ConnectionCut(Exception):
    """The node that was called was killed; what it did of the call is unknown."""


class Handle(asyncio.TimerHandle):
    """A callback to come, without what a loop of the real world needs of one."""

    __slots__ = ("arguments", "callback", "context", "dropped")

    def __init__(self, callback: Any, arguments: Any, context: contextvars.Context) -> None:
        self.callback = callback
        self.arguments = arguments
        self.context = context
        self.dropped = False

    def cancel(self) -> None:
        self.dropped = True
        self.callback = self.arguments = None

    def cancelled(self) -> bool:
        return self.dropped


class Node:
    """What would be a process: its callbacks, its tasks, and the calls from other nodes that wait for its answer."""

    def __init__(self, loop: "Loop", name: str) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.ready: deque[Handle] = deque()
        self.connections: dict[str, int] = {}  # server -> generation, see `network.Server`
        self.context = contextvars.Context()
        self.context.run(_NODE.set, self)
        self._loop = loop
        self._tasks: list[tuple[asyncio.Task[Any], Coroutine[Any, Any, Any], contextvars.Context]] = []
        self._calls: dict[asyncio.Future[Any], None] = {}

    @property
    def runs(self) -> bool:
        return self.alive and not self.paused

    def start(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run `work` as a task of this node."""
        return self._loop.create_task(work, context=self.context.copy())

    def own(
        self, task: "asyncio.Task[Any]", work: Coroutine[Any, Any, Any], context: contextvars.Context
    ) -> None:
        if len(self._tasks) > _TASKS_KEPT:
            self._tasks = [kept for kept in self._tasks if not kept[0].done()]
        self._tasks.append((task, work, context))

    async def call(self, work: Callable[[], Coroutine[Any, Any, Any]], within_s: float) -> Any:
        """Run `work` in this node, from another one.

        Raises ConnectionCut if the node is killed before it answers, or does not answer within the time.
        """
        if not self.alive:
            raise ConnectionCut(f"{self.name} is not there")
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._calls[answer] = None

        def answered(task: "asyncio.Task[Any]") -> None:
            error = task.exception()
            self._calls.pop(answer, None)
            if answer.done():
                return  # nobody waits any more
            if error is None:
                answer.set_result(task.result())
            else:
                answer.set_exception(error)

        self.start(work()).add_done_callback(answered, context=self.context)
        patience = self._loop.call_later(within_s, self._cut_off, answer, f"{self.name} is silent")
        try:
            return await answer
        finally:
            patience.cancel()

    def pause(self) -> None:
        self.paused = True
        self._loop.withdraw(self)

    def resume(self) -> None:
        self.paused = False
        self._loop.offer(self)

    def kill(self) -> None:
        """End the node at once: nothing of it runs again, and whoever waits for its answer is cut off."""
        self.alive = False
        self._loop.withdraw(self)
        self.ready.clear()
        tasks, self._tasks = self._tasks, []
        for task, work, context in tasks:
            _close(task, work, context)
        calls, self._calls = self._calls, {}
        for call in calls:
            self._cut_off(call, f"{self.name} was killed")

    def _cut_off(self, call: "asyncio.Future[Any]", why: str) -> None:
        self._calls.pop(call, None)
        if not call.done():
            call.set_exception(ConnectionCut(why))


class Loop(asyncio.AbstractEventLoop):
    """The event loop of a run. `time` is virtual seconds; it passes only when nothing is ready."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._now = 0.0
        self._timers: list[tuple[float, int, Handle, Node]] = []
        self._sequence = 0
        self._offered: list[Node] = []  # nodes with something ready
        self.errors: list[BaseException] = []
        self.steps = 0
        self.world = Node(self, "world")  # what happens to the others: faults, servers, the auditor

    # What tasks and futures need of a loop.

    def time(self) -> float:
        return self._now

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> Handle:
        if context is None:
            context = contextvars.copy_context()
        handle = Handle(callback, args, context)
        self._make_ready(context.get(_NODE, self.world), handle)
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> Handle:
        if context is None:
            context = contextvars.copy_context()
        handle = Handle(callback, args, context)
        self._sequence += 1
        heapq.heappush(self._timers, (when, self._sequence, handle, context.get(_NODE, self.world)))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> "asyncio.Task[Any]":
        if context is None:
            context = contextvars.copy_context()
        node = context.get(_NODE, self.world)
        if not node.alive:  # it tries to go on in a `finally`, as it is closed
            coro.close()
            raise Dead
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        node.own(task, coro, context)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context.get("exception") or RuntimeError(context["message"]))

    # The scheduler.

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run until `work`, a task of the world, is done. Raises the first of `errors`, and Stuck if it never ends."""
        with self.running():
            task = self.world.start(work)
            while not task.done():
                self._step()
                if self.errors:
                    raise self.errors[0]
            return task.result()

    @contextmanager
    def running(self) -> Iterator[None]:
        """In here this is the running loop, though nothing runs by itself."""
        before = events._get_running_loop()  # noqa: SLF001
        events._set_running_loop(self)  # noqa: SLF001
        try:
            yield
        finally:
            events._set_running_loop(before)  # noqa: SLF001

    def offer(self, node: Node) -> None:
        if node.ready and node.runs and node not in self._offered:
            self._offered.append(node)

    def withdraw(self, node: Node) -> None:
        if node in self._offered:
            self._offered.remove(node)

    def _make_ready(self, node: Node, handle: Handle) -> None:
        if not node.alive:
            return
        node.ready.append(handle)
        if len(node.ready) == 1 and not node.paused:
            self._offered.append(node)

    def _step(self) -> None:
        """Let a node that has something ready run a few callbacks; when none has, let time pass."""
        offered = self._offered
        if not offered:
            self._pass_time()
            return
        draw = self._random.random()
        node = offered[int(draw * len(offered))]
        ready = node.ready
        for _ in range(1 + int(draw * 1024) % 8):
            handle = ready.popleft()
            if not ready:
                offered.remove(node)
            self.steps += 1
            if not handle.dropped:
                try:
                    handle.context.run(handle.callback, *handle.arguments)
                except Exception as error:  # noqa: BLE001 - whatever a callback raises ends the run
                    self.errors.append(error)
            if not ready or not node.runs:
                return

    def _pass_time(self) -> None:
        timers = self._timers
        while timers:
            when, _, handle, node = heapq.heappop(timers)
            if handle.dropped or not node.alive:
                continue
            self._now = max(self._now, when)
            self._make_ready(node, handle)
            while timers and timers[0][0] <= self._now:
                _, _, handle, node = heapq.heappop(timers)
                if not handle.dropped:
                    self._make_ready(node, handle)
            return
        raise Stuck("nothing is ready and no timer is set")


def _close(task: "asyncio.Task[Any]", work: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        context.run(work.close)
    except (Dead, RuntimeError, asyncio.CancelledError):
        return  # it tried to go on in a `finally`


def current_node() -> Node:
    """The node that runs now."""
    return _NODE.get()
