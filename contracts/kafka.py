"""How Sluiceway talks to Kafka: the client settings that the guarantees need, and batches built by hand.

Opens no connection: it configures clients and frames what goes over them. Their beginning and end is in `kafka_clients`.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from contracts.errors import NotAcknowledged
from contracts.settings import Settings

Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]  # key, value, headers


def producer_options(settings: Settings) -> dict[str, Any]:
    """acks=all and idempotence: an acknowledged record is in the log once, in order, on every in-sync replica."""
    return {
        "bootstrap_servers": settings.kafka_url.split(","),
        "acks": "all",
        "enable_idempotence": True,
        "max_batch_size": settings.produce_batch_bytes,
        "max_request_size": 4 * settings.produce_batch_bytes,
        "request_timeout_ms": int(settings.produce_ack_deadline_s * 1000),
        "retry_backoff_ms": 100,
        "metadata_max_age_ms": 30_000,
    }


def consumer_options(settings: Settings) -> dict[str, Any]:
    """No auto-commit, from the first offset: the place to go on from is Postgres' to say."""
    return {
        "bootstrap_servers": settings.kafka_url.split(","),
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "session_timeout_ms": settings.session_timeout_ms,
        "heartbeat_interval_ms": max(settings.session_timeout_ms // 12, 1),
        "max_partition_fetch_bytes": settings.fetch_bytes_max,
        "fetch_max_bytes": 4 * settings.fetch_bytes_max,
        "fetch_max_wait_ms": settings.fetch_wait_max_ms,
        "retry_backoff_ms": 100,
        "metadata_max_age_ms": 30_000,
    }


async def send(
    producer: AIOKafkaProducer, topic: str, partition: int, records: Sequence[Record], timestamp_ms: int
) -> "list[tuple[int, asyncio.Future[Any]]]":
    """Hand records over in as few batches as fit. One (count, future of its metadata) per batch, in order.

    Raises NotAcknowledged if a record is larger than a batch may be, or if the producer cannot take it.
    """
    sent: list[tuple[int, asyncio.Future[Any]]] = []
    builder = producer.create_batch()
    for key, value, headers in records:
        if builder.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
            if builder.record_count():
                sent.append(await _submit(producer, builder, topic, partition))
            builder = producer.create_batch()
            if builder.append(key=key, value=value, timestamp=timestamp_ms, headers=headers) is None:
                raise NotAcknowledged(
                    "a record does not fit in an empty batch; raise SLUICEWAY_PRODUCE_BATCH_BYTES"
                )
    if builder.record_count():
        sent.append(await _submit(producer, builder, topic, partition))
    return sent


async def _submit(
    producer: AIOKafkaProducer, builder: Any, topic: str, partition: int
) -> "tuple[int, asyncio.Future[Any]]":
    count = builder.record_count()
    builder.close()
    try:
        return count, await producer.send_batch(builder, topic, partition=partition)
    except KafkaError as error:
        raise NotAcknowledged(f"{topic}[{partition}]: {error!r}") from error


def tp(topic: str, partition: int) -> TopicPartition:
    return TopicPartition(topic, partition)
