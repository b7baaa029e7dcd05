"""The checker of stock that comes and goes: nothing is sold, or called sold out, without ground. Pure."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator

from contracts.slices import stock_ids
from deploy.chaos.operations import Submit, Violation
from stock_ledger.audit.book import REFUSED, TAKEN_BY_LINES
from stock_ledger.audit.facts import Facts, LedgerRow

Span = tuple[float, float]


def sold_without_stock(facts: Facts) -> Iterator[Violation]:
    """After a refusal as sold out, a unit of the slice is sold only if some have come in between."""
    refused: dict[str, list[int]] = defaultdict(list)
    for row in facts.postgres.decisions:  # by partition and offset
        if row.kind == REFUSED and row.reason == "sold_out":
            refused[row.product_id].append(row.offset)
    last: dict[str, int] = {}  # the offset up to which a refusal says nothing, as stock has come since
    came: dict[str, bool] = {}
    for entry in facts.postgres.ledger:  # by product and seq
        product = entry.product_id
        if entry.kind not in TAKEN_BY_LINES or entry.offset is None:
            came[product] = came.get(product, False) or entry.delta > 0
            continue
        at = refused[product]
        between = bisect_right(at, entry.offset) - bisect_right(at, last.get(product, -1))
        if between and not came.get(product):
            what = f"{product} sold at {entry.partition}:{entry.offset}, sold out at {at[bisect_right(at, entry.offset) - 1]}"
            yield Violation("out of order", what)
        last[product], came[product] = entry.offset, False


def sold_out_without_ground(
    submits: Iterable[Submit], facts: Facts, sold_out_for_s: float
) -> Iterator[Violation]:
    """What is refused at the edge as sold out was so then, or so long before, in every slice."""
    spans = sold_out_spans(facts)
    slices = {row.product_id: stock_ids(row.product_id, row.slices) for row in facts.postgres.products}
    for submit in submits:
        if submit.status != 409:
            continue
        there = [
            product
            for product in submit.products
            if not all(
                any(
                    start <= submit.until and submit.at - sold_out_for_s <= end
                    for start, end in spans.get(stock, ())
                )
                for stock in slices.get(product, [product])
            )
        ]
        if there:
            yield Violation(
                "contradicted", f"was refused as sold out, there was stock of {there}", submit.checkout_id
            )


def sold_out_in_part(submits: Iterable[Submit]) -> Iterator[Violation]:
    """A checkout is refused at the edge only for all of its products; all or nothing of it, for any of them."""
    for submit in submits:
        if submit.status != 409 or submit.unread:
            continue
        named, asked = set(submit.products), set(submit.asked)
        if not (set() < named <= asked if submit.is_whole else named == asked):
            what = f"was refused as sold out for {sorted(named)} of {sorted(asked)}, {submit.policy}"
            yield Violation("contradicted", what, submit.checkout_id)


def sold_out_spans(facts: Facts) -> dict[str, list[Span]]:
    """When nothing was left of a stock id, as (from, to) in seconds since the epoch, by when it was decided."""
    lines = {(d.partition, d.offset): d.decided_at_ms for d in facts.postgres.decisions}
    commands = {(c.partition, c.offset): c.decided_at_ms for c in facts.postgres.commands}

    def at(entry: LedgerRow) -> float:
        if entry.partition is None or entry.offset is None:
            return float("-inf")
        places = lines if entry.kind in TAKEN_BY_LINES else commands
        return places.get((entry.partition, entry.offset), 0) / 1000

    spans: dict[str, list[Span]] = defaultdict(list)
    since: dict[str, float] = {}
    for entry in facts.postgres.ledger:  # by product and seq
        if entry.available <= 0:
            since.setdefault(entry.product_id, at(entry))
        elif entry.product_id in since:
            spans[entry.product_id].append((since.pop(entry.product_id), at(entry)))
    for product, start in since.items():
        spans[product].append((start, float("inf")))
    return spans
