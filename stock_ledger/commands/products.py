"""Catalogue and stock: products put and changed, units added, corrected, counted anew."""

from decimal import Decimal
from typing import Any

import msgspec

from contracts.commands import Adjust, PatchProduct, PutProduct, Restock, SetStock
from contracts.outcomes import Refusal
from stock_ledger.commands.work import Work
from stock_ledger.decide import Product

_AMOUNTS = ("price", "sale_price")


def restock(work: Work, command: Restock) -> Refusal | None:
    if command.product_id not in work.book.products:
        return Refusal.UNKNOWN_PRODUCT
    _change(work, command.product_id, "restock", command.units, command.why)
    return None


def adjust(work: Work, command: Adjust) -> Refusal | None:
    if command.product_id not in work.book.products:
        return Refusal.UNKNOWN_PRODUCT
    if work.book.stock[command.product_id].available + command.units < 0:
        return Refusal.BELOW_COMMITTED
    _change(work, command.product_id, "adjust", command.units, command.why)
    return None


def set_stock(work: Work, command: SetStock) -> Refusal | None:
    if command.product_id not in work.book.products:
        return Refusal.UNKNOWN_PRODUCT
    there = work.book.counts[command.product_id].committed()
    if command.total < there:
        return Refusal.BELOW_COMMITTED
    _change(
        work, command.product_id, "set_stock",
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
    )
    work.put_product(product)
    if before is None:
        work.open_stock(command.product_id, command.stock)
    _tell(work, product)
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
    work.put_product(product)
    _tell(work, product)
    return None


def _change(work: Work, product_id: str, kind: str, units: int, why: str) -> None:
    work.move(product_id, kind, available=units)
    counts = work.book.counts[product_id]
    command = work.given.command
    work.event(
        "stock.changed",
        product_id,
        {
            "product_id": product_id,
            "kind": kind,
            "units": units,
            "why": why,
            "actor": "" if command is None else command.actor,
            "available": work.book.stock[product_id].available,
            **msgspec.structs.asdict(counts),
        },
    )


def _tell(work: Work, product: Product) -> None:
    work.event("product.changed", product.product_id, msgspec.structs.asdict(product))
