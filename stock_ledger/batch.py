"""A batch of checkout lines: what is received, what is loaded to decide it, and what it comes to. No I/O."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

import msgspec

from contracts.decisions import Decision
from contracts.messages import CheckoutLine, Shipping, WhenSourceIsDown
from contracts.outcomes import FIRST, Kind
from contracts.slices import product_of


class Received(msgspec.Struct, frozen=True):
    """A message at its place in the log: a decoded line, or the error that made it a dead letter."""

    partition: int
    offset: int
    line: CheckoutLine | None
    error: str = ""


class Product(msgspec.Struct, frozen=True):
    """A catalogue entry. `buyer_limit` is units per buyer over all orders; None is no limit.

    `sale_price`, where there is one, is what it sells for. It sells from `sale_from` on and before `sale_to`, where
    they are given. With `stock_source` a second system has to agree, and this is the policy for when it is down. A slice
    but the first has an entry of its own, whose `product_id` is its stock id.
    """

    product_id: str
    name: str
    cover: str
    price: Decimal
    currency: str
    on_shelf: bool
    buyer_limit: int | None
    payment_ttl_s: int
    version: int
    sale_price: Decimal | None = None
    sale_from: datetime | None = None
    sale_to: datetime | None = None
    stock_source: WhenSourceIsDown | None = None
    slices: int = 1
    slices_open: bool = True  # not so while a product that is being split sells by its first slice alone

    def sells_for(self) -> Decimal:
        return self.price if self.sale_price is None else self.sale_price

    def sells_at(self, now: datetime) -> bool:
        return (self.sale_from is None or self.sale_from <= now) and (
            self.sale_to is None or now < self.sale_to
        )


class Stock(msgspec.Struct, frozen=True):
    """Units available, and the sequence number of the ledger entry that made it so."""

    available: int
    seq: int


class Loaded(msgspec.Struct):
    """All that deciding a batch needs, `products` and `stock` by stock id. What is absent does not exist.

    `decided` maps (checkout_id, stock id) to the offset of its decision, `forwarded` to where it was sent on, `hashes` to
    the payload hash of what was decided or sent on. Of products with a second stock source, `granted` is how many units may
    be sold, and `down` are those that are refused because it does not answer; of those in `half_asked` it was asked for less
    than the batch wants, and has granted all of it. Where slices may not have enough, `elsewhere`
    is what the others have, as far as is known.
    """

    products: dict[str, Product]
    stock: dict[str, Stock]
    bought: dict[tuple[str, str], int]  # (product_id, buyer_id) -> units
    addresses: dict[tuple[str, str], Shipping]  # (buyer_id, address_id)
    decided: dict[tuple[str, str], int]
    hashes: dict[tuple[str, str], str]
    forwarded: dict[tuple[str, str], int] = {}
    granted: dict[str, int] = {}
    down: frozenset[str] = frozenset()
    half_asked: frozenset[str] = frozenset()
    elsewhere: dict[str, int] = {}

    def payloads(self) -> dict[str, str]:
        """A payload hash of each checkout that has one, for lines of it of which none is known. Where several payloads
        raced over partitions, it is any of theirs.
        """
        return {checkout_id: payload_hash for (checkout_id, _), payload_hash in self.hashes.items()}

    def sold_meanwhile(
        self, sums: Mapping[tuple[str, str], int], decided: "Decided"
    ) -> list[tuple[str, str]]:
        """Who has more of a product with slices than was loaded and `decided` adds, given what they have then."""
        sliced = {product_of(product.product_id) for product in self.products.values() if product.slices > 1}
        return [
            pair
            for pair, units in decided.bought.items()
            if pair[0] in sliced and sums[pair] > self.bought.get(pair, 0) + units
        ]

    def after(self, before: "Decided") -> "Loaded":
        """As it is once `before` is persisted, whether it was loaded before that or since; but for `bought`, of which
        that cannot be told.
        """
        decided, forwarded, hashes = dict(self.decided), dict(self.forwarded), dict(self.hashes)
        for d in before.decisions:
            if d.checkout_id is None:
                continue
            if d.kind in FIRST:
                decided[d.checkout_id, d.stock_id] = d.offset
            elif d.kind is Kind.FORWARDED:
                forwarded[d.checkout_id, d.stock_id] = d.offset
            else:
                continue
            hashes[d.checkout_id, d.stock_id] = d.payload_hash
        stock = self.stock | {i: s for i, s in before.stock.items() if i in self.stock}
        return msgspec.structs.replace(self, stock=stock, decided=decided, forwarded=forwarded, hashes=hashes)


# Of what is open with a second stock source; see `upstream.source.rows_of`.
OpenRow = tuple[str, str, str, int, int]


class Decided(msgspec.Struct, frozen=True):
    """One decision per message, in order; what changed, by stock id; units bought by limited buyers."""

    decisions: list[Decision]
    stock: dict[str, Stock]
    bought: dict[tuple[str, str], int]  # units this batch adds
    held: dict[str, int]  # units of each stock id that this batch holds; the rest of what it takes is ordered
    from_carts: list[tuple[str, str]] = []  # (buyer_id, product_id) bought from a cart
    left_open: list[OpenRow] | None = None  # with the second stock source, if that was to be asked
