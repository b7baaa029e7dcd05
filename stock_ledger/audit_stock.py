"""Laws of stock: the ledger adds up, nothing is sold twice, and no one was refused what was there."""

from bisect import bisect_left
from collections.abc import Sequence

from contracts.topics import partition_of
from stock_ledger.audit_book import CREATED, FIRST, Book, grouped, where
from stock_ledger.audit_facts import DecisionRow, LedgerRow, ProductRow
from stock_ledger.audit_orders import ORDER_ENTRY
from stock_ledger.audit_report import Law

INITIAL = "initial"
# Which way an entry of a kind may move stock. An entry of a kind that is not here deviates.
DIRECTIONS = {INITIAL: 1, ORDER_ENTRY: -1, "restock": 1}

Ledgers = dict[str, list[LedgerRow]]  # by product, by seq


def ledgers(book: Book) -> Ledgers:
    return grouped((row.product_id, row) for row in book.facts.postgres.ledger)


def sequence(book: Book) -> Law:
    law = Law(
        "ledger-sequence", "A product's ledger counts from 1 without gaps and begins with its initial stock"
    )
    for product_id, rows in ledgers(book).items():
        law.checked += len(rows)
        for expected, row in enumerate(rows, 1):
            if row.seq != expected:
                law.deviate(f"entry {row.seq} comes where {expected} is expected", product_id=product_id)
                break
        for row in rows:
            if (row.kind == INITIAL) != (row.seq == 1):
                law.deviate(f"entry {row.seq} is of kind {row.kind}", product_id=product_id)
            elif row.delta * DIRECTIONS.get(row.kind, 0) < 0 or row.kind not in DIRECTIONS:
                law.deviate(f"entry {row.seq} is {row.delta} of kind {row.kind}", product_id=product_id)
    return law


def running(book: Book) -> Law:
    law = Law(
        "ledger-running", "Stock after an entry is stock before plus its change, never negative, in log order"
    )
    for product_id, rows in ledgers(book).items():
        available, offset = 0, -1
        for row in rows:
            law.checked += 1
            place = None if row.partition is None else (row.partition, row.offset)
            if row.available != available + row.delta:
                law.deviate(
                    f"entry {row.seq}: {available} {row.delta:+} is not {row.available}",
                    product_id=product_id,
                    place=place,
                )
            if row.available < 0:
                law.deviate(f"entry {row.seq} leaves {row.available}", product_id=product_id, place=place)
            if row.kind == ORDER_ENTRY and row.offset is not None:
                if row.offset <= offset:
                    law.deviate(
                        f"entry {row.seq} is of offset {row.offset}, an earlier one of {offset}",
                        product_id=product_id,
                        place=place,
                    )
                offset = row.offset
            available = row.available
    return law


def sold(book: Book) -> dict[str, int]:
    """Units of created decisions by product."""
    units: dict[str, int] = {}
    for row in book.created:
        units[row.product_id] = units.get(row.product_id, 0) + row.quantity
    return units


def conservation(book: Book) -> Law:
    law = Law("conservation", "Initial + restocked - sold = available, in the ledger and in the stock totals")
    units, by_product = sold(book), ledgers(book)
    stock = {row.product_id: row for row in book.facts.postgres.stock}
    known = {row.product_id for row in book.facts.postgres.products}
    for product_id in sorted(by_product.keys() | stock.keys() | units.keys() | known):
        law.checked += 1
        rows, total = by_product.get(product_id, []), stock.get(product_id)
        if not rows or total is None:
            missing = "no ledger" if not rows else "no stock total"
            law.deviate(f"{missing}, {units.get(product_id, 0)} sold", product_id=product_id)
            continue
        given = sum(row.delta for row in rows if row.kind != ORDER_ENTRY)
        left = given - units.get(product_id, 0)
        if not left == rows[-1].available == total.available:
            law.deviate(
                f"given {given} - sold {units.get(product_id, 0)} = {left}, "
                f"the ledger says {rows[-1].available}, the total {total.available}",
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
    by_product = ledgers(book)
    excess = {
        product_id: units - sum(r.delta for r in by_product.get(product_id, []) if r.kind != ORDER_ENTRY)
        for product_id, units in sold(book).items()
    }
    return {product_id: units for product_id, units in excess.items() if units > 0}


def oversold(book: Book) -> Law:
    law = Law("oversold", "No more units are sold of a product than there ever were")
    law.checked = len(book.facts.postgres.stock)
    for product_id, units in sorted(oversold_units(book).items()):
        law.deviate(f"{units} units sold that never were", product_id=product_id)
    return law


class _StockAt:
    """A product's stock at a place in the log, from its ledger alone."""

    def __init__(self, rows: Sequence[LedgerRow]) -> None:
        self._rows = rows
        taken = [
            (row.offset, i)
            for i, row in enumerate(rows)
            if row.kind == ORDER_ENTRY and row.offset is not None
        ]
        self._offsets = [offset for offset, _ in taken]
        self._indexes = [i for _, i in taken]

    def before(self, offset: int) -> list[int]:
        """What may have been available: more than one value if stock was given between the orders around."""
        at = bisect_left(self._offsets, offset)
        start = self._indexes[at - 1] if at else 0
        end = self._indexes[at] if at < len(self._indexes) else len(self._rows)
        return [row.available for row in self._rows[start:end]]


def refusals(book: Book) -> Law:
    law = Law(
        "refusals",
        "Lines refused for stock or a buyer's limit had, at their place in the log, too little left",
    )
    stock_at = {product_id: _StockAt(rows) for product_id, rows in ledgers(book).items()}
    products = {row.product_id: row for row in book.facts.postgres.products}
    bought: dict[tuple[str, str], int] = {}
    for row in book.facts.postgres.decisions:
        if row.kind not in FIRST:
            continue
        buyer = (row.product_id, row.buyer_id)
        if row.kind == CREATED:
            bought[buyer] = bought.get(buyer, 0) + row.quantity
        elif row.reason == "buyer_limit":
            _judge_limit(law, row, products.get(row.product_id), bought.get(buyer, 0))
        elif row.reason in ("sold_out", "insufficient_stock"):
            law.checked += 1
            left = stock_at[row.product_id].before(row.offset) if row.product_id in stock_at else []
            if not any(_too_little(row, available) for available in left):
                _deviate(law, row, f"{row.reason} for {row.quantity}, but available were {left}")
    return law


def _too_little(row: DecisionRow, available: int) -> bool:
    """Whether the reason of the refusal holds with so many units available."""
    return available <= 0 if row.reason == "sold_out" else 0 < available < row.quantity


def _judge_limit(law: Law, row: DecisionRow, product: ProductRow | None, bought: int) -> None:
    if product is None or product.version != 1:
        law.skip(1, "limits of products whose catalogue entry changed")
        return
    law.checked += 1
    limit = product.buyer_limit
    if limit is None or bought + row.quantity <= limit:
        _deviate(
            law, row, f"buyer {row.buyer_id} had {bought}, asked for {row.quantity}, the limit is {limit}"
        )


def purchases(book: Book) -> Law:
    """A product whose catalogue entry changed may have had its limit for a part of the sale only."""
    law = Law("purchases", "Units counted of a buyer are those created, and within the product's limit")
    products = {row.product_id: row for row in book.facts.postgres.products}
    counted = {(row.product_id, row.buyer_id): row.quantity for row in book.facts.postgres.purchases}
    limited = {row.product_id for row in products.values() if row.buyer_limit is not None}
    bought: dict[tuple[str, str], int] = {}
    for row in book.created:
        buyer = (row.product_id, row.buyer_id)
        if row.product_id in limited or buyer in counted:
            bought[buyer] = bought.get(buyer, 0) + row.quantity
    for buyer in sorted(counted.keys() | bought.keys()):
        product_id, buyer_id = buyer
        product = products.get(product_id)
        if product is not None and product.version != 1:
            law.skip(1, "limits of products whose catalogue entry changed")
            continue
        limit = None if product is None else product.buyer_limit
        law.checked += 1
        has, made = counted.get(buyer, 0), bought.get(buyer, 0)
        if limit is None:
            law.deviate(
                f"{has} units counted of buyer {buyer_id}, the product has no limit", product_id=product_id
            )
        elif has != made:
            law.deviate(
                f"{has} units counted of buyer {buyer_id}, {made} were created", product_id=product_id
            )
        elif made > limit:
            law.deviate(f"buyer {buyer_id} has {made} units, the limit is {limit}", product_id=product_id)
    return law


def _deviate(law: Law, row: DecisionRow, detail: str) -> None:
    law.deviate(detail, product_id=row.product_id, checkout_id=row.checkout_id, place=where(row))
