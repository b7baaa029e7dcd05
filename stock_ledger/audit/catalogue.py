"""What never changed of the catalogue, and what was refused by it: where it changed, what held at a decision is not kept."""

from collections import Counter

import msgspec

from contracts.commands import OpenSlices, PatchProduct
from contracts.messages import AMOUNT_MAX, Money
from contracts.slices import product_of
from contracts.times import from_ms
from stock_ledger.audit.book import APPLIED, FORWARDED, REFUSED, TAKING, Book, where
from stock_ledger.audit.facts import DecisionRow, ProductRow
from stock_ledger.audit.report import Law
from stock_ledger.audit.stock import INITIAL

_PRICE = ("price", "sale_price")
# What of a product a reason is about.
_ABOUT = {
    "off_shelf": ("on_shelf",),
    "not_on_sale": ("sale_from", "sale_to"),
    "price_changed": _PRICE,
    "total_not_positive": _PRICE,
    "total_too_large": _PRICE,
}
_CLOCKS_MS = 60_000  # clocks differ by less, and loading a catalogue takes less


def unchanged(book: Book, *fields: str) -> set[str]:
    """The products of which these fields never changed: all that made new versions of them left them alone."""
    left_alone: Counter[str] = Counter()
    for row in book.facts.postgres.commands:
        command = row.command
        if row.outcome == APPLIED and (
            isinstance(command, OpenSlices)
            or (
                isinstance(command, PatchProduct)
                and all(getattr(command, field) is msgspec.UNSET for field in fields)
            )
        ):
            left_alone[row.subject] += 1
    return {p.product_id for p in book.facts.postgres.products if p.version == 1 + left_alone[p.product_id]}


def judge_refusals(book: Book, law: Law) -> None:
    """Lines refused for what the catalogue says of their product."""
    products = {row.product_id: row for row in book.facts.postgres.products}
    constant = {fields: unchanged(book, *fields) for fields in _ABOUT.values()}
    found, opened = _found(book), _opened(book)
    for row in book.facts.postgres.decisions:
        reason = row.reason or ""
        if row.kind != REFUSED or (reason != "unknown_product" and reason not in _ABOUT):
            continue
        if reason == "unknown_product":
            law.checked += 1
            wrong = _wrongly_unknown(row, found, opened)
        else:
            product, expected = products.get(row.product_id), _expected(book, row)
            if product is None or product_of(row.product_id) not in constant[_ABOUT[reason]]:
                law.skip(1, "refusals by a catalogue entry that changed")
                continue
            if reason == "price_changed" and expected is None:
                law.skip(1, "expected totals of several products, or in messages that retention removed")
                continue
            law.checked += 1
            wrong = "" if _may_refuse(product, row, expected) else _told(product, reason)
        if wrong:
            law.deviate(wrong, product_id=row.product_id, checkout_id=row.checkout_id, place=where(row))


def _found(book: Book) -> dict[str, int]:
    """By stock id the first offset at which a line was decided as one of a product that there is."""
    found: dict[str, int] = {}
    for row in book.facts.postgres.decisions:
        if row.kind in (*TAKING, FORWARDED) or (row.kind == REFUSED and row.reason != "unknown_product"):
            found.setdefault(row.product_id, row.offset)
    return found


def _opened(book: Book) -> dict[str, int]:
    """When a product's stock was opened, or the latest that it can have been."""
    opened = dict.fromkeys(book.history.stock, book.history.floor_ms)
    for entry in book.facts.postgres.ledger:
        if entry.kind == INITIAL and entry.opened_at_ms is not None:
            opened[entry.product_id] = entry.opened_at_ms
    return opened


def _wrongly_unknown(row: DecisionRow, found: dict[str, int], opened: dict[str, int]) -> str:
    """A product that is there stays; one may be loaded at any moment, so its own time tells only what is long ago."""
    first, since = found.get(row.product_id, row.offset), opened.get(row.product_id, row.decided_at_ms)
    if first < row.offset:
        return f"unknown_product, but the line at offset {first} found it"
    if since + _CLOCKS_MS < row.decided_at_ms:
        return f"unknown_product, but it was there for {(row.decided_at_ms - since) // 1000} s"
    return ""


def _expected(book: Book, row: DecisionRow) -> Money | None:
    message = book.messages.get(row.partition, {}).get(row.offset)
    return None if message is None else message.expected


def _may_refuse(product: ProductRow, row: DecisionRow, expected: Money | None) -> bool:
    """Whether the entry as it always was gives the reason that the line was told."""
    total = product.sells_for() * row.quantity
    if row.reason == "off_shelf":
        return not product.on_shelf
    if row.reason == "not_on_sale":  # at some moment of this millisecond
        return not product.sells_throughout(from_ms(row.decided_at_ms), from_ms(row.decided_at_ms + 1))
    if row.reason == "total_not_positive":
        return total <= 0
    if row.reason == "total_too_large":
        return total > AMOUNT_MAX
    return expected is None or (expected.decimal(), expected.currency) != (total, product.currency)


def _told(product: ProductRow, reason: str) -> str:
    fields = ", ".join(f"{name} {getattr(product, name)}" for name in _ABOUT[reason])
    return f"{reason}, but what its product always had is {fields}"
