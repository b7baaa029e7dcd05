"""The view: what Redis shows. It can be dropped at any moment; versions tell when it is not what Postgres holds."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from contracts.slices import slice_of
from stock_ledger.batch import Product, Stock
from stock_ledger.ledger import Entry


class Progress(msgspec.Struct, frozen=True):
    """How far a partition is decided. `beat` changes with every write: a writer that lives keeps it moving."""

    epoch: int
    next_offset: int
    decided_per_s: int
    beat: int

    def text(self) -> str:
        return f"{self.epoch}:{self.next_offset}:{self.decided_per_s}:{self.beat}"

    @classmethod
    def parse(cls, text: str) -> "Progress":
        return cls(*map(int, text.split(":")))


class Shown(msgspec.Struct, frozen=True):
    """What to show of one partition: absolute stock by stock id, catalogue entries where they are to be cached.

    With `whole`, it is all there is of the partition: what the view had before is dropped. Otherwise it is added to
    what is there, and only if that is what its writer believes: `after`, where it is given, is the exact progress
    that the view must have. A view that was flushed, dropped or set back meanwhile is left for a whole one.
    """

    partition: int
    progress: Progress
    stock: Mapping[str, Stock]
    products: Mapping[str, Product]
    whole: bool = False
    after: Progress | None = None

    def slices(self) -> dict[str, int]:
        """How many slices the products have of which the first one is here, where more than one sells."""
        return {
            i: product.slices
            for i, product in self.products.items()
            if product.slices > 1 and product.slices_open and not slice_of(i)
        }


class PartitionView(msgspec.Struct, frozen=True):
    """What the view holds of a partition; entries that are not there are absent."""

    progress: Progress | None
    entries: dict[str, Entry]


class CheckoutView(msgspec.Struct, frozen=True):
    """What the view holds of a checkout: its documents by field, and the progress of partitions that have one."""

    results: dict[str, bytes]
    progress: dict[int, Progress]


class CheckoutsView(msgspec.Struct, frozen=True):
    """The same of several checkouts: documents by field of each, in the order asked for."""

    results: list[dict[str, bytes]]
    progress: dict[int, Progress]


class Gate(msgspec.Struct, frozen=True):
    """What the edge needs of a partition: its progress, the stock ids shown as sold out, and how many slices the product
    has whose first one is here, where more than one sells.
    """

    progress: Progress | None
    sold_out: frozenset[str]
    slices: Mapping[str, int] = {}


class View(Protocol):
    """Every method raises Unavailable when the cache does not answer in time."""

    async def load(self, wanted: Mapping[int, Sequence[str]]) -> dict[int, PartitionView]:
        """Progress, catalogue and stock of the wanted stock ids, by partition.

        An entry that was not shown under the epoch of the progress is left from before and counts as absent.
        """
        ...

    async def show(self, shown: Sequence[Shown], results: Sequence[tuple[str, str, bytes]]) -> None:
        """Write results (checkout_id, field, document) first, then each partition unless the view's is newer.

        Newer is the higher (epoch, next_offset) for progress, the higher (epoch, seq) for stock. A part that is not
        written raises nothing: the progress in the view tells.
        """
        ...

    async def progress(self, partitions: Sequence[int]) -> dict[int, Progress]:
        """Progress of those partitions that have one."""
        ...

    async def checkouts(self, checkout_ids: Sequence[str], partitions: Sequence[int]) -> CheckoutsView:
        """Documents by field (product id, or `conflict_field` of a position), and progress, in one round trip."""
        ...

    async def gates(self, partitions: Sequence[int]) -> dict[int, Gate]:
        """What the edge needs, of each partition."""
        ...

    async def remember_payloads(self, payloads: Sequence[tuple[str, str]]) -> dict[int, str]:
        """For (checkout_id, hash): keep the hash if none is kept.

        Gives the hashes that were there before, each by its place among the payloads. A hash has 32 characters; an
        empty one is not kept: it only asks.
        """
        ...

    async def drop(self) -> None:
        """Make every writer rebuild its partitions' view from Postgres."""
        ...
