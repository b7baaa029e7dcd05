"""All-or-nothing checkouts: the answers of their lines gathered into one order or one refusal, and holds settled."""

import uuid
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import msgspec

from contracts.commands import Abandon, HoldAnswer, Settle
from contracts.decisions import BY_COMMAND, Decision, order_id_of
from contracts.keys import WHOLE
from contracts.messages import AMOUNT_MAX
from contracts.outcomes import Kind, OrderStatus, PaymentStatus, Refusal
from contracts.times import to_ms
from stock_ledger.commands.book import Gathering, Item, NewOrder, OrderState
from stock_ledger.commands.orders import ask_to_settle, settle_items
from stock_ledger.commands.whole import pay_until, total_of, whole_document
from stock_ledger.commands.work import Work

_ANSWERS = uuid.UUID("6c3dd7d8-33f1-5d6f-8e0f-0b6a3a4b1c55")
# (state before, to) -> how the counts move, per unit: available, held, pending, paid
_MOVES = {
    ("held", "pending"): (0, -1, 1, 0),
    ("held", "released"): (1, -1, 0, 0),
    ("pending", "paid"): (0, 0, -1, 1),
    ("pending", "released"): (1, 0, -1, 0),
    ("paid", "released"): (1, 0, 0, -1),
}


def answer_to(decision: Decision) -> HoldAnswer | None:
    """What the checkout's coordinator is told of a line's decision; None where it has nothing to do with it."""
    if not decision.whole or decision.checkout_id is None or decision.kind not in (Kind.HELD, Kind.REFUSED):
        return None
    base = HoldAnswer(
        command_id=str(uuid.uuid5(_ANSWERS, f"{decision.checkout_id} {decision.product_id}")),
        actor="sluiceway",
        asked_at_ms=to_ms(decision.decided_at),
        checkout_id=decision.checkout_id,
        product_id=decision.stock_id,
        buyer_id=decision.buyer_id,
        payload_hash=decision.payload_hash,
        line=decision.line,
        lines=decision.lines,
        quantity=decision.quantity,
        reason="" if decision.reason is None else decision.reason.value,
    )
    hold = decision.hold
    if hold is None:
        return base
    return msgspec.structs.replace(
        base, name=hold.name, cover=hold.cover, price=str(hold.price), currency=hold.currency,
        payment_ttl_s=hold.payment_ttl_s, payment_method=hold.payment_method, shipping=hold.shipping, note=hold.note,
        from_cart=hold.from_cart,
    )  # fmt: skip


def answered(work: Work, answer: HoldAnswer) -> Refusal | None:
    """One more line is answered. With the last one the checkout has its answer; after the first refusal nothing that
    is held stays so.
    """
    gathering = work.book.gatherings.get(answer.checkout_id) or Gathering(
        answer.checkout_id,
        work.given.partition,
        "gathering",
        work.now + timedelta(seconds=work.hold_ttl_s),
        (),
    )
    known = gathering.answers
    if gathering.decided_at is not None or (known and known[0].payload_hash != answer.payload_hash):
        _release(work, [answer])  # too late, or of another payload under the same key
        return None
    if gathering.state == "refusing" or answer.reason:
        _release(work, [answer] if gathering.state == "refusing" else [*known, answer])
        gathering = msgspec.structs.replace(gathering, state="refusing")
    gathering = msgspec.structs.replace(gathering, answers=(*known, answer))
    if len(gathering.answers) < answer.lines:
        work.book.gatherings[answer.checkout_id] = gathering
    elif gathering.state == "refusing":
        _refuse(work, gathering)
    else:
        _confirm(work, gathering)
    return None


def abandon(work: Work, command: Abandon) -> Refusal | None:
    """The deadline is over before all lines are answered."""
    gathering = work.book.gatherings.get(command.checkout_id)
    if gathering is None:
        return Refusal.UNKNOWN_CHECKOUT
    if gathering.decided_at is not None:
        return Refusal.NOT_ALLOWED
    if work.now < gathering.deadline:
        return Refusal.NOT_DUE
    if gathering.state == "gathering":
        _release(work, gathering.answers)
    _refuse(work, gathering)
    return None


def settle(work: Work, command: Settle) -> Refusal | None:
    """Bring a hold of this partition's product to its next state, with its units."""
    hold = work.book.holds.get((command.checkout_id, command.product_id))
    if hold is None:
        return Refusal.UNKNOWN_HOLD
    moves = _MOVES.get((hold.state, command.to))
    if moves is None:
        return Refusal.NOT_ALLOWED
    available, held, pending, paid = (units * hold.quantity for units in moves)
    order_id = command.order_id or hold.order_id
    kind = {"pending": "confirm", "paid": "paid", "released": "release"}[command.to]
    work.move(command.product_id, kind, order_id, available=available, held=held, pending=pending, paid=paid)
    if command.to == "released":
        work.give_back(command.product_id, hold.quantity)
    if command.to == "released" and hold.counted:
        work.count_purchase(command.product_id, hold.buyer_id, -hold.quantity)
    work.book.holds[command.checkout_id, command.product_id] = msgspec.structs.replace(
        hold, state=command.to, order_id=order_id
    )
    return None


def _release(work: Work, answers: Sequence[HoldAnswer]) -> None:
    """Have those that are held given back."""
    for answer in answers:
        if not answer.reason:
            ask_to_settle(work, answer.checkout_id, answer.product_id, "released", None)


def _refuse(work: Work, gathering: Gathering) -> None:
    _end(work, msgspec.structs.replace(gathering, state="refused"))


def _confirm(work: Work, gathering: Gathering) -> None:
    """All lines are held: one order with all items and one payment."""
    answers = sorted(gathering.answers, key=lambda a: a.line)
    first = answers[0]
    if (
        len({a.currency for a in answers}) > 1 or total_of(answers) > AMOUNT_MAX
    ):  # no payment could be taken for it
        _release(work, answers)
        _refuse(work, gathering)
        return
    order_id = order_id_of(to_ms(work.now), work.given.partition, work.given.offset | BY_COMMAND)
    state = OrderState(
        order_id=order_id,
        checkout_id=gathering.checkout_id,
        buyer_id=first.buyer_id,
        status=OrderStatus.PENDING_PAYMENT,
        sequence=0,
        total=total_of(answers),
        currency=first.currency,
        items=tuple(
            Item(a.line, a.product_id, a.name, a.cover, Decimal(a.price), a.quantity, counted=False)
            for a in answers
        ),
        method=first.payment_method,
        payment=PaymentStatus.PENDING,
        expires_at=pay_until(answers, work.now),
    )
    if first.shipping is None:
        raise AssertionError("a held line has its shipping")
    work.create(NewOrder(state, first.shipping, first.note, work.now))
    settle_items(work, state, "pending")
    for answer in answers:
        if answer.from_cart:
            work.take_out_of_cart(answer.buyer_id, answer.product_id)
    _end(work, msgspec.structs.replace(gathering, state="confirmed", order_id=order_id))


def _end(work: Work, gathering: Gathering) -> None:
    """The final answer to the checkout: told as an event, and shown to those who poll."""
    gathering = msgspec.structs.replace(gathering, decided_at=work.now, decided_offset=work.given.offset)
    work.book.gatherings[gathering.checkout_id] = gathering
    document = whole_document(gathering)
    if gathering.order_id is not None:
        work.order_event("order.created", work.book.orders[gathering.order_id], lines=document["lines"])
    else:
        work.event("checkout.refused", gathering.checkout_id, document)
    work.show(gathering.checkout_id, WHOLE, document)
