"""The one answer to an all-or-nothing checkout, as it is told and shown."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from contracts.commands import HoldAnswer
from contracts.decisions import number_of
from contracts.outcomes import RETRYABLE, PaymentStatus, Reason
from contracts.slices import product_of
from stock_ledger.commands.book import Gathering
from stock_ledger.commands.work import dump


def whole_document(gathering: Gathering) -> dict[str, Any]:
    """The checkout with every line's own reason; lines that would have been created are refused with the others.

    A line that was never answered before the deadline is not listed. One that was refused by itself has no item to show.
    """
    confirmed = gathering.order_id is not None
    answers = sorted(gathering.answers, key=lambda a: a.line)
    currencies = {a.currency for a in answers if not a.reason}
    other = Reason.MIXED_CURRENCIES if len(currencies) > 1 else Reason.OTHER_LINE_REFUSED
    if not any(a.reason for a in answers):
        if len(answers) < answers[0].lines:
            other = Reason.HOLD_EXPIRED
        elif len(currencies) == 1:
            other = Reason.TOTAL_TOO_LARGE  # all held, and yet refused
    document: dict[str, Any] = {
        "checkout_id": gathering.checkout_id,
        "buyer_id": answers[0].buyer_id,
        "status": "created" if confirmed else "refused",
        "partition": gathering.partition,
        "command_offset": gathering.decided_offset,
        "decided_at": gathering.decided_at,
        "lines": [
            {
                "line": a.line,
                "product_id": product_of(a.product_id),
                "quantity": a.quantity,
                **({} if a.reason else _item(a)),
                **({} if confirmed else _why(Reason(a.reason) if a.reason else other)),
            }
            for a in answers
        ],
    }
    if gathering.order_id is not None and gathering.decided_at is not None:
        document["order"] = {
            "order_id": gathering.order_id,
            "number": number_of(gathering.order_id),
            "total": {"amount": str(total_of(answers)), "currency": answers[0].currency},
            "payment": {
                "status": PaymentStatus.PENDING.value,
                "method": answers[0].payment_method,
                "expires_at": pay_until(answers, gathering.decided_at),
            },
        }
    return document


def total_of(answers: Sequence[HoldAnswer]) -> Decimal:
    """What the order of these lines costs."""
    return sum((Decimal(a.price) * a.quantity for a in answers), Decimal(0))


def pay_until(answers: Sequence[HoldAnswer], decided_at: datetime) -> datetime:
    """When the payment of the order of these lines expires: as its shortest item says."""
    return decided_at + timedelta(seconds=min(a.payment_ttl_s for a in answers))


def whole_answer(gathering: Gathering) -> bytes | None:
    """What the view shows of the checkout as a whole; None while it has no answer."""
    return None if gathering.decided_at is None else dump(whole_document(gathering))


def _item(answer: HoldAnswer) -> dict[str, Any]:
    price = {"amount": answer.price, "currency": answer.currency}
    return {"name": answer.name, "cover": answer.cover, "price": price}


def _why(reason: Reason) -> dict[str, Any]:
    return {"reason": reason.value, "retryable": reason in RETRYABLE}
