"""What a client is told of its checkout: pure assembly, no I/O and no clock."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from contracts.decisions import Decision
from contracts.keys import WHOLE
from contracts.outcomes import Kind, Reason
from contracts.requests import (
    CheckoutStatus,
    CreatedLine,
    DeadLetteredLine,
    HeldLine,
    Line,
    LineOrder,
    QueuedLine,
    RefusedLine,
)
from stock_ledger.reads import Position

logger = logging.getLogger(__name__)

_RETRY_AFTER_MAX_S = 30


class Answer(msgspec.Struct, frozen=True):
    """What became of one message: `Decision.document()` read back, or a dead letter with its `detail`."""

    partition: int
    offset: int
    status: Literal["created", "held", "refused", "dead_lettered"]
    decided_at: datetime
    buyer_id: str = ""
    line: int = 0
    lines: int = 1
    product_id: str = ""
    quantity: int = 0
    order: LineOrder | None = None
    reason: Reason | None = None
    retryable: bool = False
    detail: str = ""
    policy: Literal["independent", "all_or_nothing"] = "independent"


_decoder = msgspec.json.Decoder(Answer)


def answers_of_view(results: Mapping[str, bytes], buyer_id: str) -> list[Answer]:
    """The buyer's answers to lines among the documents of the view. One that cannot be read counts as not there."""
    answers = []
    for field, document in results.items():
        if field == WHOLE:
            continue
        try:
            answer = _decoder.decode(document)
        except msgspec.DecodeError as error:  # ValidationError is one
            logger.warning("result %s is not readable: %s", field, error, extra={"action": "result_skipped"})
            continue
        if answer.buyer_id == buyer_id:
            answers.append(answer)
    return answers


def answer_of(decision: Decision) -> Answer:
    """The answer of a decision that is neither a repeated nor a forwarded line: the same as the view's of it."""
    if decision.kind is Kind.DEAD:
        return Answer(
            decision.partition,
            decision.offset,
            "dead_lettered",
            decision.decided_at,
            detail=decision.detail,
        )
    return _decoder.decode(decision.document())


def followed(
    forwarded: Mapping[Position, Decision], of_checkout: Iterable[Decision]
) -> dict[Position, Answer]:
    """The answers to forwarded lines, by where those are, of those that are decided among these decisions.

    A line of another payload than the first is decided as a conflict: what the first came to is not its answer.
    """
    decided = {(d.buyer_id, d.product_id, d.payload_hash): d for d in of_checkout}
    found = {at: decided.get((d.buyer_id, d.product_id, d.payload_hash)) for at, d in forwarded.items()}
    return {at: answer_of(decision) for at, decision in found.items() if decision is not None}


def by_product(answers: Iterable[Answer]) -> dict[str, Answer]:
    """The answers of a checkout's lines, without the refusals of conflicting messages.

    A checkout has a product once; its line number may differ between retries whose items were ordered differently.
    """
    return {a.product_id: a for a in answers if a.reason is not Reason.IDEMPOTENCY_CONFLICT}


def are_complete(products: Mapping[str, Answer]) -> bool:
    """Whether every line of the checkout has its answer."""
    return bool(products) and len(products) >= next(iter(products.values())).lines


def decided_line(line: int, answer: Answer) -> Line:
    """What was decided of a line by itself. A repeated line is told where it was decided first."""
    at = (line, answer.partition, answer.offset, answer.decided_at)
    if answer.order is not None:
        return CreatedLine(*at, answer.product_id, answer.quantity, answer.order)
    if answer.status == "held":
        return HeldLine(*at, answer.product_id, answer.quantity)
    if answer.reason is not None:
        return RefusedLine(*at, answer.product_id, answer.quantity, answer.reason, answer.retryable)
    return DeadLetteredLine(*at, answer.detail)


def queued_line(line: int, position: Position, next_offset: int, decided_per_s: int) -> QueuedLine:
    """A line that waits for the messages from `next_offset` to its own; `decided_per_s` 0 is not measured. One that was
    passed waits elsewhere: of that nothing is measured.
    """
    partition, offset = position
    ahead = max(0, offset - next_offset)
    eta_s = round(ahead / decided_per_s, 1) if decided_per_s > 0 and offset >= next_offset else None
    return QueuedLine(line, partition, offset, ahead, eta_s)


def checkout_status(
    checkout_id: str, lines: Sequence[Line], count: int, *, waits_for_the_whole: bool = False
) -> CheckoutStatus:
    """The status over the known lines of a checkout that has `count` lines, of which all may be decided while it
    `waits_for_the_whole`.
    """
    queued = [line for line in lines if isinstance(line, QueuedLine)]
    if len(lines) < count:
        return CheckoutStatus(checkout_id, "queued", list(lines), None, None)
    if queued:
        etas = [line.eta_s for line in queued if line.eta_s is not None]
        eta_s = max(etas) if len(etas) == len(queued) else None
        return CheckoutStatus(checkout_id, "queued", list(lines), max(line.ahead for line in queued), eta_s)
    if waits_for_the_whole:
        return CheckoutStatus(checkout_id, "queued", list(lines), 0, None)
    created = sum(isinstance(line, CreatedLine) for line in lines)
    if created == len(lines):
        return CheckoutStatus(checkout_id, "created", list(lines))
    return CheckoutStatus(checkout_id, "partly_created" if created else "refused", list(lines))


def retry_after_s(status: CheckoutStatus) -> int:
    """When to ask again: the estimate, rounded up, from 1 to 30 seconds; 1 if there is none."""
    return min(max(1, math.ceil(status.eta_s or 0)), _RETRY_AFTER_MAX_S)
