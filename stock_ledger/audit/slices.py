"""Laws of slices: units that leave one come to another, and all of them have the product's catalogue entry."""

from collections import Counter

from contracts.commands import Command, TakeIn, TakeOver
from contracts.slices import product_of, slice_of, stock_ids
from stock_ledger.audit.book import APPLIED, REFUSED, Book, where
from stock_ledger.audit.command_facts import CommandRow
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law
from stock_ledger.audit.stock import MOVE

UNITS_ON_THEIR_WAY = "units on their way between two slices"


def moves(book: Book) -> Law:
    law = Law(
        "slice-moves",
        "Units that leave a slice come to another one of the product, once: over all slices moves come to nothing",
    )
    asked: dict[str, Command] = {}
    there = {r.command_id: r for r in book.facts.postgres.commands if r.outcome in (APPLIED, REFUSED)}
    for row in book.facts.postgres.commands:
        if row.outcome != APPLIED:
            continue
        told = [c for _, c in row.asked if isinstance(c, TakeOver | TakeIn)]
        if not told and not isinstance(row.command, TakeOver | TakeIn):
            continue
        law.checked += 1
        _judge_balance(book, law, row, told)
        for command in told:
            if command.command_id in asked:
                law.deviate("asked for a second time", product_id=command.product_id, place=where(row))
            asked[command.command_id] = command
    _judge_arrivals(book, law, asked, there)
    _judge_sums(book, law)
    return law


def _judge_balance(book: Book, law: Law, row: CommandRow, told: list[TakeOver | TakeIn]) -> None:
    came = units_of(row.command)
    went = sum(units_of(command) for command in told)
    kept = sum(entry.delta for entry in book.command_entries.get(where(row), ()) if entry.kind == MOVE)
    if came != kept + went:
        law.deviate(
            f"{row.action}: {came} units came with it, {kept} went into stock, {went} were handed on",
            product_id=row.subject,
            place=where(row),
        )


def _judge_arrivals(
    book: Book, law: Law, asked: dict[str, Command], there: dict[str | None, CommandRow]
) -> None:
    for command_id, command in asked.items():
        row = there.get(command_id)
        units = units_of(command)
        if row is None:
            law.skip(units, UNITS_ON_THEIR_WAY)
        elif row.outcome == REFUSED or units_of(row.command) != units or row.subject != command.subject():
            law.deviate(
                f"{units} units were sent to {command.subject()}, {row.outcome} were {units_of(row.command)} "
                f"for {row.subject}",
                product_id=command.subject(),
                place=where(row),
            )
    for row in there.values():
        if row.outcome != APPLIED or not units_of(row.command) or row.command_id in asked:
            continue
        if book.history.floor_ms:
            law.skip(1, DROPPED)
        else:
            law.deviate(
                f"{units_of(row.command)} units came that left no slice",
                product_id=row.subject,
                place=where(row),
            )


def _judge_sums(book: Book, law: Law) -> None:
    sums: Counter[str] = Counter()
    for entry in book.facts.postgres.ledger:
        if entry.kind == MOVE:
            sums[product_of(entry.product_id)] += entry.delta
    dropped = {product_of(stock) for stock in book.history.stock}
    moving = units_on_their_way(book)
    for product_id in sorted(sums.keys() | moving.keys()):
        if product_id in dropped:
            law.skip(1, DROPPED)
            continue
        law.checked += 1
        if sums[product_id] + moving[product_id]:
            law.deviate(
                f"moves between its slices come to {sums[product_id]:+}, {moving[product_id]} are on their way",
                product_id=product_id,
            )


def units_of(command: Command | None) -> int:
    """How many come with it from another slice."""
    return command.units if isinstance(command, TakeOver | TakeIn) else 0


def units_on_their_way(book: Book) -> Counter[str]:
    """By product, what left a slice and has not come to another one yet."""
    units: Counter[str] = Counter()
    for command in book.to_slices:
        if moving := units_of(command):
            units[product_of(command.subject())] += moving
    return units


def entries(book: Book) -> Law:
    law = Law("slice-entries", "All slices of a product are there, with the catalogue entry of the first one")
    rows = {row.product_id: row for row in book.facts.postgres.products}
    told = [c for c in book.to_slices if isinstance(c, TakeOver)]
    moving, handed_on = {c.subject() for c in told}, {product_of(c.subject()) for c in told if c.hand_on}
    for stock in sorted(rows):
        product_id = product_of(stock)
        first = rows.get(product_id)
        if stock != product_id and (first is None or slice_of(stock) >= first.slices):
            law.checked += 1
            law.deviate("a slice that its product does not have", product_id=stock)
        if stock != product_id or first is None or first.slices == 1:
            continue
        law.checked += 1
        for other in stock_ids(product_id, first.slices)[1:]:
            if other in moving or product_id in handed_on:
                law.skip(1, "slices that are being told of a change")
                continue
            row = rows.get(other)
            own = None if row is None else (row.version, row.buyer_limit, row.slices)
            if own != (first.version, first.buyer_limit, first.slices):
                law.deviate(
                    f"(version, limit, slices) is {own}, the first one's "
                    f"{(first.version, first.buyer_limit, first.slices)}",
                    product_id=other,
                )
    return law
