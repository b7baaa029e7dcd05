"""The topics as they are made, on the real broker."""

import time

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from contracts.kafka import producer_options, send
from contracts.settings import Settings
from contracts.topics import Topics
from deploy.topics import ensure_topics
from tests.harness import records_of

_YEAR_MS = 365 * 24 * 3600 * 1000


async def test_topics_are_known_as_soon_as_they_are_made(server_settings: Settings) -> None:
    topics = Topics(server_settings).all()
    admin = AIOKafkaAdminClient(bootstrap_servers=server_settings.kafka_url)
    await admin.start()
    try:
        assert sorted(await ensure_topics(server_settings)) == sorted(topics)
        told = await admin.describe_topics(topics)
        assert {len(topic["partitions"]) for topic in told} == {server_settings.partitions}
    finally:
        await admin.close()
    assert await ensure_topics(server_settings) == []


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
