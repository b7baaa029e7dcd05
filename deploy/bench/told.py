"""Decision latency under an open-loop load: `python -m deploy.bench.told`, its plan on standard input, times on output.

A request's clock runs from when it fell due, whether or not it could be sent then, until the event of its decision is
read from Kafka; for some, until their buyer, who polls, is told.
"""

import asyncio
import contextlib
import gc
import re
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer

from contracts.kafka import consumer_options, tp
from contracts.settings import Settings
from contracts.topics import Topics
from deploy.overload import load
from deploy.overload.load import Job, Load, shares

_POLL_S = 0.01
_UNTOLD_S = 15.0  # waited for the last decisions
_READ_MAX = 5000
_BEARER = re.compile(rb"Authorization: (Bearer [^\r]+)")


class Plan(msgspec.Struct, frozen=True):
    """The load, and how many buyers a second poll at `api_url` until they are told."""

    load: load.Plan
    settings: Settings
    api_url: str
    polling_per_s: float = 20.0


class Outcome(msgspec.Struct, frozen=True):
    """p50, p99 and the largest, in milliseconds since requests fell due: until their decision's event was read, and
    until those who polled were told. `untold` were taken in, but their event never came.
    """

    load: load.Outcome
    decided_ms: dict[str, float]
    polled_ms: dict[str, float]
    untold: int

    def is_sustained(self, patience_ms: float) -> bool:
        """All were taken in and decided, 99 of 100 within so long."""
        return self.load.all_taken_in() and not self.untold and self.decided_ms.get("p99", 0.0) < patience_ms


class _Event(msgspec.Struct, frozen=True):
    """What is read of an event's data."""

    checkout_id: str


class Measurement:
    """One load, with those who listen and those who poll."""

    def __init__(self, plan: Plan, http: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._http = http
        self._due_at: dict[str, float] = {}
        self._told_at: dict[str, float] = {}
        self._polled_ms: list[float] = []
        self._polling: set[asyncio.Task[None]] = set()
        self._next_poll_at = 0.0

    async def run(self) -> Outcome:
        async with _events(self._plan.settings) as consumer:
            listening = asyncio.create_task(self._listen(consumer))
            outcome = await Load(self._plan.load, self._taken).run()
            deadline = time.monotonic() + _UNTOLD_S
            while self._untold() or self._polling:
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(_POLL_S)
            listening.cancel()
        since_due = [
            (told_at - self._due_at[checkout_id]) * 1000
            for checkout_id, told_at in self._told_at.items()
            if checkout_id in self._due_at
        ]
        return Outcome(outcome, _shares(since_due), _shares(self._polled_ms), self._untold())

    def _untold(self) -> int:
        return len(self._due_at.keys() - self._told_at.keys())

    def _taken(self, job: Job, document: dict[str, Any], now: float) -> None:
        self._due_at[document["checkout_id"]] = job.due_at
        if now >= self._next_poll_at:
            self._next_poll_at = now + 1 / self._plan.polling_per_s
            task = asyncio.create_task(self._poll(job, document["status_url"]))
            self._polling.add(task)
            task.add_done_callback(self._polling.discard)

    async def _listen(self, consumer: AIOKafkaConsumer) -> None:
        decoder = msgspec.json.Decoder(_Event)
        while True:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=_READ_MAX)).values():
                now = time.monotonic()
                for record in records:
                    self._told_at[decoder.decode(record.value).checkout_id] = now

    async def _poll(self, job: Job, status_url: str) -> None:
        found = _BEARER.search(job.data)
        headers = {"Authorization": found[1].decode()} if found else {}
        while True:
            async with self._http.get(f"{self._plan.api_url}{status_url}", headers=headers) as response:
                if (await response.json())["status"] != "queued":
                    self._polled_ms.append((time.monotonic() - job.due_at) * 1000)
                    return
            await asyncio.sleep(_POLL_S)


@contextlib.asynccontextmanager
async def _events(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer of the events that come from now on."""
    consumer = AIOKafkaConsumer(**consumer_options(settings))
    await consumer.start()
    try:
        places = [tp(Topics(settings).events, p) for p in range(settings.partitions)]
        consumer.assign(places)
        await consumer.seek_to_end(*places)
        yield consumer
    finally:
        await consumer.stop()


def _shares(values: list[float]) -> dict[str, float]:
    return shares(values) if values else {}


async def run(plan: Plan) -> Outcome:
    async with aiohttp.ClientSession() as http:
        return await Measurement(plan, http).run()


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    gc.freeze()
    gc.disable()  # its pauses would count as latency
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(plan))))


if __name__ == "__main__":
    main()
