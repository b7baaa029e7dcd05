"""Three brokers: what is acknowledged is on two at least, and one of them may die."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts.kafka import producer_options
from contracts.settings import Settings
from contracts.topics import Topics
from deploy.stack import LocalStack
from deploy.topics import ensure_topics
from tests.harness import eventually, records_of


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalStack]:
    stack = LocalStack(
        tmp_path,
        kafka_ports=[0, 0, 0],
        postgres_url="postgresql://elsewhere",
        redis_url="redis://elsewhere",
        say=lambda _: None,
    )
    with stack:
        yield stack
        for broker in stack.brokers:  # in good order the last ones would wait for a quorum in vain
            broker.kill()


async def described(settings: Settings) -> tuple[set[int], str]:
    """The replica counts of all partitions, and min.insync.replicas of the checkouts topic. None of what the broker that
    is asked does not know yet.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_url.split(","))
    await admin.start()
    try:
        topics = await admin.describe_topics(Topics(settings).all())
        resource = ConfigResource(ConfigResourceType.TOPIC, Topics(settings).checkouts)
        (answer,) = await admin.describe_configs([resource])
        configs = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        replicas = {len(p["replicas"]) for topic in topics for p in topic["partitions"]}
        return replicas, configs.get("min.insync.replicas", "")
    finally:
        await admin.close()


async def test_three_brokers_take_writes_while_one_is_dead(
    cluster: LocalStack, offline_settings: Settings
) -> None:
    settings = msgspec.structs.replace(
        offline_settings,
        kafka_url=cluster.urls.kafka,
        replication_factor=3,
        produce_ack_deadline_s=30.0,
        shutdown_grace_s=40.0,
    )
    assert len(settings.kafka_url.split(",")) == 3
    await ensure_topics(settings)

    async def is_described() -> bool:
        return await described(settings) == ({3}, "2")

    await eventually(is_described)
    producer = AIOKafkaProducer(**producer_options(settings))
    await producer.start()
    topic = Topics(settings).checkouts
    try:
        for n, broker in enumerate(cluster.brokers):
            for p in range(settings.partitions):
                await producer.send_and_wait(topic, str(n).encode(), partition=p)
            broker.kill()
            for p in range(settings.partitions):
                await producer.send_and_wait(topic, str(n).encode(), partition=p)
            broker.start()
    finally:
        await producer.stop()
    for p in range(settings.partitions):
        assert [record.value for record in await records_of(settings, topic, p)] == [
            b"0", b"0", b"1", b"1", b"2", b"2",
        ]  # fmt: skip
