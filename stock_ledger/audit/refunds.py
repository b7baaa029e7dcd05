"""The law of what is to be given back: the refunds are those that the orders' commands ask for."""

from contracts.commands import Pay
from stock_ledger.audit.book import Book, grouped
from stock_ledger.audit.command_facts import RefundRow
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.life import Lived, lives
from stock_ledger.audit.report import Law


def refunds(book: Book) -> Law:
    law = Law(
        "refunds",
        "Exactly the payments that became due back have a refund, one each, done if and only if that was told",
    )
    kept = grouped((row.order_id, row) for row in book.facts.postgres.refunds)
    for lived in lives(book, commanded=True):
        order = lived.life.order
        law.checked += 1
        for wrong in _wrong(lived, kept.pop(order.order_id, [])):
            law.deviate(f"order {order.order_id}: {wrong}", checkout_id=order.checkout_id)
    for order_id, rows in kept.items():
        if book.history.had_order(order_id):
            law.skip(len(rows), DROPPED)
        else:
            law.checked += 1
            law.deviate(f"order {order_id}: no command made a payment due back, and it has a refund")
    return law


def _wrong(lived: Lived, rows: list[RefundRow]) -> list[str]:
    life, wrong = lived.life, []
    providers: dict[str, str] = {}  # who took each payment
    for command, *_ in lived.steps:
        if isinstance(command.command, Pay):
            providers.setdefault(command.command.reference, command.command.provider)
    there = {row.reference: row for row in rows}
    if len(there) < len(rows):
        wrong.append("a payment has two refunds")
    for reference in sorted(life.due_back | life.given_back):
        row = there.pop(reference, None)
        if row is None:
            wrong.append(f"payment {reference} is due back, and has no refund")
        elif row.refunded != (reference in life.given_back):
            told = "told" if reference in life.given_back else "not told"
            wrong.append(
                f"the refund of {reference} is {'' if row.refunded else 'not '}done, and that is {told}"
            )
        elif row.provider not in ("", providers.get(reference)):
            wrong.append(
                f"payment {reference} was {providers.get(reference)}'s, its refund is {row.provider}'s"
            )
    return wrong + [f"payment {reference} has a refund, and is not due back" for reference in sorted(there)]
