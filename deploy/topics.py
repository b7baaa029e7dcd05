"""Topics: made with the configured partition count, or found to have it."""

import asyncio
import time
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from contracts.errors import SettingsError, Unavailable
from contracts.kafka import consumer_options, tp
from contracts.settings import LOG_DAYS, Settings
from contracts.topics import Topics

# The log is the only copy of a checkout until it is decided, and the audit's witness after it.
_WEEK_MS = LOG_DAYS * 24 * 3600 * 1000
RETENTION_MS = {"checkouts": _WEEK_MS, "commands": _WEEK_MS, "events": _WEEK_MS, "dead-letters": -1}

_LOOK_S = 0.05  # between looks whether new topics are known
_KNOWN_S = 30.0


async def ensure_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing, and wait until they are known; returns their names.

    Raises SettingsError if a topic has another number of partitions: products would change their partition, and with
    it their writer. Raises Unavailable if Kafka does not answer.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_url.split(","))
    try:
        await admin.start()
        found = await _partition_counts(admin, settings)
        missing = [name for name, count in found.items() if count == 0]
        if missing:
            await _create(admin, settings, missing)
            found = await _known(admin, settings)
        wrong = {name: count for name, count in found.items() if count != settings.partitions}
        if wrong:
            raise SettingsError(
                f"SLUICEWAY_PARTITIONS is {settings.partitions}, but topics have {wrong}: set it to what they have. "
                "A topic's partition count must never change: products would get another writer"
            )
        return missing
    except KafkaError as error:
        raise Unavailable(f"Kafka: {error!r}") from error
    finally:
        await admin.close()


async def end_offsets(settings: Settings, topic: str) -> dict[int, int]:
    """The next offset to be written of each partition. Raises Unavailable if Kafka does not answer."""
    consumer = AIOKafkaConsumer(**consumer_options(settings))
    try:
        await consumer.start()
        ends = await consumer.end_offsets([tp(topic, p) for p in range(settings.partitions)])
        return {where.partition: offset for where, offset in ends.items()}
    except KafkaError as error:
        raise Unavailable(f"Kafka: {error!r}") from error
    finally:
        await consumer.stop()


async def _known(admin: AIOKafkaAdminClient, settings: Settings) -> dict[str, int]:
    """The partition counts as soon as there are some: the controller answers before the brokers have heard of new topics."""
    deadline = time.monotonic() + _KNOWN_S
    while not all((found := await _partition_counts(admin, settings)).values()):
        if time.monotonic() > deadline:
            raise Unavailable(f"Kafka does not know the topics it has made after {_KNOWN_S:.0f} s: {found}")
        await asyncio.sleep(_LOOK_S)
    return found


async def _partition_counts(admin: AIOKafkaAdminClient, settings: Settings) -> dict[str, int]:
    described: list[dict[str, Any]] = await admin.describe_topics(Topics(settings).all())
    return {topic["topic"]: len(topic["partitions"]) for topic in described}


async def _create(admin: AIOKafkaAdminClient, settings: Settings, names: list[str]) -> None:
    in_sync = "2" if settings.replication_factor >= 3 else "1"
    topics = [
        NewTopic(
            name,
            settings.partitions,
            settings.replication_factor,
            topic_configs={
                "min.insync.replicas": in_sync,
                "retention.ms": str(RETENTION_MS[name.rsplit(".", 1)[1]]),
                "max.message.bytes": str(4 * settings.produce_batch_bytes),
                # Retention counts from when the broker took a message in, whatever its sender's clock says.
                "message.timestamp.type": "LogAppendTime",
            },
        )
        for name in names
    ]
    answer = await admin.create_topics(topics)
    for name, code, *text in answer.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise SettingsError(
                f"topic {name} cannot be made: {error.__name__} {' '.join(str(t) for t in text)}"
            )
