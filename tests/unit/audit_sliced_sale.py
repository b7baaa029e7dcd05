"""A sale of products with slices as facts of an audit: one that is split while it sells, one that has two from the start."""

import asyncio
from copy import deepcopy
from functools import cache

import msgspec

from contracts import commands as c
from contracts.slices import slice_of_buyer, stock_id
from stock_ledger.audit.facts import Facts
from tests.harness import line_of, product_in
from tests.unit.audit_commands_sale import B, CommandedSale

PARTITIONS = 4
HOT, FEW = product_in(0, PARTITIONS, 1), product_in(1, PARTITIONS, 2)


def hot(number: int) -> str:
    """The stock id of a slice."""
    return stock_id(HOT, number)


def buyer(number: int, nth: int = 0) -> str:
    """The nth buyer who belongs to slice `number` of three, and to the first one of two."""
    names = (f"b{n}" for n in range(1000))
    fitting = (
        n for n in names if slice_of_buyer(n, 3) == number and (number != 0 or not slice_of_buyer(n, 2))
    )
    return [next(fitting) for _ in range(nth + 1)][-1]


async def _sell() -> CommandedSale:
    sale = CommandedSale(PARTITIONS)
    sale.ask(c.PutProduct, product_id=HOT, name="H", price="5", currency="CNY", stock=9)
    sale.ask(
        c.PutProduct, product_id=FEW, name="F", price="5", currency="CNY", stock=2, buyer_limit=2, slices=2
    )
    await sale.decide()
    sale.buy("before", HOT, buyer_id=buyer(1))
    await sale.decide()
    sale.ask(c.PatchProduct, product_id=HOT, slices=3)
    await sale.decide()  # 4, 2 and 2 units
    sale.buy(
        "before", HOT, buyer_id=buyer(1), slice=1
    )  # a copy: forwarded to where it is decided, a repeat there
    sale.buy(
        "passed on", HOT, buyer_id=buyer(2)
    )  # from slice 0, where who did not know of the others sent it
    sale.buy("both", HOT, 2, buyer_id=buyer(1, 1), slice=1)
    await sale.decide()  # 4, 0, 1
    elsewhere = line_of("elsewhere", HOT, buyer_id=buyer(1, 2), slice=1)
    for line in (elsewhere, elsewhere, msgspec.structs.replace(elsewhere, payload_hash="f" * 32)):
        sale.send(line)  # forwarded to slice 0, a repeat of that, and a conflict with it
    sale.send(
        line_of("whole", HOT, 2, buyer_id=buyer(1, 3), slice=1, line=0, lines=2, policy="all_or_nothing")
    )
    sale.send(line_of("whole", B, buyer_id=buyer(1, 3), line=1, lines=2, policy="all_or_nothing"))
    await sale.decide()  # 1, 0, 1
    sale.ask(c.Restock, product_id=HOT, units=7)  # 3 and 2 each
    await sale.decide()  # 4, 2, 3
    sale.ask(c.Move, product_id=HOT, slice=2, to=1, units=2)
    sale.ask(c.Move, product_id=HOT, slice=2, to=1, units=9)  # refused
    sale.ask(c.Adjust, product_id=HOT, units=-4, why="broken")
    await sale.decide()  # 0, 4, 1
    sale.buy("all", HOT, 4, buyer_id=buyer(0))
    sale.buy("last", HOT, buyer_id=buyer(0, 1))
    await sale.decide()
    sale.buy("late", HOT, buyer_id=buyer(0, 2))
    sale.buy("passed on late", HOT, buyer_id=buyer(2, 1))
    for n in range(3):
        sale.buy(f"few {n}", FEW, buyer_id=buyer(0))
        await sale.decide()
    sale.pay("both")
    sale.ask(c.Cancel, order_id=sale.order_of("elsewhere"), buyer_id=buyer(1, 2))
    await sale.decide()
    return sale


@cache
def _facts() -> Facts:
    return asyncio.run(_sell()).facts()


def sliced() -> Facts:
    """Lines passed on, forwarded, repeated where they were, and in conflict; units handed on, restocked and moved."""
    return deepcopy(_facts())
