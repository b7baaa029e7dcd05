"""Catalogue and stock: products put and changed, units added, corrected, counted anew."""

from decimal import Decimal
from typing import Any

import msgspec

from contracts.commands import Adjust, PatchProduct, PutProduct, Restock, SetStock, ends_before_it_begins
from contracts.outcomes import Refusal
from stock_ledger.batch import Product
from stock_ledger.commands.slices import keep, tell_others
from stock_ledger.commands.work import Work

_AMOUNTS = ("price", "sale_price")
_WINDOW = {"sale_from", "sale_to"}


def restock(work: Work, command: Restock) -> Refusal | None:
    if command.product_id not in work.book.products:
        return Refusal.UNKNOWN_PRODUCT
    work.change_stock(command.product_id, "restock", command.units, command.why)
    product = work.book.products[command.product_id]
    share = command.units // product.slices
    if share and product.slices_open:
        tell_others(work, product, share, command.why)
    return None


def adjust(work: Work, command: Adjust) -> Refusal | None:
    if command.product_id not in work.book.products:
        return Refusal.UNKNOWN_PRODUCT
    if work.book.stock[command.product_id].available + command.units < 0:
        return Refusal.BELOW_COMMITTED
    work.change_stock(command.product_id, "adjust", command.units, command.why)
    return None


def set_stock(work: Work, command: SetStock) -> Refusal | None:
    if command.product_id not in work.book.products:
        return Refusal.UNKNOWN_PRODUCT
    if work.book.products[command.product_id].slices > 1:
        return Refusal.SLICES_NOT_ALLOWED
    there = work.book.counts[command.product_id].committed()
    if command.total < there:
        return Refusal.BELOW_COMMITTED
    work.change_stock(
        command.product_id, "set_stock",
        command.total - there - work.book.stock[command.product_id].available, command.why,
    )  # fmt: skip
    return None


def put(work: Work, command: PutProduct) -> Refusal | None:
    before = work.book.products.get(command.product_id)
    product = Product(
        product_id=command.product_id,
        name=command.name,
        cover=command.cover,
        price=Decimal(command.price),
        currency=command.currency,
        on_shelf=command.on_shelf,
        buyer_limit=command.buyer_limit,
        payment_ttl_s=command.payment_ttl_s,
        version=1 if before is None else before.version + 1,
        sale_price=None if command.sale_price is None else Decimal(command.sale_price),
        sale_from=command.sale_from,
        sale_to=command.sale_to,
        stock_source=command.stock_source,
        slices=command.slices or (1 if before is None else before.slices),
        slices_open=before is None or before.slices_open,
    )
    if not _may_have(work, before, product):
        return Refusal.SLICES_NOT_ALLOWED
    if before is None:
        work.open_stock(command.product_id, command.stock)
    _put(work, before, product)
    return None


def patch(work: Work, command: PatchProduct) -> Refusal | None:
    before = work.book.products.get(command.product_id)
    if before is None:
        return Refusal.UNKNOWN_PRODUCT
    given: dict[str, Any] = {}
    for name in Product.__struct_fields__:
        value = getattr(command, name, msgspec.UNSET)
        if name != "product_id" and value is not msgspec.UNSET:
            given[name] = Decimal(value) if name in _AMOUNTS and value is not None else value
    product = msgspec.structs.replace(before, **given, version=before.version + 1)
    if _WINDOW & given.keys() and ends_before_it_begins(product.sale_from, product.sale_to):
        return Refusal.WINDOW_NOT_ALLOWED
    if not _may_have(work, before, product):
        return Refusal.SLICES_NOT_ALLOWED
    _put(work, before, product)
    return None


def _may_have(work: Work, before: Product | None, after: Product) -> bool:
    """Whether the product may have so many slices: it is split once, each in a partition of its own."""
    there = 1 if before is None else before.slices
    if after.slices != there and (there > 1 or after.slices > work.partitions):
        return False
    return after.slices == 1 or after.stock_source is None


def _put(work: Work, before: Product | None, product: Product) -> None:
    """Keep the product, and tell it. While it is being split, slice 0 sells alone what there is."""
    if product.slices > (1 if before is None else before.slices):
        product = msgspec.structs.replace(product, slices_open=False)
    keep(work, product)
    tell_others(work, product)
