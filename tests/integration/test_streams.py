"""The Faust application on a real Kafka: what is late is asked for, and a round that hangs is seen."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from unittest import mock

import msgspec
import pytest
from aiokafka.errors import KafkaError

from contracts.commands import Expire, decode_command
from contracts.decisions import order_id_of
from contracts.settings import Settings
from contracts.topics import Topics
from deploy.fleet import Fleet
from deploy.stack import LocalStack
from deploy.topics import ensure_topics
from stock_ledger.commands.due import Due
from stock_ledger.commands.fakes import MemoryCommandLedger, MemoryRefunds
from stock_ledger.fakes import MemoryLedger
from stock_ledger.figures import FigureStore
from stock_ledger.upstream.fakes import MemoryOpen
from stock_ledger.upstream.source import NoStockSource
from tests.harness import NOON, Clock, eventually, records_of, stalled
from workers import streams
from workers.health import Health
from workers.making_good import MakingGood
from workers.refunds import Refunding
from workers.streams import build, sender_of

PARTITIONS = 4


class Late:
    """See `DueReads`: the payment of one order in each partition is late. It answers while `answers` is set."""

    def __init__(self) -> None:
        self.orders = [order_id_of(1_794_394_800_000, p, 1) for p in range(PARTITIONS)]
        self.answers = asyncio.Event()
        self.answers.set()
        self.waiting = False

    async def payments(self, now: datetime, after: Due, rows_max: int) -> list[Due]:
        self.waiting = not self.answers.is_set()
        await self.answers.wait()
        return sorted((NOON, order) for order in self.orders if (NOON, order) > after)

    async def gatherings(self, now: datetime, after: Due, rows_max: int) -> list[Due]:
        return []


class World:
    def __init__(self, settings: Settings, clock: Clock, folder: Path) -> None:
        ledger = MemoryLedger()
        self.settings = settings
        self.clock = clock
        self.late = Late()
        self.health = Health(settings, clock.monotonic)
        self.app = build(
            settings,
            FigureStore(cast("Any", None)),  # there are no events
            self.late,
            Refunding(MemoryRefunds(MemoryCommandLedger(ledger)), [], settings, clock.now),
            MakingGood(NoStockSource(), MemoryOpen(ledger), settings),
            self.health,
            clock.now,
            folder,
        )

    async def asked(self) -> set[str]:
        """The orders of the commands in the log."""
        found = set()
        for p in range(PARTITIONS):
            for record in await records_of(self.settings, Topics(self.settings).commands, p):
                command = decode_command(record.value, record.key, p, PARTITIONS)
                assert isinstance(command, Expire)
                found.add(command.order_id)
        return found

    async def is_all_asked(self) -> bool:
        return await self.asked() == set(self.late.orders)


@pytest.fixture
async def world(topic_settings: Settings, clock: Clock, tmp_path: Path) -> AsyncIterator[World]:
    settings = msgspec.structs.replace(
        topic_settings, timer_interval_s=0.1, produce_ack_deadline_s=1.0, postgres_timeout_s=5.0
    )
    world = World(settings, clock, tmp_path)
    async with world.app:
        yield world


async def test_a_round_that_hangs_is_seen(world: World) -> None:
    await eventually(world.is_all_asked)
    await eventually(lambda: world.health.report()[0])
    world.late.answers.clear()
    await eventually(lambda: world.late.waiting)
    world.clock.tick(world.settings.postgres_timeout_s + world.settings.produce_ack_deadline_s + 1)
    held_up = world.health.is_held_up
    with mock.patch.object(world.health, "is_held_up", wraps=held_up) as looked:
        await eventually(lambda: looked.call_count >= 2)
    assert world.health.report()[0] is False
    world.late.answers.set()
    await eventually(lambda: world.health.report()[0])


async def test_the_process_ends_in_time_though_kafka_stands_still(
    settings: Settings, stack: LocalStack, tmp_path: Path
) -> None:
    said: list[str] = []
    fleet = Fleet(stack, tmp_path, said.append)
    member = fleet.add(
        "streams", msgspec.structs.replace(settings, produce_ack_deadline_s=1.0, shutdown_grace_s=2.0)
    )
    await fleet.wait_ready()
    async with stalled(stack, settings):
        await asyncio.to_thread(fleet.terminate, member)
    assert said == []
    assert member.process is not None
    assert member.process.returncode == 0


async def test_the_successor_of_a_process_that_was_killed_waits_for_a_session_only(
    settings: Settings, stack: LocalStack, tmp_path: Path
) -> None:
    """Nothing that is late is asked for meanwhile."""
    fleet = Fleet(stack, tmp_path, print)
    member = fleet.add("streams", settings)
    await fleet.wait_ready()
    await asyncio.to_thread(fleet.kill, member)
    fleet.start(member)
    async with asyncio.timeout(settings.session_timeout_ms / 1000 + 30):
        await fleet.wait_ready()
    await asyncio.to_thread(fleet.terminate, member)


async def test_topics_that_are_made_later_are_found(
    server_settings: Settings, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_METADATA_MAX_AGE_MS", 500)
    world = World(server_settings, clock, tmp_path)
    async with world.app:
        await ensure_topics(server_settings)
        await eventually(lambda: len(world.app.consumer.assignment()) == PARTITIONS)


async def test_a_command_that_is_not_acknowledged_is_given_up_at_the_deadline(
    world: World, stack: LocalStack
) -> None:
    """By the producer itself: else all that goes to a broker waits behind a request that nobody answers."""
    await eventually(world.is_all_asked)
    send = sender_of(world.app, Topics(world.settings).commands)
    async with stalled(stack, world.settings), asyncio.timeout(20):
        with pytest.raises(KafkaError):
            await (await send(b"k", b"v", 0))
