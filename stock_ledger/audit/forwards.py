"""The law of lines that are sent on between slices: they get there as they were sent, and are decided."""

from contracts.errors import UndecodableMessage
from contracts.messages import CheckoutLine, read_checkout_line
from contracts.slices import product_of, slice_of, slice_of_buyer
from contracts.topics import partition_of
from stock_ledger.audit.book import CONFLICT, FIRST, FORWARDED, Book, where
from stock_ledger.audit.facts import DecisionRow, MessageFact
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law

Sent = tuple[str, str, bool]  # (checkout_id, stock id, forwarded) of what is sent on
LineKey = tuple[str, str]  # (checkout_id, product_id)
_CUT = "retention removed the beginning of the log"
_ON_ITS_WAY = "lines on their way between two slices"


def forwards(book: Book) -> Law:
    law = Law(
        "forwards",
        "A line that is sent on lies in the other slice's log as it was sent, and is decided; nobody else sends any on",
    )
    asked = _asked_of_other_slices(book)
    rows = [row for row in book.facts.postgres.decisions if row.kind == FORWARDED]
    if rows or asked:
        sent = _judge_sent(book, law, rows, asked)
        _judge_lines(book, law, rows, asked)
        _strangers(book, law, asked, sent)
    return law


def _judge_sent(
    book: Book, law: Law, rows: list[DecisionRow], asked: dict[Sent, list[MessageFact]]
) -> set[Sent]:
    """Whether each lies where it was sent to. Gives what was sent."""
    settled = {_line_of(row): row.product_id for row in book.facts.postgres.decisions if row.kind in FIRST}
    sent: set[Sent] = set()
    for row in rows:
        onward = _onward(row)
        if onward is None and row.buyer_id in book.history.pseudonyms:
            law.skip(1, DROPPED)
            continue
        law.checked += 1
        if onward is None:
            _deviate(law, row, "what it was sent on as cannot be read")
            continue
        key = (onward.checkout_id, onward.stock_id, onward.forwarded)
        sent.add(key)
        if wrong := _wrong_forward(book, row, onward, settled):
            _deviate(law, row, wrong)
        else:
            _judge_arrival(book, law, row, onward, asked.get(key, []))
    return sent


def _judge_lines(book: Book, law: Law, rows: list[DecisionRow], asked: dict[Sent, list[MessageFact]]) -> None:
    """Whether each is decided in the end, or in conflict with what is; `repeats` says that it is only once."""
    ended = {_line_of(row) for row in book.facts.postgres.decisions if row.kind in (*FIRST, CONFLICT)}
    under_way = {
        (m.checkout_id, product_of(m.product_id))
        for of in asked.values()
        for m in of
        if not _decided(book, m)
    }
    for line, row in {_line_of(row): row for row in rows}.items():
        if line in ended:
            continue
        if line in under_way:
            law.skip(1, _ON_ITS_WAY)
        elif book.history.floor_ms:
            law.skip(1, DROPPED)
        else:
            _deviate(law, row, "sent on, and decided nowhere")


def _line_of(row: DecisionRow) -> LineKey:
    return row.checkout_id or "", product_of(row.product_id)


def _asked_of_other_slices(book: Book) -> dict[Sent, list[MessageFact]]:
    """Messages of slices but the first, and those that say that they were forwarded."""
    asked: dict[Sent, list[MessageFact]] = {}
    for message in book.facts.messages:
        if message.value_hash:
            key = (message.checkout_id, message.product_id, message.forwarded)
            asked.setdefault(key, []).append(message)
    return asked


def _onward(row: DecisionRow) -> CheckoutLine | None:
    try:
        return read_checkout_line(row.detail)
    except UndecodableMessage:
        return None


def _decided(book: Book, message: MessageFact) -> bool:
    place = message.partition, message.offset
    return book.decision(place) is not None or book.history.decided(*place)


def _wrong_forward(book: Book, row: DecisionRow, onward: CheckoutLine, settled: dict[LineKey, str]) -> str:
    buyer = row.buyer_id if row.buyer_id in book.history.pseudonyms else onward.buyer_id
    own = (
        row.checkout_id,
        product_of(row.product_id),
        row.buyer_id,
        row.quantity,
        row.payload_hash,
        row.line,
    )
    other = (onward.checkout_id, onward.product_id, buyer, onward.quantity, onward.payload_hash, onward.line)
    if own != other:
        return f"it was sent on as {other}, decided was {own}"
    slices = book.slices.get(onward.product_id, 1)
    if onward.stock_id == row.product_id or onward.slice >= slices:
        return f"sent on to {onward.stock_id}, the product has {slices} slices"
    message = book.messages.get(row.partition, {}).get(row.offset)
    if message is not None and message.forwarded and settled.get(_line_of(row)) != onward.stock_id:
        return f"sent on for a second time, to {onward.stock_id}, where it is not decided"
    return ""


def _judge_arrival(
    book: Book, law: Law, row: DecisionRow, onward: CheckoutLine, found: list[MessageFact]
) -> None:
    value_hash = hash(row.detail.encode())
    if row.buyer_id not in book.history.pseudonyms:
        found = [message for message in found if message.value_hash == value_hash]
    span = book.facts.checkouts.get(partition_of(onward.stock_id, book.facts.partitions))
    if any(_decided(book, message) for message in found):
        return
    if found:
        law.skip(1, _ON_ITS_WAY)
    elif span is not None and span.first > 0:
        law.skip(1, _CUT)
    else:
        _deviate(law, row, f"sent on to {onward.stock_id}, but its log has no such message")


def _strangers(book: Book, law: Law, asked: dict[Sent, list[MessageFact]], sent: set[Sent]) -> None:
    """What only a writer can have sent: to a slice that is not its buyer's, or as forwarded."""
    for key, messages in asked.items():
        _, stock, forwarded = key
        own = slice_of_buyer(messages[0].buyer_id, book.slices.get(product_of(stock), 1))
        if key in sent or (not forwarded and slice_of(stock) == own):
            continue
        for message in messages:
            p = message.partition
            if message.offset >= max(book.facts.target.get(p, 0), book.facts.postgres.next_offset(p)):
                continue  # it came when Postgres was read already
            if book.history.floor_ms:
                law.skip(1, DROPPED)
                continue
            law.checked += 1
            law.deviate(
                f"in the log of {stock}, {'forwarded' if forwarded else 'not its buyer'}, but nothing sent it on",
                product_id=stock,
                checkout_id=message.checkout_id,
                place=(p, message.offset),
            )


def _deviate(law: Law, row: DecisionRow, detail: str) -> None:
    law.deviate(detail, product_id=row.product_id, checkout_id=row.checkout_id, place=where(row))
