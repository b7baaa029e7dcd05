"""The ledger as writers see it: what to load, what to persist, who owns a partition. Postgres is its real adapter."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from contracts.decisions import Decision
from contracts.topics import Stream
from stock_ledger.batch import Decided, Loaded, Product, Received, Stock
from stock_ledger.upstream.source import Intended, Reserve

Entry = tuple[Product, Stock]


class Claim(msgspec.Struct, frozen=True):
    """Ownership of a partition: the epoch that fences, and the next offsets to decide, of checkouts and of commands."""

    epoch: int
    next_offset: int
    next_command: int = 0

    def next_of(self, stream: Stream) -> int:
        return self.next_command if stream is Stream.COMMANDS else self.next_offset

    def advanced(self, stream: Stream, to: int) -> "Claim":
        """The claim after deciding up to `to`."""
        if stream is Stream.COMMANDS:
            return Claim(self.epoch, self.next_offset, to)
        return Claim(self.epoch, to, self.next_command)


class Advance(msgspec.Struct, frozen=True):
    """A step of one partition in one stream: from the claim's next offset to `next_offset`, under its epoch."""

    partition: int
    claim: Claim
    next_offset: int


def advanced(advances: Iterable[Advance], stream: Stream) -> dict[int, Claim]:
    """The claims after these steps, by partition."""
    return {a.partition: a.claim.advanced(stream, a.next_offset) for a in advances}


class Need(msgspec.Struct, frozen=True):
    """What a batch asks Postgres for: the idempotency of its checkouts, and what only Postgres knows."""

    checkouts: list[str]
    limited: list[tuple[str, str]]  # (product_id, buyer_id)
    addresses: list[tuple[str, str]]  # (buyer_id, address_id)
    sliced: list[str] = []  # of the checkouts, those of products with slices: they may have been forwarded


def need_of(batch: Sequence[Received], products: dict[str, Product]) -> Need:
    """What deciding `batch` asks of Postgres, given the catalogue entries already loaded."""
    checkouts, limited, addresses, sliced = set(), set(), set(), set()
    for message in batch:
        line = message.line
        if line is None:
            continue
        checkouts.add(line.checkout_id)
        if line.address_id is not None:
            addresses.add((line.buyer_id, line.address_id))
        product = products.get(line.stock_id)
        if product is None:
            continue
        if product.buyer_limit is not None:
            limited.add((line.product_id, line.buyer_id))
        if product.slices > 1:
            sliced.add(line.checkout_id)
    return Need(sorted(checkouts), sorted(limited), sorted(addresses), sorted(sliced))


class Ledger(Protocol):
    """Every method raises Unavailable when the server does not answer; persist's effect is then unknown."""

    async def claim(self, partitions: Sequence[int], owner: str, now: datetime) -> dict[int, Claim]:
        """Become the writer of `partitions`: every earlier claim on them is void from now on."""
        ...

    async def state(self, partitions: Sequence[int]) -> dict[int, Claim]:
        """Epoch and next offset as they are, by partition; one never claimed is absent."""
        ...

    async def products(self, product_ids: Sequence[str]) -> dict[str, Entry]:
        """Catalogue and stock of those of the products, or slices of them, that exist, by stock id."""
        ...

    async def partition_products(self, partition: int) -> dict[str, Entry]:
        """Catalogue and stock of all products and slices of a partition, by stock id."""
        ...

    async def load(self, need: Need, entries: dict[str, Entry]) -> Loaded:
        """All that deciding needs, given catalogue and stock."""
        ...

    async def intend(self, advances: Sequence[Advance], requests: Sequence[Reserve]) -> Intended:
        """Remember what a batch will ask the second stock source for, before it is asked: a batch that is decided again
        asks for the same, and nothing that was granted is forgotten.

        Of products that an earlier try of the batch has remembered, that stays. Raises FenceLost as `persist` does.
        """
        ...

    async def persist(self, advances: Sequence[Advance], decided: Decided, loaded: Loaded) -> None:
        """All of a batch, or nothing.

        Raises FenceLost if a partition is no longer ours or not at its claim's next offset, StaleView if stock, price or
        idempotency is not what was loaded, SoldMeanwhile if what buyers have of a product with slices is not; in all of
        these cases nothing was written. Raises Unavailable if the connection broke: whether it was written is then for
        `state` to say.
        """
        ...

    async def decisions(self, partition: int, start: int, end: int) -> list[Decision]:
        """The decisions of offsets start ≤ offset < end, in order."""
        ...
