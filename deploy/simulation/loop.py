"""A deterministic event loop: virtual time, and a seeded scheduler that lets nodes run (see `node`).

Within a node, callbacks run in the order in which they were made ready, as in a real process; between nodes, any order
may come. The code that runs on it is ordinary asyncio code: it sees an event loop.
"""

import asyncio
import contextvars
import heapq
from asyncio import events
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVarTuple, Unpack

from deploy.simulation.node import NODE, Dead, Handle, Node

_Ts = TypeVarTuple("_Ts")


class Stuck(Exception):
    """Nothing is ready and no timer is set: whoever waits, waits for ever."""


class Loop(asyncio.AbstractEventLoop):
    """The event loop of a run. `time` is virtual seconds; it passes only when nothing is ready.

    Tasks and futures of the standard library find in it what they need of a loop.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._now = 0.0
        self._timers: list[tuple[float, int, Handle | asyncio.Future[None], Node]] = []
        self._sequence = 0
        self._offered: list[Node] = []  # nodes with something ready
        self.errors: list[BaseException] = []
        self.steps = 0
        self.world = Node(self, "world")  # what happens to the others: faults, servers, the auditor

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> Handle:
        if context is None:
            context = contextvars.copy_context()
        handle = Handle(callback, args, context)
        node = context.get(NODE, self.world)
        if node.alive:
            ready = node.ready
            if not ready and node.runs:
                self._offered.append(node)
            ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: contextvars.Context | None = None,
    ) -> Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
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
        heapq.heappush(self._timers, (when, self._sequence, handle, context.get(NODE, self.world)))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Any, *, name: str | None = None, context: contextvars.Context | None = None
    ) -> "asyncio.Task[Any]":
        if context is None:
            context = contextvars.copy_context()
        node = context.get(NODE, self.world)
        if not node.alive:  # it tries to go on in a `finally`, as it is closed
            coro.close()
            raise Dead
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or node.name, context=context)
        node.own(task, coro)
        return task

    def after(self, seconds: float) -> "asyncio.Future[None]":
        """Done when so much time has passed: `asyncio.sleep`, at half the price."""
        future: asyncio.Future[None] = asyncio.Future(loop=self)
        self._sequence += 1
        heapq.heappush(self._timers, (self._now + seconds, self._sequence, future, NODE.get()))
        return future

    get_debug = staticmethod(bool)  # False, and asked for by every future

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
            offered, draw = self._offered, self._random.random
            while not (task.done() or self.errors):
                if offered:
                    drawn = draw()
                    self._let_run(offered[int(drawn * len(offered))], 1 + int(drawn * 1024) % 8)
                else:
                    self._pass_time()
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

    def _let_run(self, node: Node, callbacks_max: int) -> None:
        ready = node.ready
        for _ in range(callbacks_max):
            handle = ready.popleft()
            if not ready:
                self._offered.remove(node)
            self.steps += 1
            callback = handle.callback
            if callback is not None:
                try:
                    handle.context.run(callback, *handle.arguments)
                except Exception as error:  # noqa: BLE001 - whatever a callback raises ends the run
                    self.errors.append(error)
            if not ready or not node.runs:
                return

    def _pass_time(self) -> None:
        """To the next timers; with a node that is gone go its timers."""
        timers = self._timers
        is_due = False
        while timers and not (is_due and timers[0][0] > self._now):
            when, _, due, node = heapq.heappop(timers)
            if not node.alive or due.done():
                continue
            if not is_due:
                is_due, self._now = True, max(self._now, when)
            if isinstance(due, Handle):
                node.ready.append(due)
                self.offer(node)
            else:
                due.set_result(None)
        if not is_due:
            raise Stuck("nothing is ready and no timer is set")


def wake(future: "asyncio.Future[None]") -> None:
    """Have whoever waits for it go on, unless nobody does any more."""
    if not future.done():
        future.set_result(None)
