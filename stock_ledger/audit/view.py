"""Laws of the view: it may be empty, older or gone, but never say what Postgres does not."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from contracts.keys import WHOLE
from contracts.slices import product_of
from stock_ledger.audit.book import CONFLICT, FIRST, TAKING, Book, where
from stock_ledger.audit.facts import (
    DecisionRow,
    Document,
    Facts,
    ResultFact,
    ShownProduct,
    ShownSlices,
    ShownStock,
)
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law
from stock_ledger.batch import Product

_MOVING = "values that changed while they were compared"


def cache_stock(book: Book) -> Law:
    law = Law("cache-stock", "Stock shown in the cache is Postgres's")
    if _is_read(book, law):
        _compare(law, book.facts.cache.stock, _is_shown, _wrong_stock)
    return law


def cache_products(book: Book) -> Law:
    law = Law("cache-products", "The catalogue shown in the cache is Postgres's, prices included")
    if _is_read(book, law):
        _compare(law, book.facts.cache.products, _is_shown, _wrong_product)
    return law


def cache_sold_out(book: Book) -> Law:
    law = Law("cache-sold-out", "A product is shown as sold out if nothing of it is left, and only then")
    if _is_read(book, law):
        _compare(law, book.facts.cache.stock, lambda p: p.shown is not None or p.sold_out, _wrong_sold_out)
    return law


S = TypeVar("S", ShownStock, ShownProduct, ShownSlices)


def _compare(
    law: Law,
    products: Iterable[S],
    is_shown: Callable[[S], bool],
    wrong: Callable[[S], str],
    unshown: str = "products that the cache does not show",
) -> None:
    for product in products:
        if not is_shown(product):
            law.skip(1, unshown)
        elif not product.settled:
            law.skip(1, _MOVING)
        else:
            law.checked += 1
            if what := wrong(product):
                law.deviate(f"drifted: {what}", product_id=product.product_id)


def _is_shown(product: ShownStock | ShownProduct) -> bool:
    return product.shown is not None or not product.readable


def _wrong_stock(product: ShownStock) -> str:
    if not product.readable:
        return "the cache's stock is not readable"
    if product.shown != product.true:
        return f"the cache says (entry, available) {product.shown}, Postgres {product.true}"
    return ""


def _wrong_product(product: ShownProduct) -> str:
    if product.shown is None:
        return "the cache's entry is not readable"
    pairs = ((n, getattr(product.shown, n), getattr(product.true, n)) for n in Product.__struct_fields__)
    return "; ".join(f"the cache says {name} {a}, Postgres {b}" for name, a, b in pairs if a != b)


def _wrong_sold_out(product: ShownStock) -> str:
    if product.true is None:
        return "shown as sold out, but Postgres has no such product" if product.sold_out else ""
    available = product.true[1]
    if product.sold_out and available > 0:
        return f"shown as sold out, but {available} are available"
    if not product.sold_out and available <= 0:
        return "nothing is available, but it is not shown as sold out"
    return ""


def cache_slices(book: Book) -> Law:
    law = Law("cache-slices", "How many slices products have is shown in the cache as Postgres has it")
    if _is_read(book, law):
        unshown = "partitions that the cache does not show"
        _compare(law, book.facts.cache.slices, lambda p: p.shown is not None, _wrong_slices, unshown)
    return law


def _wrong_slices(product: ShownSlices) -> str:
    if product.shown == product.true:
        return ""
    return f"the cache says {product.shown} slices, Postgres {product.true}"


def cache_progress(book: Book) -> Law:
    law = Law(
        "cache-progress",
        "Progress shown in the cache is not ahead of Postgres, and equal once all is decided",
    )
    if not _is_read(book, law):
        return law
    for progress in book.facts.cache.progress:
        p, shown, true = progress.partition, progress.shown, progress.true
        if shown is None:
            if progress.readable:
                law.skip(1, "partitions that the cache does not show")
            else:
                law.checked += 1
                law.deviate("drifted: the cache's progress is not readable", place=(p, None))
            continue
        law.checked += 1
        ahead = shown[0] > true[0] or shown[1] > true[1]
        behind = progress.settled and true[1] >= book.facts.target.get(p, 0) and shown[1] < true[1]
        if ahead or behind:
            law.deviate(
                f"drifted: the cache says (epoch, next offset) {shown}, Postgres {true}", place=(p, shown[1])
            )
    return law


def cache_results(book: Book) -> Law:
    law = Law("cache-results", "Results shown in the cache say what Postgres decided")
    if not _is_read(book, law):
        return law
    for result in book.facts.cache.results:
        _judge_result(book, law, result)
    return law


def wrong_results(facts: Facts) -> set[str]:
    """The checkouts of all results that break `cache-results`: the law itself keeps but the first ones."""
    book, law = Book(facts), Law("", "")
    checkouts: set[str] = set()
    for result in facts.cache.results:
        before = law.deviation_count
        _judge_result(book, law, result)
        if law.deviation_count > before:
            checkouts.add(result.checkout_id)
    return checkouts


def _judge_result(book: Book, law: Law, result: ResultFact) -> None:
    document = result.document
    if result.field == WHOLE:
        _judge_whole(book, law, result)
        return
    if document is None:
        law.checked += 1
        law.deviate(
            f"drifted: the result {result.field} is not readable",
            checkout_id=result.checkout_id,
        )
        return
    place = (document.partition, document.offset)
    if book.is_later(place):
        law.skip(1, "decided after Postgres was read")
        return
    row = book.decision(place)
    if row is None and book.history.decided(*place):
        law.skip(1, DROPPED)
        return
    law.checked += 1
    wrong = "there is no such decision" if row is None else _wrong_result(book, result, document, row)
    if wrong:
        law.deviate(
            f"drifted: {wrong}",
            product_id=document.product_id,
            checkout_id=result.checkout_id,
            place=place,
        )


def _judge_whole(book: Book, law: Law, result: ResultFact) -> None:
    """The one answer to a whole checkout is word for word what the command that decided it told."""
    shown = result.whole
    if shown is not None and shown.offset >= book.facts.postgres.next_command(shown.partition):
        law.skip(1, "decided after Postgres was read")
        return
    if shown is not None and book.history.obeyed(shown.partition, shown.offset):
        law.skip(1, DROPPED)
        return
    law.checked += 1
    if shown is None:
        law.deviate("drifted: the checkout's answer is not readable", checkout_id=result.checkout_id)
        return
    row = book.command((shown.partition, shown.offset))
    told = [] if row is None else [r.document for r in row.results if r.checkout_id == result.checkout_id]
    if shown not in told:
        law.deviate(
            f"drifted: the checkout's answer is shown as {shown.status}, told were "
            f"{[None if t is None else t.status for t in told]}, word for word",
            checkout_id=result.checkout_id,
            place=(shown.partition, shown.offset),
        )


def _wrong_result(book: Book, result: ResultFact, document: Document, row: DecisionRow) -> str:
    if row.kind not in (*FIRST, CONFLICT):
        return f"a result is shown of a decision that is {row.kind}"
    conflict = row.kind == CONFLICT
    field = f"#{row.partition}:{row.offset}" if conflict else product_of(row.product_id)
    if result.field != field or result.checkout_id != row.checkout_id:
        return f"the result of checkout {row.checkout_id}, {field} is shown as {result.checkout_id}, {result.field}"
    return told_wrong(document, row, erased=row.buyer_id in book.history.pseudonyms)


def told_wrong(document: Document, row: DecisionRow, *, erased: bool = False) -> str:
    """How what was told of a decision differs from it; empty if it does not. `erased`: whose it was is not kept."""
    told = (
        (document.partition, document.offset), document.status, document.reason, document.order_id,
        document.checkout_id, document.product_id, row.buyer_id if erased else document.buyer_id,
        document.quantity,
    )  # fmt: skip
    true = (
        where(row), row.kind if row.kind in TAKING else "refused", row.reason or "", row.order_id or "",
        row.checkout_id, product_of(row.product_id), row.buyer_id, row.quantity,
    )  # fmt: skip
    if told == true:
        return ""
    names = ("place", "status", "reason", "order_id", "checkout_id", "product_id", "buyer_id", "quantity")
    return "; ".join(
        f"{name} told {a!r}, decided {b!r}" for name, a, b in zip(names, told, true, strict=True) if a != b
    )


def _is_read(book: Book, law: Law) -> bool:
    """Whether there is something to judge. A key that holds another type deviates from the law it is read for."""
    cache = book.facts.cache
    if cache.away:
        law.skip(len(book.facts.postgres.stock) or 1, f"the cache could not be read: {cache.away}")
        return False
    for spoilt in cache.spoilt:
        if spoilt.law == law.code:
            law.checked += 1
            law.deviate(f"drifted: the key {spoilt.key} is a {spoilt.holds}")
    return True
