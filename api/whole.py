"""The one answer to an all-or-nothing checkout, and what it makes of the lines: pure, no I/O and no clock."""

import logging
from collections.abc import Iterable
from datetime import datetime

import msgspec

from api.status import Answer, decided_line
from contracts.outcomes import RETRYABLE, Reason
from contracts.requests import CreatedLine, Line, LineOrder, LinePayment, RefusedLine, Total

logger = logging.getLogger(__name__)


class _Price(msgspec.Struct, frozen=True):
    amount: str
    currency: str


class _Line(msgspec.Struct, frozen=True):
    """Without name, cover and price if it was refused by itself."""

    product_id: str
    name: str = ""
    cover: str = ""
    price: _Price | None = None
    reason: Reason | None = None


class _Order(msgspec.Struct, frozen=True):
    order_id: str
    number: str
    total: Total
    payment: LinePayment


class Whole(msgspec.Struct, frozen=True):
    """`stock_ledger.commands.whole.whole_document` read back: an order, or the reason of every line."""

    buyer_id: str
    decided_at: datetime
    lines: list[_Line]
    order: _Order | None = None


_decoder = msgspec.json.Decoder(Whole)


def read_whole(document: bytes | None, buyer_id: str) -> Whole | None:
    """The buyer's answer. One that cannot be read counts as not there."""
    if document is None:
        return None
    try:
        whole = _decoder.decode(document)
    except msgspec.DecodeError as error:  # ValidationError is one
        logger.warning("an answer is not readable: %s", error, extra={"action": "result_skipped"})
        return None
    return whole if whole.buyer_id == buyer_id else None


def waits_for_the_whole(answers: Iterable[Answer]) -> bool:
    """Whether something is decided that is only part of an answer."""
    return any(a.policy == "all_or_nothing" and a.reason is not Reason.IDEMPOTENCY_CONFLICT for a in answers)


def ended_line(line: int, answer: Answer, whole: Whole) -> Line:
    """What became of a decided line. A refused one keeps its own reason; one that was held became the order, or is
    refused with the others.
    """
    if answer.status != "held":
        return decided_line(line, answer)
    own = next((one for one in whole.lines if one.product_id == answer.product_id), None)
    at = (line, answer.partition, answer.offset, whole.decided_at, answer.product_id, answer.quantity)
    order = whole.order
    if own is None or order is None or own.price is None:
        reason = _of_one_left_out(answer, whole) if own is None else own.reason or Reason.OTHER_LINE_REFUSED
        return RefusedLine(*at, reason, reason in RETRYABLE)
    price = Total(own.price.amount, own.price.currency)
    return CreatedLine(
        *at, LineOrder(order.order_id, order.number, own.name, own.cover, price, order.total, order.payment)
    )


def _of_one_left_out(answer: Answer, whole: Whole) -> Reason:
    """Held, but no part of the answer: too late for it, or of another payload under the same key."""
    complete = whole.order is not None or len(whole.lines) >= answer.lines
    return Reason.IDEMPOTENCY_CONFLICT if complete else Reason.HOLD_EXPIRED
