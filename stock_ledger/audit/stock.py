"""Laws of stock: the ledger adds up, and nothing is sold twice."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from contracts.topics import partition_of
from stock_ledger.audit.book import TAKEN_BY_LINES, TAKING, Book, grouped
from stock_ledger.audit.facts import LedgerRow
from stock_ledger.audit.report import Law

INITIAL, MOVE = "initial", "move"
OPENING = "opening"  # stands for all entries that were dropped
GIVEN = (
    INITIAL,
    "restock",
    "adjust",
    "set_stock",
    MOVE,
)  # kinds that change how many units a slice has at all
_UP, _DOWN, _NEITHER, _BOTH = (0, 1), (-1, 0), (0, 0), (-1, 1)
# Which way an entry of a kind may move what is available. An entry of a kind that is not here deviates.
DIRECTIONS = {
    INITIAL: _UP, "order": _DOWN, "hold": _DOWN, "confirm": _NEITHER, "release": _UP, "paid": _NEITHER, "cancel": _UP,
    "close": _UP, "expire": _UP, "late_payment": _DOWN, "restock": _UP, "adjust": _BOTH, "set_stock": _BOTH, MOVE: _BOTH,
}  # fmt: skip

Ledgers = dict[str, list[LedgerRow]]  # by product, by seq


def ledgers(book: Book) -> Ledgers:
    """What was dropped is one entry, the first of its product; what lies around the cut is a part of that."""
    stock = book.history.stock
    if not stock:
        return grouped((row.product_id, row) for row in book.facts.postgres.ledger)
    opened = [
        LedgerRow(h.product_id, h.last_seq, 0, h.available, OPENING, None, None, None) for h in stock.values()
    ]
    rows = [r for r in book.facts.postgres.ledger if r.seq > book.history.of_stock(r.product_id).last_seq]
    return grouped((row.product_id, row) for row in (*opened, *rows) if row.seq)


def given(book: Book) -> dict[str, int]:
    """Units by product that there ever were."""
    units = {product_id: h.given for product_id, h in book.history.stock.items()}
    for row in book.facts.postgres.ledger:
        if row.kind in GIVEN:
            units[row.product_id] = units.get(row.product_id, 0) + row.delta
    return units


def sequence(book: Book) -> Law:
    law = Law(
        "ledger-sequence", "A product's ledger counts from 1 without gaps and begins with its initial stock"
    )
    _around_the_cut(book, law)
    for product_id, rows in ledgers(book).items():
        law.checked += len(rows)
        for expected, row in enumerate(rows, rows[0].seq if rows[0].kind == OPENING else 1):
            if row.seq != expected:
                law.deviate(f"entry {row.seq} comes where {expected} is expected", product_id=product_id)
                break
        for row in rows:
            if row.kind == OPENING:
                continue
            if (row.kind == INITIAL) != (row.seq == 1):
                law.deviate(f"entry {row.seq} is of kind {row.kind}", product_id=product_id)
            elif not _moves_its_way(row):
                law.deviate(f"entry {row.seq} is {row.delta} of kind {row.kind}", product_id=product_id)
    return law


def _around_the_cut(book: Book, law: Law) -> None:
    """Entries that were dropped and those that lie among them, of another clock, are all up to the last one dropped."""
    stock = book.history.stock
    among = Counter(
        row.product_id
        for row in (book.facts.postgres.ledger if stock else ())
        if row.seq <= book.history.of_stock(row.product_id).last_seq
    )
    for product_id, history in stock.items():
        if history.entries + among[product_id] != history.last_seq:
            law.deviate(
                f"{history.entries} entries were dropped up to entry {history.last_seq}, "
                f"{among[product_id]} of these are still there",
                product_id=product_id,
            )


def _moves_its_way(row: LedgerRow) -> bool:
    least, most = DIRECTIONS.get(row.kind, (1, 0))  # nothing lies between these
    return least <= max(-1, min(row.delta, 1)) <= most


def running(book: Book) -> Law:
    law = Law(
        "ledger-running", "Stock after an entry is stock before plus its change, never negative, in log order"
    )
    for product_id, rows in ledgers(book).items():
        available, reached = 0, {True: -1, False: -1}  # of lines and of commands
        home = partition_of(product_id, book.facts.partitions)
        for row in rows:
            if row.kind == OPENING:
                available = row.available
                continue
            law.checked += 1
            wrong = []
            if row.available != available + row.delta:
                wrong.append(f"{available} {row.delta:+} is not {row.available}")
            if row.available < 0:
                wrong.append(f"it leaves {row.available}")
            if row.partition is not None and row.offset is not None:
                of_line = row.kind in TAKEN_BY_LINES
                follows = row.kind == MOVE  # what the same command gave
                if row.offset + follows <= reached[of_line]:
                    wrong.append(f"it is of offset {row.offset}, an earlier one of {reached[of_line]}")
                if row.partition != home:
                    wrong.append(f"it is of partition {row.partition}, the product's is {home}")
                reached[of_line] = row.offset
            for what in wrong:
                place = None if row.partition is None else (row.partition, row.offset)
                law.deviate(f"entry {row.seq}: {what}", product_id=product_id, place=place)
            available = row.available
    return law


def sold(book: Book) -> dict[str, int]:
    """Units by product that lines took, of orders or holds, and that were not given back."""
    units = {product_id: h.taken - h.returned for product_id, h in book.history.stock.items()}
    for row in book.facts.postgres.decisions:
        if row.kind in TAKING:
            units[row.product_id] = units.get(row.product_id, 0) + row.quantity
    for entries in book.command_entries.values():
        for entry in entries:
            if entry.kind not in GIVEN:
                units[entry.product_id] = units.get(entry.product_id, 0) - entry.delta
    return units


def conservation(book: Book) -> Law:
    law = Law(
        "conservation",
        "All units given = available + held + pending + paid, in the ledger and in the stock totals",
    )
    units, by_product, ever = sold(book), ledgers(book), given(book)
    stock = {row.product_id: row for row in book.facts.postgres.stock}
    known = {row.product_id for row in book.facts.postgres.products}
    for product_id in sorted(by_product.keys() | stock.keys() | units.keys() | known):
        law.checked += 1
        rows, total = by_product.get(product_id, []), stock.get(product_id)
        if not rows or total is None:
            missing = "no ledger" if not rows else "no stock total"
            law.deviate(f"{missing}, {units.get(product_id, 0)} sold", product_id=product_id)
            continue
        there_were = ever.get(product_id, 0)
        left = there_were - units.get(product_id, 0)
        if not left == rows[-1].available == total.available:
            law.deviate(
                f"given {there_were} - sold {units.get(product_id, 0)} = {left}, "
                f"the ledger says {rows[-1].available}, the total {total.available}",
                product_id=product_id,
            )
        elif there_were != total.available + total.held + total.pending + total.paid:
            law.deviate(
                f"given {there_were}, but {total.available} available + {total.held} held + {total.pending} pending "
                f"+ {total.paid} paid",
                product_id=product_id,
            )
        if total.seq != rows[-1].seq:
            law.deviate(
                f"the total is of entry {total.seq}, the last is {rows[-1].seq}", product_id=product_id
            )
        if total.partition != partition_of(product_id, book.facts.partitions):
            law.deviate(f"its stock lies in partition {total.partition}", product_id=product_id)
    return law


def oversold_units(book: Book) -> dict[str, int]:
    """By how much sold units exceed what was ever given, by product; those that do."""
    ever = given(book)
    excess = {product_id: units - ever.get(product_id, 0) for product_id, units in sold(book).items()}
    return {product_id: units for product_id, units in excess.items() if units > 0}


def oversold(book: Book) -> Law:
    law = Law("oversold", "No more units are sold of a product than there ever were")
    law.checked = len(book.facts.postgres.stock)
    for product_id, units in sorted(oversold_units(book).items()):
        law.deviate(f"{units} units sold that never were", product_id=product_id)
    return law


class Places:
    """A product's ledger by places in the log of lines."""

    def __init__(self, rows: Sequence[LedgerRow]) -> None:
        self.rows = rows
        taken = [
            (row.offset, i)
            for i, row in enumerate(rows)
            if row.kind in TAKEN_BY_LINES and row.offset is not None
        ]
        self._offsets = [offset for offset, _ in taken]
        self._indexes = [i for _, i in taken]

    def before(self, offset: int) -> range:
        """Entries after any of which a line at this offset may have been decided.

        More than one if commands moved stock between the lines around it.
        """
        at = bisect_left(self._offsets, offset)
        start = self._indexes[at - 1] if at else 0
        end = self._indexes[at] if at < len(self._indexes) else len(self.rows)
        return range(start, end)
