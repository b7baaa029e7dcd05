"""Commands into the log: each partition for itself, and none waits for another."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest
from aiokafka.errors import KafkaConnectionError

from contracts.commands import Restock
from contracts.settings import Settings
from tests.harness import product_in, uuid_of
from workers.asking import Send, ask_all

PARTITIONS = 4


def restock(partition: int, number: int = 0) -> Restock:
    return Restock(
        command_id=uuid_of(f"{partition} {number}"),
        actor="sluiceway",
        asked_at_ms=1,
        product_id=product_in(partition, PARTITIONS),
        units=1,
    )


class Log:
    """Partitions 0 and 1 take nothing: one blocks before a message is on its way, the other after; 2 refuses it."""

    def __init__(self) -> None:
        self.over_with: list[int] = []

    async def send(self, _: bytes, __: bytes, partition: int) -> Awaitable[Any]:
        ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if partition == 0:
            try:
                await asyncio.Event().wait()
            finally:
                self.over_with.append(partition)
        elif partition == 2:
            ack.set_exception(KafkaConnectionError("away"))
        elif partition == 3:
            self.over_with.append(partition)
            ack.set_result(None)
        return ack


async def test_a_partition_that_takes_nothing_keeps_none_of_the_others(
    offline_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = msgspec.structs.replace(offline_settings, produce_ack_deadline_s=0.1)
    log = Log()
    commands = [restock(p, n) for p in range(PARTITIONS) for n in range(2)]
    async with asyncio.timeout(10):
        assert await ask_all(commands, settings, log.send) is False
    assert log.over_with == [3, 3, 0]
    assert {getattr(r, "action", "") for r in caplog.records} == {"produce_failed"}
    told = sorted(r.getMessage().partition(" were")[0] for r in caplog.records)
    assert told == [f"2 commands of partition {p}" for p in range(3)]


async def test_what_is_acknowledged_is_asked(offline_settings: Settings) -> None:
    send: Send = Log().send
    assert await ask_all([restock(3)], offline_settings, send) is True
    assert await ask_all([], offline_settings, send) is True
