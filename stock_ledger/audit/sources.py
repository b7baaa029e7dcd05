"""The law of the second stock source: whatever is asked of it, or still to be made good with it, has its cause."""

from stock_ledger.audit.book import TAKING, Book, place_of
from stock_ledger.audit.command_facts import SourceOpenRow, SourceRequestRow
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law

_UNUSED, _COMMAND, _MORE = "unused-", "command-", "-more"


def stock_source(book: Book) -> Law:
    law = Law(
        "stock-source",
        "What a second stock source was asked for is of the batch that is decided next; what is open with it has its cause",
    )
    postgres = book.facts.postgres
    law.checked += len(postgres.states) + len(postgres.source_requests) + len(postgres.source_open)
    partition_of = {row.product_id: row.partition for row in postgres.stock}
    for request in postgres.source_requests:
        place = (request.partition, request.next_offset)
        if wrong := _wrong_request(request, partition_of.get(request.product_id), book):
            law.deviate(wrong, product_id=request.product_id, place=place)
        elif request.next_offset >= postgres.next_offset(request.partition):
            continue
        elif book.facts.timed_out:
            law.deviate(
                "its batch is decided, and nobody has ended the request",
                product_id=request.product_id,
                place=place,
            )
        else:
            law.skip(1, "a request that outlived its batch, until streams ends it")
    for row in postgres.source_open:
        if row.kind == "short":
            law.skip(1, "units that were sold and the second stock source does not have: refund some orders")
        elif wrong := _wrong_open(row, partition_of.get(row.product_id), book):
            if wrong == DROPPED:
                law.skip(1, DROPPED)
            else:
                law.deviate(f"{row.kind} {row.cause}: {wrong}", product_id=row.product_id)
    return law


def _wrong_request(request: SourceRequestRow, partition: int | None, book: Book) -> str:
    p, offset = request.partition, request.next_offset
    if partition != p or request.batch != f"{p}-{offset}" or request.units <= 0:
        return f"{request.units} units were asked for as {request.batch} by partition {p}, the product is in {partition}"
    if offset > book.facts.postgres.next_offset(p):
        return f"asked for before its turn: the next to be decided is {book.facts.postgres.next_offset(p)}"
    span = book.facts.checkouts.get(p)
    return "" if span is None or offset < span.end else "asked for, but the log has no such checkout"


def _wrong_open(row: SourceOpenRow, partition: int | None, book: Book) -> str:
    """What is wrong with it; DROPPED where that can no longer be told."""
    if row.units <= 0 or not 0 <= row.sold <= row.units:
        return f"{row.units} units, of which {row.sold} were sold"
    if row.kind == "return" and row.cause.startswith(_COMMAND):
        return _wrong_return(row, book)
    if row.kind == "return" and not row.cause.startswith(_UNUSED):
        return "it has no cause"
    place = place_of(row.cause.removeprefix(_UNUSED).removesuffix(_MORE))
    if place is None or place[0] != partition or book.is_later(place):
        return "it is of no batch that is decided"
    if book.history.decided(*place):
        return DROPPED
    sold = sum(
        d.quantity
        for offset, d in book.decisions.get(place[0], {}).items()
        if offset >= place[1] and d.product_id == row.product_id and d.kind in TAKING
    )
    return f"{row.sold} units were sold, from there on it is {sold}" if row.sold > sold else ""


def _wrong_return(row: SourceOpenRow, book: Book) -> str:
    """Of units that a command has brought back, but for those that were short."""
    place = place_of(row.cause.removeprefix(_COMMAND))
    if place is not None and book.history.obeyed(*place):
        return DROPPED
    entries = [] if place is None else book.command_entries.get(place, [])
    back = sum(entry.delta for entry in entries if entry.product_id == row.product_id)
    return "" if row.units <= back else f"{row.units} units go back, the command brought back {back}"
