"""One producer for all who send: never two at once, and none that nobody stops."""

import asyncio

import pytest

from contracts.errors import NotAcknowledged
from contracts.kafka_clients import SharedProducer


class Producer:
    def __init__(self) -> None:
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True


class Starts:
    """Producers, each of which takes until `gate` to start."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.made: list[Producer] = []

    async def start(self) -> Producer:
        self.made.append(Producer())
        await self.gate.wait()
        return self.made[-1]


async def test_who_needs_it_at_once_gets_the_same() -> None:
    starts = Starts()
    shared = SharedProducer(starts.start)
    both = asyncio.gather(shared.ready(), shared.ready())
    await asyncio.sleep(0)
    starts.gate.set()
    first, second = await both
    assert first is second is starts.made[0]
    assert await shared.ready() is starts.made[0]
    assert len(starts.made) == 1


async def test_one_that_failed_is_dropped_once_and_not_its_successor() -> None:
    starts = Starts()
    starts.gate.set()
    shared = SharedProducer(starts.start)
    failed = await shared.ready()
    await shared.drop(failed)
    successor = await shared.ready()
    await shared.drop(failed)
    await shared.drop(None)
    assert await shared.ready() is successor
    assert (failed.stopped, successor.stopped) == (True, False)


async def test_after_the_stop_none_is_started() -> None:
    starts = Starts()
    starts.gate.set()
    shared = SharedProducer(starts.start)
    producer = await shared.ready()
    await shared.stop()
    with pytest.raises(NotAcknowledged):
        await shared.ready()
    assert [made.stopped for made in starts.made] == [True]
    assert starts.made == [producer]


async def test_one_that_starts_when_all_is_stopped_is_stopped_too() -> None:
    starts = Starts()
    shared = SharedProducer(starts.start)
    waiting = asyncio.create_task(shared.ready())
    await asyncio.sleep(0)
    await shared.stop()
    starts.gate.set()
    with pytest.raises(NotAcknowledged):
        await waiting
    assert [made.stopped for made in starts.made] == [True]
