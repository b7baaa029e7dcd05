"""All topics, and which partition a product or a slice of it lives in."""

from enum import StrEnum
from functools import lru_cache

from aiokafka.partitioner import murmur2

from contracts.settings import Settings
from contracts.slices import product_of, slice_of


class Stream(StrEnum):
    """What writers read: two topics with the same number of partitions, whose equal numbers have one writer."""

    COMMANDS = "commands"  # first, so that paying or stopping a sale never waits behind the flood
    CHECKOUTS = "checkouts"


class Topics:
    """Topic names under the configured prefix. All have the same number of partitions."""

    def __init__(self, settings: Settings) -> None:
        self.checkouts = f"{settings.topic_prefix}.{Stream.CHECKOUTS}"
        self.commands = f"{settings.topic_prefix}.{Stream.COMMANDS}"
        self.events = f"{settings.topic_prefix}.events"
        self.dead_letters = f"{settings.topic_prefix}.dead-letters"

    def all(self) -> list[str]:
        return [self.checkouts, self.commands, self.events, self.dead_letters]

    def of(self, stream: Stream) -> str:
        return self.commands if stream is Stream.COMMANDS else self.checkouts

    def stream_of(self, topic: str) -> Stream:
        return Stream.COMMANDS if topic == self.commands else Stream.CHECKOUTS


def partition_of(stock_id: str, partitions: int) -> int:
    """The partition of a product: Kafka's default partitioner, murmur2 of the key modulo the partition count.

    That of a slice of it comes so many after that, the first again after the last.
    """
    return _remembered(stock_id, partitions)


def remember_partitions(products_max: int) -> None:
    """Keep the partitions of so many products in this process's memory."""
    global _remembered  # noqa: PLW0603 - one memory for all of the process
    _remembered = lru_cache(products_max)(_partition_of)


def _partition_of(stock_id: str, partitions: int) -> int:
    return int(((murmur2(product_of(stock_id).encode()) & 0x7FFFFFFF) + slice_of(stock_id)) % partitions)


_remembered = lru_cache(Settings().partition_cache_max)(_partition_of)
