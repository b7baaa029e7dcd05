"""An open-loop HTTP load generator: `python -m deploy.overload.load`, its plan on standard input, counts on output.

Requests fall due at a fixed rate, whatever the servers do. One that falls due while no connection is free waits, and
its latency counts from when it was due; after `patience_s` it gives up unsent. As in `deploy.bench.load`, no more of
a response is read than needed, or the generator would take longer for a request than the servers.
"""

import asyncio
import heapq
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import orjson
import uvloop

from contracts.errors import Unavailable

_TICK_S = 0.005
_RECONNECT_S = 0.05
_SHARES = (("p50", 0.50), ("p99", 0.99), ("max", 1.0))


class Plan(msgspec.Struct, frozen=True):
    """`requests` are sent in turn, with %KEY% replaced by a key of their own, over `connections` to all `ports`.

    `comes_again`: who is told to come again after the end does so, once, at that time; else they stay away.
    `accepted_path` gets a line "checkout_id partition offset" for every line of every 202.
    """

    host: str
    ports: list[int]
    requests: list[bytes]
    connections: int
    per_s: float
    seconds: float
    accepted_path: str
    comes_again: bool = False
    patience_s: float = 5.0
    answer_s: float = 15.0  # waited for an answer at the end
    connect_s: float = 30.0  # all connections are to be made in, before the first request falls due


class Outcome(msgspec.Struct):
    """What became of the requests. Times in milliseconds, by status: from when a request was due, and from when a
    connection was free to send it.
    """

    due: int = 0
    answered: int = 0  # while requests fell due
    statuses: dict[str, int] = msgspec.field(default_factory=dict)
    codes: dict[str, int] = msgspec.field(default_factory=dict)  # of problems
    retry_after_s: dict[str, int] = msgspec.field(default_factory=dict)  # how often each was told with a 503
    since_due_ms: dict[str, dict[str, float]] = msgspec.field(default_factory=dict)
    since_sent_ms: dict[str, dict[str, float]] = msgspec.field(default_factory=dict)
    cut: int = 0  # connections lost with a request under way
    unanswered: int = 0
    given_up: int = 0  # no connection was free in time
    told_to_close: int = 0
    closed_idle: int = 0
    not_connected: int = 0  # tries to connect that failed
    due_again: int = 0  # who came again
    again: dict[str, int] = msgspec.field(default_factory=dict)  # the statuses that they were answered with
    seconds: float = 0.0

    @property
    def answered_per_s(self) -> float:
        """While requests fell due."""
        return self.answered / self.seconds if self.seconds else 0.0

    def all_taken_in(self, within_ms: float = 1000.0) -> bool:
        """Every request was answered 202, 99 of 100 within so long since they were due."""
        return (
            set(self.statuses) == {"202"}
            and not (self.given_up or self.unanswered or self.cut)
            and self.since_due_ms["202"]["p99"] < within_ms
        )


class Job(msgspec.Struct):
    """A request with its key, due at a time of the loop's clock."""

    due_at: float
    data: bytes
    is_again: bool = False
    sent_at: float = 0.0


class _Connection(asyncio.Protocol):
    def __init__(self, load: "Load", target: int) -> None:
        self._load = load
        self.target = target
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.job: Job | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self._load.free(self)

    def send(self, job: Job) -> None:
        job.sent_at = self._load.now()
        self.job = job
        if self._transport is not None:
            self._transport.write(job.data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        length = int(_header(head, b"content-length"))
        if len(self._buffer) < end + 4 + length or self.job is None:
            return
        body, self._buffer = self._buffer[end + 4 :], b""
        job, self.job = self.job, None
        is_last = _header(head, b"connection") == b"close"
        self._load.answered(self, job, head, body, is_last=is_last)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.lost(self)


Taken = Callable[[Job, dict[str, Any], float], None]  # a request, its 202's document, when it came


class Load:
    """A load under way. `taken` is told of every 202."""

    def __init__(self, plan: Plan, taken: Taken = lambda *_: None) -> None:
        self._plan = plan
        self._taken = taken
        self._loop = asyncio.get_running_loop()
        self._parts = [request.split(b"%KEY%") for request in plan.requests]
        self._key = time.time_ns() << 16
        self._free: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._closing: set[_Connection] = set()
        self._waiting: deque[Job] = deque()
        self._later: list[tuple[float, int, bytes]] = []  # who comes again: when, number, request
        self._last_at = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_over = False
        self._why = ""  # the last connection was not made
        self._statuses: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._retry_after: Counter[str] = Counter()
        self._again: Counter[str] = Counter()
        self._since_due_ms: dict[str, list[float]] = defaultdict(list)
        self._since_sent_ms: dict[str, list[float]] = defaultdict(list)
        self.now = self._loop.time
        self._accepted: list[bytes] = []
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """Send for `plan.seconds`, wait for the answers. Raises Unavailable if not all connections can be made in time."""
        plan, outcome = self._plan, self.outcome
        await self._connect_all()
        start = self._loop.time()
        self._last_at = start + plan.seconds
        while (now := self._loop.time()) < self._last_at:
            wanted = int((now - start) * plan.per_s)
            while outcome.due < wanted:
                self._put(Job(start + outcome.due / plan.per_s, self._next()))
                outcome.due += 1
            self._give_up(now)
            await asyncio.sleep(_TICK_S)
        outcome.seconds = now - start
        await self._wait_answers()
        return self._close()

    def stop(self) -> None:
        """End before `plan.seconds` are over."""
        self._last_at = self._loop.time()

    async def _wait_answers(self) -> None:
        """Until all are answered who have come, and all have come again who were told to."""
        until = self._last_at + self._plan.answer_s
        while self._later or ((self._waiting or self._under_way()) and self._loop.time() < until):
            now = self._loop.time()
            while self._later and self._later[0][0] <= now:
                due_at, _, data = heapq.heappop(self._later)
                self._put(Job(due_at, data, is_again=True))
                self.outcome.due_again += 1
                until = now + self._plan.answer_s
            self._give_up(now)
            await asyncio.sleep(_TICK_S)

    def _close(self) -> Outcome:
        outcome = self.outcome
        self._is_over = True
        outcome.unanswered = self._under_way()
        outcome.given_up += len(self._waiting)
        outcome.statuses, outcome.codes = dict(self._statuses), dict(self._codes)
        outcome.retry_after_s, outcome.again = dict(self._retry_after), dict(self._again)
        outcome.since_due_ms = {status: shares(values) for status, values in self._since_due_ms.items()}
        outcome.since_sent_ms = {status: shares(values) for status, values in self._since_sent_ms.items()}
        for connection in self._open:
            connection.close()
        Path(self._plan.accepted_path).write_bytes(b"".join(self._accepted))
        return outcome

    def free(self, connection: _Connection) -> None:
        """The connection can take a request."""
        if self._is_over:
            connection.close()
            return
        self._open.add(connection)
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._free.append(connection)

    def answered(self, connection: _Connection, job: Job, head: bytes, body: bytes, *, is_last: bool) -> None:
        now = self._loop.time()
        status = head[9:12].decode()
        counts = self._again if job.is_again else self._statuses
        counts[status] += 1
        self.outcome.answered += now < self._last_at
        self._since_due_ms[status].append((now - job.due_at) * 1000)
        self._since_sent_ms[status].append((now - job.sent_at) * 1000)
        document = orjson.loads(body)
        if status == "202":
            for line in document["lines"]:
                text = f"{document['checkout_id']} {line['partition']} {line['offset']}\n"
                self._accepted.append(text.encode())
            self._taken(job, document, now)
        else:
            self._codes[document["code"]] += 1
            self._turned_away(job, head, now)
        if is_last:
            self.outcome.told_to_close += 1
            self._closing.add(connection)
            connection.close()
        else:
            self.free(connection)

    def _turned_away(self, job: Job, head: bytes, now: float) -> None:
        told = _header(head, b"retry-after")
        if not told:
            return
        self._retry_after[told.decode()] += 1
        due_at = now + float(told)
        if self._plan.comes_again and not job.is_again and due_at >= self._last_at:
            self._key += 1
            heapq.heappush(self._later, (due_at, self._key, job.data))

    def lost(self, connection: _Connection) -> None:
        """A connection is closed, by whom ever: another one takes its place, at another server if it was sent away."""
        self._open.discard(connection)
        if self._is_over:
            return
        target = connection.target
        if connection.job is not None:
            self.outcome.cut += 1
        elif connection in self._closing:
            self._closing.discard(connection)
            target += 1
        else:
            self.outcome.closed_idle += 1
            self._free.remove(connection)
            target += 1
        task = self._loop.create_task(self._connect(target % len(self._plan.ports)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect_all(self) -> None:
        plan = self._plan
        try:
            async with asyncio.timeout(plan.connect_s):
                await asyncio.gather(*(self._connect(n % len(plan.ports)) for n in range(plan.connections)))
        except TimeoutError:
            count = len(self._open)
            self._close()
            raise Unavailable(
                f"{count} of {plan.connections} connections to {plan.host}, ports {plan.ports}, were made in "
                f"{plan.connect_s:g} s: {self._why or 'no answer'}"
            ) from None

    async def _connect(self, target: int) -> None:
        """Connect, to the next server where one does not answer."""
        while not self._is_over:
            try:
                await self._loop.create_connection(
                    partial(_Connection, self, target), self._plan.host, self._plan.ports[target]
                )
                return
            except OSError as error:
                self._why = str(error)
                self.outcome.not_connected += 1
                target = (target + 1) % len(self._plan.ports)
                await asyncio.sleep(_RECONNECT_S)

    def _put(self, job: Job) -> None:
        if self._free:
            self._free.popleft().send(job)
        else:
            self._waiting.append(job)

    def _next(self) -> bytes:
        self._key += 1
        return (b"%032x" % self._key).join(self._parts[self._key % len(self._parts)])

    def _give_up(self, now: float) -> None:
        while self._waiting and now - self._waiting[0].due_at > self._plan.patience_s:
            self._waiting.popleft()
            self.outcome.given_up += 1

    def _under_way(self) -> int:
        return sum(connection.job is not None for connection in self._open)


def shares(values: Iterable[float]) -> dict[str, float]:
    """p50, p99 and the largest, by the nearest rank."""
    ranked = sorted(values)
    return {name: round(ranked[min(int(len(ranked) * share), len(ranked) - 1)], 1) for name, share in _SHARES}


def _header(head: bytes, name: bytes) -> bytes:
    """The value of a header in a head of lower case; empty if it is not there."""
    _, found, rest = head.partition(b"\r\n" + name + b": ")
    return rest.split(b"\r\n", 1)[0] if found else b""


async def run(plan: Plan) -> Outcome:
    return await Load(plan).run()


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    try:
        outcome = uvloop.run(run(plan))
    except Unavailable as error:
        sys.exit(f"{error}")
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
