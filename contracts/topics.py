"""All topics, and which partition a product lives in."""

from functools import lru_cache

from aiokafka.partitioner import murmur2

from contracts.settings import Settings


class Topics:
    """Topic names under the configured prefix. All have the same number of partitions."""

    def __init__(self, settings: Settings) -> None:
        self.checkouts = f"{settings.topic_prefix}.checkouts"
        self.events = f"{settings.topic_prefix}.events"
        self.dead_letters = f"{settings.topic_prefix}.dead-letters"

    def all(self) -> list[str]:
        return [self.checkouts, self.events, self.dead_letters]


@lru_cache(maxsize=200_000)
def partition_of(product_id: str, partitions: int) -> int:
    """The partition of a product: Kafka's default partitioner, murmur2 of the key modulo the partition count."""
    return int((murmur2(product_id.encode()) & 0x7FFFFFFF) % partitions)
