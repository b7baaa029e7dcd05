"""The topics as they are made, on the real broker."""

import time

import pytest
from aiokafka import AIOKafkaProducer

from contracts.kafka import producer_options, send
from contracts.settings import Settings
from contracts.topics import Topics
from tests.harness import records_of

_YEAR_MS = 365 * 24 * 3600 * 1000


@pytest.mark.parametrize("off_ms", [-_YEAR_MS, _YEAR_MS], ids=["behind", "ahead"])
async def test_what_a_wrong_clock_sends_is_taken_in_and_kept_as_long_as_all(
    topic_settings: Settings, off_ms: int
) -> None:
    """By its sender's time a message would be deleted at once, or be refused for ever."""
    before_ms = int(time.time() * 1000)
    async with AIOKafkaProducer(**producer_options(topic_settings)) as producer:
        for topic in Topics(topic_settings).all():
            [(_, ack)] = await send(producer, topic, 0, [(b"k", b"v", [])], before_ms + off_ms)
            await ack
    for topic in Topics(topic_settings).all():
        [record] = await records_of(topic_settings, topic, 0)
        assert before_ms - 1000 <= record.timestamp <= int(time.time() * 1000) + 1000
