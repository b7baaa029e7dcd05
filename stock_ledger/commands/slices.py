"""Slices of a product: the entry and the units that slice 0 tells the others of, and units moved between two of them.

Every message to another slice has an id that follows from what it is a consequence of: told again, it has no second effect.
"""

import uuid
from decimal import Decimal
from typing import Any

import msgspec

from contracts.commands import Move, OpenSlices, TakeIn, TakeOver
from contracts.outcomes import Refusal
from contracts.slices import others, product_of, slice_of, stock_id
from contracts.times import to_ms
from stock_ledger.batch import Product
from stock_ledger.commands.work import Work

_CONSEQUENCES = uuid.UUID("b1f6a0de-3c47-5d0c-9c1e-7f4a2d8e6b35")
# Of a product with slices there is no second stock source.
_KEPT = ("product_id", "stock_source", "slices_open")
_TOLD = tuple(name for name in Product.__struct_fields__ if name not in _KEPT)


def keep(work: Work, product: Product) -> None:
    """Have the product so from here on, and tell it."""
    work.put_product(product)
    data = msgspec.structs.asdict(product)
    if product.slices == 1:
        del data["slices"], data["slices_open"]
    work.event("product.changed", product.product_id, data)


def tell_others(work: Work, product: Product, units: int = 0, why: str = "") -> None:
    """Have the other slices, if there are any, take over the entry. `units` for each of them leave slice 0.

    Until slices are open only the next one is told, which hands it on: so when the last one has it, all have.
    """
    if product.slices == 1:
        return
    stocks = list(others(product.product_id, product.slices))
    if units:
        work.change_stock(product.product_id, "move", -units * len(stocks), why)
    entry: dict[str, Any] = {name: getattr(product, name) for name in _TOLD}
    entry["price"] = f"{product.price:f}"
    entry["sale_price"] = None if product.sale_price is None else f"{product.sale_price:f}"
    hand_on = not product.slices_open
    for stock in stocks[:1] if hand_on else stocks:
        work.ask(TakeOver(**_consequence(work, stock), **entry, units=units, hand_on=hand_on))


def take_over(work: Work, command: TakeOver) -> None:
    """An entry that is not newer is handed on just the same, and units that come with it count. When the last slice is
    there, the first one is told.
    """
    own = command.product_id
    before = work.book.products.get(own)
    if before is None or before.version < command.version:
        work.put_product(_entry_of(command))
    if before is None:
        work.open_stock(own, 0)
    if command.units:
        work.change_stock(own, "move", command.units, "")
    if not command.hand_on:
        return
    if slice_of(own) + 1 < command.slices:
        following = stock_id(product_of(own), slice_of(own) + 1)
        work.ask(msgspec.structs.replace(command, **_consequence(work, following)))
    elif before is None:
        work.ask(OpenSlices(**_consequence(work, product_of(own))))


def open_slices(work: Work, command: OpenSlices) -> Refusal | None:
    """Each slice gets an equal part of what the first one has; what cannot be divided stays there."""
    product = work.book.products.get(command.product_id)
    if product is None:
        return Refusal.UNKNOWN_PRODUCT
    if product.slices == 1:
        return Refusal.SLICES_NOT_ALLOWED
    if not product.slices_open:
        product = msgspec.structs.replace(product, slices_open=True, version=product.version + 1)
        keep(work, product)
        share = work.book.stock[command.product_id].available // product.slices
        tell_others(work, product, share)
    return None


def move(work: Work, command: Move) -> Refusal | None:
    if command.product_id not in work.book.products:
        return Refusal.UNKNOWN_PRODUCT
    giver, taker = (stock_id(command.product_id, number) for number in (command.slice, command.to))
    is_open = {giver, taker} <= work.book.products.keys() and work.book.products[giver].slices_open
    if giver == taker or not is_open:
        return Refusal.SLICES_NOT_ALLOWED
    if work.book.stock[giver].available < command.units:
        return Refusal.BELOW_COMMITTED
    work.change_stock(giver, "move", -command.units, command.why)
    work.ask(TakeIn(**_consequence(work, taker), units=command.units, why=command.why))
    return None


def take_in(work: Work, command: TakeIn) -> Refusal | None:
    if command.product_id not in work.book.products:
        return Refusal.UNKNOWN_PRODUCT
    work.change_stock(command.product_id, "move", command.units, command.why)
    return None


def _consequence(work: Work, stock: str) -> dict[str, Any]:
    """What all commands have, of one to this slice that the command being decided brings about."""
    cause = work.given.command
    if cause is None:
        raise AssertionError("a dead letter brings about nothing")
    return {
        "command_id": str(uuid.uuid5(_CONSEQUENCES, f"{cause.command_id} {stock}")),
        "actor": "sluiceway",
        "asked_at_ms": to_ms(work.now),
        "product_id": stock,
    }


def _entry_of(command: TakeOver) -> Product:
    entry: dict[str, Any] = {name: getattr(command, name) for name in _TOLD}
    entry["price"] = Decimal(command.price)
    entry["sale_price"] = None if command.sale_price is None else Decimal(command.sale_price)
    return Product(product_id=command.product_id, **entry)
