"""Partitions: the same murmur2 as every Kafka client."""

import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from contracts import topics
from contracts.settings import Settings
from contracts.topics import Topics, partition_of, remember_partitions

# From the tests of the Java client (UtilsTest.testMurmur2).
JAVA = [
    ("21", -973932308),
    ("foobar", -790332482),
    ("a-little-bit-long-string", -985981536),
    ("a-little-bit-longer-string", -1486304829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    ("abc", 479470107),
]


@pytest.mark.parametrize(("text", "expected"), JAVA)
def test_murmur2_is_javas(text: str, expected: int) -> None:
    signed = (murmur2(text.encode()) & 0xFFFFFFFF ^ 0x8000_0000) - 0x8000_0000
    assert signed == expected


@pytest.mark.parametrize(("text", "hashed"), JAVA)
@pytest.mark.parametrize("partitions", [1, 4, 16, 4096])
def test_a_partition_is_the_positive_hash_modulo_the_count(text: str, hashed: int, partitions: int) -> None:
    assert partition_of(text, partitions) == (hashed & 0x7FFF_FFFF) % partitions


@given(st.text("abcXYZ019_-", min_size=1, max_size=64), st.integers(1, 4096))
def test_every_product_has_a_partition(product_id: str, partitions: int) -> None:
    assert 0 <= partition_of(product_id, partitions) < partitions


def test_only_so_many_products_are_remembered() -> None:
    remember_partitions(2)
    try:
        assert [partition_of("abc", n) for n in (4, 16, 4096, 4)] == [479470107 % n for n in (4, 16, 4096, 4)]
        assert topics._remembered.cache_info()[1:] == (4, 2, 2)
    finally:
        remember_partitions(Settings().partition_cache_max)


def test_topics_are_named_under_the_prefix() -> None:
    named = Topics(Settings(topic_prefix="sale"))
    assert named.all() == [named.checkouts, named.commands, named.events, named.dead_letters]
    assert named.all() == ["sale.checkouts", "sale.commands", "sale.events", "sale.dead-letters"]
