"""The decision on commands: a pure function over a batch and the book loaded for it. No I/O and no clock of its own."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from contracts import commands as c
from contracts.command_parts import OfSlice
from contracts.outcomes import Outcome, Refusal
from contracts.slices import stock_id
from stock_ledger.commands import holds, orders, payments, products, slices
from stock_ledger.commands.book import Book, CommandDecision, Given, Need, Obeyed
from stock_ledger.commands.work import Work

HANDLERS: dict[type[Any], Callable[[Work, Any], Refusal | None]] = {
    c.Cancel: orders.cancel,
    c.Close: orders.close,
    c.Pick: orders.step,
    c.Ship: orders.ship,
    c.Complete: orders.step,
    c.Expire: orders.expire,
    c.Pay: payments.pay,
    c.Restock: products.restock,
    c.Adjust: products.adjust,
    c.SetStock: products.set_stock,
    c.PutProduct: products.put,
    c.PatchProduct: products.patch,
    c.TakeOver: slices.take_over,
    c.OpenSlices: slices.open_slices,
    c.Move: slices.move,
    c.TakeIn: slices.take_in,
    c.HoldAnswer: holds.answered,
    c.Abandon: holds.abandon,
    c.Settle: holds.settle,
}


def obey(batch: Iterable[Given], book: Book, now: datetime, partitions: int, hold_ttl_s: float) -> Obeyed:
    """Decide every command of the batch, in its order; `book` is changed on the way.

    Idempotency first. A handler checks everything before it changes anything: a refusal has no effect but its event.
    """
    work = Work(book, now, partitions, hold_ttl_s)
    decisions: list[CommandDecision] = []
    for given in batch:
        work.begin(given)
        command, reason, first = given.command, None, None
        if command is None:
            outcome = Outcome.DEAD
        elif command.command_id in book.decided:
            outcome, first = Outcome.REPEATED, book.decided[command.command_id]
        else:
            book.decided[command.command_id] = given.offset
            reason = HANDLERS[type(command)](work, command)
            outcome = Outcome.APPLIED if reason is None else Outcome.REFUSED
        decisions.append(
            CommandDecision(
                given.partition, given.offset, outcome, now, command, reason, first, given.error, work.told()
            )
        )
    return work.result(decisions)


def need_of(batch: Sequence[Given]) -> Need:
    """What deciding the batch asks of Postgres. Products of orders and holds come with them."""
    commands, of_orders, of_holds, checkouts, of_products = set(), set(), set(), set(), set()
    for given in batch:
        command = given.command
        if command is None:
            continue
        commands.add(command.command_id)
        if isinstance(command, c.Settle):
            of_holds.add((command.checkout_id, command.product_id))
            of_products.add(command.product_id)
        elif isinstance(command, c.HoldAnswer | c.Abandon):
            checkouts.add(command.checkout_id)
        elif isinstance(command, c.Move):
            of_products |= {command.product_id, command.subject(), stock_id(command.product_id, command.to)}
        elif isinstance(command, OfSlice):
            of_products.add(command.product_id)
        else:
            of_orders.add(command.order_id)
    return Need(sorted(commands), sorted(of_orders), sorted(of_holds), sorted(checkouts), sorted(of_products))
