"""What never changed of the catalogue: where it did, what held at a decision is not kept."""

from collections import Counter

import msgspec

from contracts.commands import OpenSlices, PatchProduct
from stock_ledger.audit.book import APPLIED, Book


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
