"""Laws of buyers' limits: what counts against them, over orders and holds that were not given back."""

from collections import Counter
from itertools import accumulate

import msgspec

from contracts.commands import PatchProduct, PutProduct, Settle
from contracts.slices import others, product_of
from stock_ledger.audit.book import FIRST, TAKING, Book, by_command, where
from stock_ledger.audit.catalogue import judge_refusals, unchanged
from stock_ledger.audit.causes import CLOSED_STATUSES
from stock_ledger.audit.facts import DecisionRow, LedgerRow
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law
from stock_ledger.audit.stock import Places, ledgers

Buyer = tuple[str, str]  # (product_id, buyer_id)
Changes = dict[tuple[str, str], list[tuple[int, int]]]  # by stock id and buyer: (index of the entry, units)
_CHANGED = "limits of products whose catalogue entry changed"
_GRANTED = "what a second stock source has granted"


def refusals(book: Book) -> Law:
    law = Law(
        "refusals",
        "Lines refused for stock, a buyer's limit or the catalogue had, at their place in the log, that against them",
    )
    judge_refusals(book, law)
    places = {product_id: Places(rows) for product_id, rows in ledgers(book).items()}
    products = {row.product_id: row for row in book.facts.postgres.products}
    constant = unchanged(book, "buyer_limit")
    sourced = _sourced(book)
    bought = _bought(book)
    dropped = {product_of(h.product_id) for h in book.history.stock.values() if h.counted}
    for row in book.facts.postgres.decisions:
        if row.kind not in FIRST:
            continue
        at = places.get(row.product_id)
        if row.reason == "buyer_limit" and product_of(row.product_id) in dropped:
            law.skip(1, DROPPED)
        elif row.reason == "buyer_limit":
            product = products.get(row.product_id)
            if product is None or product_of(row.product_id) not in constant:
                law.skip(1, _CHANGED)
                continue
            law.checked += 1
            had = [0] if at is None else _had(bought.get((row.product_id, row.buyer_id), []), at, row)
            had[-1] += _had_elsewhere(bought, row, product.slices)
            limit = product.buyer_limit
            if limit is None or not any(units + row.quantity > limit for units in had):
                _deviate(
                    law,
                    row,
                    f"buyer {row.buyer_id} had {had}, asked for {row.quantity}, the limit is {limit}",
                )
        elif row.reason in ("sold_out", "insufficient_stock"):
            left = [] if at is None else [at.rows[i].available for i in at.before(row.offset)]
            is_true = any(_too_little(row, available) for available in left)
            if not is_true and product_of(row.product_id) in sourced:
                law.skip(1, _GRANTED)
                continue
            law.checked += 1
            if not is_true:
                _deviate(law, row, f"{row.reason} for {row.quantity}, but available were {left}")
    return law


def _sourced(book: Book) -> set[str]:
    """Products that have, or had, a second stock source: how many units it granted is not kept."""
    now = {product_of(row.product_id) for row in book.facts.postgres.products if row.stock_source}
    return now | {
        row.subject
        for row in book.facts.postgres.commands
        if (isinstance(row.command, PutProduct) and row.command.stock_source)
        or (isinstance(row.command, PatchProduct) and row.command.stock_source is not msgspec.UNSET)
    }


def _bought(book: Book) -> Changes:
    """Of every buyer who was refused for a limit, what changed in all slices of the product."""
    refused = {
        (product_of(row.product_id), row.buyer_id)
        for row in book.facts.postgres.decisions
        if row.reason == "buyer_limit"
    }
    changes: Changes = {}
    if not refused:
        return changes
    limited = {product_id for product_id, _ in refused}
    for stock, rows in ledgers(book).items():
        product_id = product_of(stock)
        for i, entry in enumerate(rows) if product_id in limited else ():
            buyer_id = _buyer_of(book, entry)
            if entry.delta and (product_id, buyer_id) in refused:
                changes.setdefault((stock, buyer_id), []).append((i, -entry.delta))
    return changes


def _buyer_of(book: Book, entry: LedgerRow) -> str:
    """Whose units an entry moves; empty for one that is about no buyer."""
    if entry.kind in ("order", "hold") and entry.partition is not None and entry.offset is not None:
        decision = book.decision((entry.partition, entry.offset))
        return "" if decision is None else decision.buyer_id
    if entry.kind == "release" and entry.partition is not None and entry.offset is not None:
        row = book.command((entry.partition, entry.offset))
        if row is not None and isinstance(row.command, Settle):
            hold = book.holds.get((row.command.checkout_id, entry.product_id))
            return "" if hold is None else hold.buyer_id
    order = book.orders.get(entry.order_id or "")
    return "" if order is None else order.buyer_id


def _had(changes: list[tuple[int, int]], at: Places, row: DecisionRow) -> list[int]:
    """What the buyer may have had by then: more than one value where commands moved stock around the line."""
    window = at.before(row.offset)
    units = sum(change for i, change in changes if i <= window.start)
    had = [units]
    for i, change in changes:
        if window.start < i < window.stop:
            units += change
            had.append(units)
    return had


def _had_elsewhere(bought: Changes, row: DecisionRow, slices: int) -> int:
    """The most that the buyer ever had in the other slices: what happened there before the line cannot be told."""
    most = 0
    for other in others(row.product_id, slices) if slices > 1 else ():
        sums = accumulate((units for _, units in bought.get((other, row.buyer_id), ())), initial=0)
        most += max(sums)
    return most


def _too_little(row: DecisionRow, available: int) -> bool:
    """Whether the reason of the refusal holds with so many units available."""
    return available <= 0 if row.reason == "sold_out" else 0 < available < row.quantity


def purchases(book: Book) -> Law:
    law = Law(
        "purchases",
        "Units counted of a buyer are those bought and not given back, and within the product's limit",
    )
    products = {row.product_id: row for row in book.facts.postgres.products}
    counted = {(row.product_id, row.buyer_id): row.quantity for row in book.facts.postgres.purchases}
    constant = unchanged(book, "buyer_limit")
    bought, late = _counting(book)
    before: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for history in book.history.stock.values():
        dropped[product_of(history.product_id)] += history.counted
    for buyer in sorted(counted.keys() | bought.keys()):
        product_id, buyer_id = buyer
        law.checked += 1
        has, made = counted.get(buyer, 0), bought.get(buyer, 0)
        if has > made and dropped[product_id]:
            before[product_id] += has - made  # the sum of these is judged below
            continue
        if has != made:
            law.deviate(
                f"{has} units counted of buyer {buyer_id}, {made} were bought under a limit and not given back",
                product_id=product_id,
            )
            continue
        product = products.get(product_id)
        if product is not None and product_id not in constant:
            law.skip(1, _CHANGED)
            continue
        limit = None if product is None else product.buyer_limit
        if limit is None:
            law.deviate(
                f"{has} units counted of buyer {buyer_id}, the product has no limit", product_id=product_id
            )
        elif made - late[buyer] > limit:
            law.deviate(f"buyer {buyer_id} has {made} units, the limit is {limit}", product_id=product_id)
    for product_id, units in dropped.items():
        if before[product_id] != units:
            law.deviate(
                f"{before[product_id]} units counted are of no order or hold, {units} were of dropped ones",
                product_id=product_id,
            )
    _uncounted(book, law, constant)
    return law


def _counting(book: Book) -> tuple[Counter[Buyer], Counter[Buyer]]:
    """Units that count, and those of them that a late payment took again, whatever the limit was by then."""
    bought: Counter[Buyer] = Counter()
    late: Counter[Buyer] = Counter()
    taken_again = {e.order_id for of in book.command_entries.values() for e in of if e.kind == "late_payment"}
    for item in book.facts.postgres.items:
        order = book.orders.get(item.order_id)
        if item.counted and order is not None and not by_command(item.order_id):
            buyer = (product_of(item.product_id), order.buyer_id)
            back = order.status in CLOSED_STATUSES
            bought[buyer] += 0 if back else item.quantity
            late[buyer] += item.quantity if not back and item.order_id in taken_again else 0
    for hold in book.facts.postgres.holds:
        if hold.counted:
            bought[product_of(hold.product_id), hold.buyer_id] += (
                0 if hold.state == "released" else hold.quantity
            )
    return bought, late


def _uncounted(book: Book, law: Law, constant: set[str]) -> None:
    """Where a limit never changed, whatever a line took counts against it."""
    limited = {
        p.product_id
        for p in book.facts.postgres.products
        if p.buyer_limit is not None and product_of(p.product_id) in constant
    }
    if not limited:
        return
    counted = {(item.order_id, item.product_id): item.counted for item in book.facts.postgres.items}
    for row in book.facts.postgres.decisions:
        if row.kind not in TAKING or row.product_id not in limited:
            continue
        if row.order_id is not None:
            counts = counted.get((row.order_id, row.product_id), True)  # no item: judged by order-items
        else:
            hold = book.holds.get((row.checkout_id or "", row.product_id))
            counts = hold is None or hold.counted
        if not counts:
            _deviate(law, row, f"{row.quantity} units of buyer {row.buyer_id} do not count against the limit")


def _deviate(law: Law, row: DecisionRow, detail: str) -> None:
    law.deviate(detail, product_id=row.product_id, checkout_id=row.checkout_id, place=where(row))
