"""Laws of idempotency: a line is decided once, whatever comes of it later, and a checkout has one payload."""

from contracts.slices import product_of
from stock_ledger.audit.book import CONFLICT, DEAD, FIRST, FORWARDED, REPEATED, Book, where
from stock_ledger.audit.facts import DecisionRow
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law


def repeats(book: Book) -> Law:
    law = Law(
        "repeats",
        "A line is decided once, in one slice of its product; later ones repeat or conflict with it",
    )
    firsts: dict[tuple[str | None, str], DecisionRow] = {}  # by checkout and product
    known: dict[
        tuple[str | None, str], list[DecisionRow]
    ] = {}  # by checkout and stock id: also what was sent on
    hashes: dict[str | None, list[DecisionRow]] = {}
    later: list[DecisionRow] = []
    for row in book.facts.postgres.decisions:
        if row.kind == DEAD:
            continue
        law.checked += 1
        if row.kind not in (*FIRST, FORWARDED):
            later.append(row)
            continue
        known.setdefault((row.checkout_id, row.product_id), []).append(row)
        hashes.setdefault(row.checkout_id, []).append(row)
        line = (row.checkout_id, product_of(row.product_id))
        if row.kind in FIRST and (first := firsts.setdefault(line, row)) is not row:
            _deviate(law, row, f"decided anew, the line is decided at {first.partition}:{first.offset}")
    for row in later:
        if row.kind == REPEATED:
            wrong = _wrong_repeat(row, known.get((row.checkout_id, row.product_id), []))
        elif row.kind == CONFLICT:
            wrong = _wrong_conflict(row, hashes.get(row.checkout_id, []))
        else:
            wrong = f"kind {row.kind} is not known"
        if wrong and (row.checkout_id, row.product_id) not in known and _is_dropped(book, row):
            law.skip(1, DROPPED)
        elif wrong:
            _deviate(law, row, wrong)
    return law


def _is_dropped(book: Book, row: DecisionRow) -> bool:
    """Whether what a later line refers to may have been dropped."""
    if row.kind == CONFLICT:
        return book.history.floor_ms > 0
    return row.first_offset is not None and book.history.decided(row.partition, row.first_offset)


def _wrong_repeat(row: DecisionRow, known: list[DecisionRow]) -> str:
    if not known:
        return "repeated, but the line was never decided"
    first = next((r for r in known if where(r) == (row.partition, row.first_offset)), None)
    if first is None:
        at = known[0]
        return (
            f"repeated of offset {row.first_offset}, but the first decision is at {at.partition}:{at.offset}"
        )
    if first.offset >= row.offset:
        return f"repeated before its first decision at offset {first.offset}"
    if first.payload_hash != row.payload_hash:
        return f"repeated, but its payload differs from the one at offset {first.offset}"
    return ""


def _wrong_conflict(row: DecisionRow, firsts: list[DecisionRow]) -> str:
    if row.reason != "idempotency_conflict":
        return f"a conflict with the reason {row.reason}"
    for first in firsts:
        earlier = first.partition != row.partition or first.offset < row.offset
        if earlier and first.payload_hash != row.payload_hash:
            return ""
    return "a conflict, but no earlier line of the checkout has another payload"


def payloads(book: Book) -> Law:
    law = Law("payloads", "All lines decided of a checkout have one payload hash")
    seen: dict[str | None, DecisionRow] = {}
    for row in book.facts.postgres.decisions:
        if row.kind in FIRST:
            law.checked += 1
            first = seen.setdefault(row.checkout_id, row)
            if first.payload_hash != row.payload_hash:
                _deviate(
                    law, row, f"another payload than the line decided at {first.partition}:{first.offset}"
                )
    return law


def _deviate(law: Law, row: DecisionRow, detail: str) -> None:
    law.deviate(detail, product_id=row.product_id, checkout_id=row.checkout_id, place=where(row))
