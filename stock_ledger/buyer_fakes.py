"""The address book and carts in memory, for tests and trials: same rules as the real ones, no clock, no random."""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from contracts.errors import Unavailable
from contracts.messages import Shipping
from contracts.slices import stock_ids
from stock_ledger.addresses import Address, StoredAddress, default_first
from stock_ledger.batch import Product, Stock
from stock_ledger.carts import CartLine, CartRefusal, StoredLine


class _Entry(msgspec.Struct, frozen=True):
    shipping: Shipping
    default_rank: int
    added_at: datetime


class MemoryAddressBook:
    """See `stock_ledger.addresses.AddressBook`. With `available` False every call raises Unavailable."""

    def __init__(self) -> None:
        self.available = True
        self._books: dict[str, dict[str, _Entry]] = {}  # buyer -> address id

    async def addresses(self, buyer_id: str) -> list[Address]:
        self._answer()
        book = self._books.get(buyer_id, {})
        ordered = sorted(book.items(), key=lambda e: (-e[1].default_rank, e[1].added_at, e[0]))
        return default_first((address_id, entry.shipping) for address_id, entry in ordered)

    async def put(
        self,
        buyer_id: str,
        address_id: str,
        shipping: Shipping,
        now: datetime,
        *,
        as_default: bool,
        addresses_max: int,
    ) -> StoredAddress | None:
        self._answer()
        book = self._books.setdefault(buyer_id, {})
        before = book.get(address_id)
        if before is None and len(book) >= addresses_max:
            return None
        rank = 0 if before is None else before.default_rank
        if as_default or not book:
            rank = max((entry.default_rank for entry in book.values()), default=0) + 1
        book[address_id] = _Entry(shipping, rank, now if before is None else before.added_at)
        stored = next(a for a in await self.addresses(buyer_id) if a.address_id == address_id)
        return StoredAddress(stored, is_new=before is None)

    async def remove(self, buyer_id: str, address_id: str) -> bool:
        self._answer()
        return self._books.get(buyer_id, {}).pop(address_id, None) is not None

    def _answer(self) -> None:
        if not self.available:
            raise Unavailable("the address book is away")


class _Line(msgspec.Struct, frozen=True):
    quantity: int
    added_at: datetime
    updated_at: datetime


class MemoryCarts:
    """See `stock_ledger.carts.Carts`. With `available` False every call raises Unavailable."""

    def __init__(self) -> None:
        self.available = True
        self.catalogue: dict[str, tuple[Product, Stock]] = {}
        self._carts: dict[str, dict[str, _Line]] = {}  # buyer -> product

    async def lines(self, buyer_id: str) -> list[CartLine]:
        self._answer()
        cart = sorted(self._carts.get(buyer_id, {}))
        by_age = sorted(cart, key=lambda i: self._carts[buyer_id][i].added_at, reverse=True)
        return [self._shown(buyer_id, product_id) for product_id in by_age]

    async def put(
        self, buyer_id: str, product_id: str, quantity: int, now: datetime, *, lines_max: int
    ) -> StoredLine | CartRefusal:
        self._answer()
        cart = self._carts.setdefault(buyer_id, {})
        before = cart.get(product_id)
        if before is None:
            if product_id not in self.catalogue or not self.catalogue[product_id][0].on_shelf:
                return CartRefusal.UNKNOWN_PRODUCT
            if len(cart) >= lines_max:
                return CartRefusal.FULL
        cart[product_id] = _Line(quantity, now if before is None else before.added_at, now)
        return StoredLine(self._shown(buyer_id, product_id), is_new=before is None)

    async def remove(self, buyer_id: str, product_id: str) -> bool:
        self._answer()
        return self._carts.get(buyer_id, {}).pop(product_id, None) is not None

    async def clear(self, buyer_id: str) -> None:
        self._answer()
        self._carts.pop(buyer_id, None)

    def take_out(self, bought: Iterable[tuple[str, str]]) -> None:
        """What a ledger does with (buyer, product) that were bought from a cart."""
        for buyer_id, product_id in bought:
            self._carts.get(buyer_id, {}).pop(product_id, None)

    def _shown(self, buyer_id: str, product_id: str) -> CartLine:
        line, (product, _) = self._carts[buyer_id][product_id], self.catalogue[product_id]
        slices = [i for i in stock_ids(product_id, product.slices) if i in self.catalogue]
        return CartLine(
            product_id=product_id,
            quantity=line.quantity,
            name=product.name,
            cover=product.cover,
            price=product.sells_for(),
            currency=product.currency,
            on_shelf=product.on_shelf,
            sale_from=product.sale_from,
            sale_to=product.sale_to,
            available=sum(self.catalogue[i][1].available for i in slices),
            added_at=line.added_at,
            updated_at=line.updated_at,
        )

    def _answer(self) -> None:
        if not self.available:
            raise Unavailable("the carts are away")
