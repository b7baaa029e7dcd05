"""Slices of a product: parts of its stock with a writer of their own each. See docs/decisions/0012-stock-slices.md.

A stock id names a slice: slice 0 is the product's id, slice i of it is "product~i".
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated

import msgspec

SLICES_MAX = 64

StockId = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9_-]{1,64}(~[1-9][0-9]?)?\Z",
        description="a product's id; of slices but the first with ~ and the number",
    ),
]
Slices = Annotated[int, msgspec.Meta(ge=1, le=SLICES_MAX)]
SliceNumber = Annotated[int, msgspec.Meta(ge=0, lt=SLICES_MAX)]


def stock_id(product_id: str, slice_number: int) -> str:
    """The stock id of a slice of a product."""
    return f"{product_id}~{slice_number}" if slice_number else product_id


def product_of(stock_id: str) -> str:
    """The product that the slice is of."""
    return stock_id.partition("~")[0]


def slice_of(stock_id: str) -> int:
    """The number of the slice, from 0."""
    return int(stock_id.partition("~")[2] or 0)


def stock_ids(product_id: str, slices: int) -> list[str]:
    """Those of all slices of a product, in their order."""
    return [stock_id(product_id, number) for number in range(slices)]


def others(stock: str, slices: int) -> Iterable[str]:
    """The stock ids of the other slices of the same product."""
    return (other for other in stock_ids(product_of(stock), slices) if other != stock)


def slice_of_buyer(buyer_id: str, slices: int) -> int:
    """The slice that a buyer belongs to."""
    return int.from_bytes(blake2b(buyer_id.encode(), digest_size=8).digest()) % slices
