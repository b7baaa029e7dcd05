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

    The slices of a product lie in partitions of their own as long as there are any, far from each other: writers are
    assigned neighbouring partitions.
    """
    return _remembered(stock_id, partitions)


def remember_partitions(products_max: int) -> None:
    """Keep the partitions of so many products in this process's memory."""
    global _remembered  # noqa: PLW0603 - one memory for all of the process
    _remembered = lru_cache(products_max)(_partition_of)


def _partition_of(stock_id: str, partitions: int) -> int:
    home = int(murmur2(product_of(stock_id).encode()) & 0x7FFFFFFF)
    number = slice_of(stock_id)
    return (home + _spread(partitions)[number % partitions]) % partitions if number else home % partitions


@lru_cache(maxsize=16)
def _spread(partitions: int) -> tuple[int, ...]:
    """All partitions in the order of the binary van der Corput sequence: 0, then the middle, then the quarters."""
    bits = (partitions - 1).bit_length()
    turned = (int(f"{n:0{bits}b}"[::-1], 2) if bits else 0 for n in range(1 << bits))
    return tuple(dict.fromkeys(place * partitions >> bits for place in turned))


_remembered = lru_cache(Settings().partition_cache_max)(_partition_of)
