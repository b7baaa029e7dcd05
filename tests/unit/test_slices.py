"""Slices: the names of their stock, where they lie, and whose they are."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.messages import Id
from contracts.slices import (
    SLICES_MAX,
    StockId,
    others,
    product_of,
    slice_of,
    slice_of_buyer,
    stock_id,
    stock_ids,
)
from contracts.topics import partition_of

BUYERS = [f"buyer-{number}" for number in range(10_000)]
PRODUCT_IDS = st.text("abcXYZ019_-", min_size=1, max_size=64)
SLICE_NUMBERS = st.integers(0, SLICES_MAX - 1)


@settings(deadline=None)
@given(PRODUCT_IDS, SLICE_NUMBERS)
def test_a_stock_id_tells_its_product_and_its_slice(product_id: str, number: int) -> None:
    name = stock_id(product_id, number)
    assert (product_of(name), slice_of(name)) == (product_id, number)
    assert msgspec.convert(name, StockId) == name


def test_the_first_slice_has_the_products_id() -> None:
    assert stock_ids("hot", 3) == ["hot", "hot~1", "hot~2"]
    assert list(others("hot", 3)) == ["hot~1", "hot~2"]
    assert list(others("hot~1", 3)) == ["hot", "hot~2"]
    assert list(others("hot", 1)) == []


@settings(deadline=None)
@given(PRODUCT_IDS, st.integers(1, SLICES_MAX - 1))
def test_no_product_is_named_as_a_slice_of_another(product_id: str, number: int) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(stock_id(product_id, number), Id)


@pytest.mark.parametrize("name", ["", "~1", "a~", "a~0", "a~01", "a~100", "a~1~2", "a~x", "a~1\n", "a" * 65])
def test_what_no_slice_is_named(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, StockId)


@settings(deadline=None)
@given(PRODUCT_IDS, st.integers(1, 4096))
def test_slices_have_partitions_of_their_own_while_there_are_enough(product_id: str, partitions: int) -> None:
    names = stock_ids(product_id, min(partitions, SLICES_MAX))
    places = [partition_of(name, partitions) for name in names]
    assert len(set(places)) == len(names)


@pytest.mark.parametrize("slices", [2, 3, 5, 8])
def test_every_slice_has_its_fair_share_of_buyers(slices: int) -> None:
    shares = Counter(slice_of_buyer(buyer, slices) for buyer in BUYERS)
    fair = len(BUYERS) / slices
    assert set(shares) == set(range(slices))
    assert all(abs(share - fair) < fair / 10 for share in shares.values()), shares


def test_all_buyers_belong_to_the_only_slice() -> None:
    assert {slice_of_buyer(buyer, 1) for buyer in BUYERS} == {0}


def test_a_buyer_belongs_to_the_same_slice_in_every_version() -> None:
    """Edges and writers of two versions work side by side: they must agree."""
    assert [slice_of_buyer(buyer, 16) for buyer in BUYERS[:8]] == [9, 3, 6, 9, 3, 0, 6, 6]
