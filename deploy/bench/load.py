"""A closed-loop HTTP load generator: `python -m deploy.bench.load`, its plan on standard input, counts on output.

It writes the bytes of each request itself and reads no more of a response than its status and length, because any
full HTTP client in Python takes longer for a request than the server that is to be measured.
"""

import asyncio
import sys
import time
from collections import Counter
from functools import partial
from itertools import cycle
from typing import cast

import msgspec
import uvloop


class Plan(msgspec.Struct, frozen=True):
    """`requests` are sent over every connection in turn, one at a time, with %KEY% replaced by a key of its own. The
    connections are to each of the `ports` in turn.
    """

    host: str
    ports: list[int]
    requests: list[bytes]
    connections: int
    seconds: float


class Outcome(msgspec.Struct, frozen=True):
    """Responses by status, over `seconds`."""

    statuses: dict[str, int]
    seconds: float

    def per_s(self, status: str) -> float:
        return self.statuses.get(status, 0) / self.seconds


class _Connection(asyncio.Protocol):
    def __init__(self, requests: list[list[bytes]], number: int, counts: Counter[str]) -> None:
        self._requests = requests
        self._counts = counts
        self._key = (number << 40) + number  # others begin with another of the requests
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses
        self._send()

    def _send(self) -> None:
        if self._transport is not None and self.open:
            self._key += 1
            parts = self._requests[self._key % len(self._requests)]
            self._transport.write((b"%032x" % self._key).join(parts))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._buffer.find(b"content-length: ")
        length = int(self._buffer[at + 16 : self._buffer.index(b"\r", at)])
        if len(self._buffer) < head + 4 + length:
            return
        self._counts[self._buffer[9:12].decode()] += 1
        self._buffer = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._counts["lost connection"] += self.open


async def run(plan: Plan) -> Outcome:
    """Send for `plan.seconds`; requests under way then are not counted."""
    counts: Counter[str] = Counter()
    requests = [request.split(b"%KEY%") for request in plan.requests]
    loop = asyncio.get_running_loop()
    seed = time.time_ns() << 16
    made = [
        await loop.create_connection(partial(_Connection, requests, seed + n, counts), plan.host, port)
        for n, port in zip(range(plan.connections), cycle(plan.ports), strict=False)
    ]
    counts.clear()
    started = time.monotonic()
    await asyncio.sleep(plan.seconds)
    outcome = Outcome(dict(counts), time.monotonic() - started)
    for transport, connection in made:
        connection.open = False
        transport.close()
    return outcome


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(plan))))


if __name__ == "__main__":
    main()
