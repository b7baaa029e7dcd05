"""Deviations of the log, of decisions and of orders, planted in a clean sale."""

from decimal import Decimal

import msgspec

from contracts.decisions import order_id_of
from contracts.messages import CheckoutLine
from stock_ledger.audit.decode import letter_fact, message_fact
from stock_ledger.audit.facts import (
    Facts,
    ItemRow,
    LedgerRow,
    PaymentRow,
    TopicSpan,
)
from tests.unit.audit_sale import (
    AT_MS,
    ONE,
    OTHER,
    PARTITIONS,
    PRICE,
    SHIPPING,
    Plants,
    change,
    checkout,
    drop,
    of_order,
    of_product,
    place,
)

plants = Plants()

# --- the log -----------------------------------------------------------------------------------------------------


@plants.breaks("log-drained")
def undecided_message(facts: Facts) -> None:
    line = CheckoutLine(1, checkout(99), "b1", "book", 1, ONE, AT_MS, shipping=SHIPPING)
    facts.messages.append(message_fact(1, 4, b"book", msgspec.json.encode(line), PARTITIONS))
    facts.target[1] = 5


@plants.breaks("log-complete", "events", "cache-results")
def lost_decision(facts: Facts) -> None:
    drop(facts.postgres.decisions, place(1, 1))


@plants.breaks("log-complete")
def log_lost_messages(facts: Facts) -> None:
    facts.postgres.decisions = [row for row in facts.postgres.decisions if row.partition == 0]
    facts.messages = [row for row in facts.messages if row.partition == 0]
    facts.checkouts[1] = TopicSpan(8, 8)
    facts.postgres.states.pop(1)
    _forget_book(facts)


def _forget_book(facts: Facts) -> None:
    """All that partition 1 ever made."""
    postgres = facts.postgres
    gone = {row.order_id for row in postgres.items if row.product_id == "book"}
    postgres.orders = [row for row in postgres.orders if row.order_id not in gone]
    postgres.items = [row for row in postgres.items if row.order_id not in gone]
    postgres.payments = [row for row in postgres.payments if row.order_id not in gone]
    postgres.ledger = [r for r in postgres.ledger if r.product_id == "hot" or r.seq == 1]
    change(postgres.stock, of_product("book"), available=10, seq=1, pending=0)
    facts.cache.stock = [s for s in facts.cache.stock if s.product_id == "hot"]
    facts.cache.progress = [p for p in facts.cache.progress if p.partition == 0]
    facts.cache.results = [r for r in facts.cache.results if r.document and r.document.partition == 0]
    facts.events = [e for e in facts.events if e.partition == 0]
    facts.events_span[1] = TopicSpan(0, 0)
    postgres.figure_states.pop(1)
    postgres.figures = [f for f in postgres.figures if f.partition == 0]
    facts.target[1] = 8


@plants.breaks("log-complete", "repeats")
def decided_twice(facts: Facts) -> None:
    facts.postgres.decisions.append(facts.postgres.decisions[-1]._replace())


@plants.breaks("log-founded")
def decision_without_message(facts: Facts) -> None:
    drop(facts.messages, place(0, 3))


@plants.breaks("log-position", "log-drained")
def next_offset_too_low(facts: Facts) -> None:
    facts.postgres.states[0] = (3, 6)
    change(facts.cache.progress, lambda p: p.partition == 0, shown=(3, 6), true=(3, 6))


@plants.breaks("log-position")
def next_offset_too_high(facts: Facts) -> None:
    facts.postgres.states[0] = (3, 8)
    change(facts.cache.progress, lambda p: p.partition == 0, shown=(3, 8), true=(3, 8))


@plants.breaks("decision-faithful", "cache-results", "event-data")
def decision_of_another_buyer(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), buyer_id="b9")


@plants.breaks("decision-faithful")
def decision_of_another_line(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), line=7)


@plants.breaks("dead-letters")
def garbage_was_decided(facts: Facts) -> None:
    change(facts.messages, place(0, 3), error="not JSON")


@plants.breaks("dead-letters", "dead-letter-copies", "events", "cache-results")
def valid_message_was_dead_lettered(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 3), kind="dead_lettered", detail="?")


@plants.breaks("dead-letter-copies")
def no_copy(facts: Facts) -> None:
    facts.letters.clear()


@plants.breaks("dead-letter-copies")
def copy_with_another_value(facts: Facts) -> None:
    change(facts.letters, place(0, 0), value=b"}")


@plants.breaks("dead-letter-copies")
def copy_with_another_reason(facts: Facts) -> None:
    change(facts.letters, place(0, 0), reason="because")


@plants.breaks("dead-letter-copies")
def copy_without_place(facts: Facts) -> None:
    facts.letters.append(letter_fact(0, 1, b"k", b"{", [("reason", b"?"), ("partition", None)]))


@plants.breaks("dead-letter-copies")
def copy_of_a_decided_message(facts: Facts) -> None:
    change(facts.letters, place(0, 0), source=(0, 6))
    facts.letters.append(facts.letters[0]._replace(source=(0, 3)))


@plants.breaks("repeats")
def repeat_of_another_offset(facts: Facts) -> None:
    change(facts.postgres.decisions, place(0, 4), first_offset=2)


@plants.breaks("repeats", "decision-faithful")
def repeat_of_another_payload(facts: Facts) -> None:
    change(facts.postgres.decisions, place(0, 4), payload_hash=OTHER)


@plants.breaks("repeats", "decision-faithful")
def repeat_of_nothing(facts: Facts) -> None:
    change(facts.postgres.decisions, place(0, 4), checkout_id=checkout(77))


@plants.breaks("repeats", "events")
def line_decided_anew(facts: Facts) -> None:
    change(facts.postgres.decisions, place(0, 4), kind="refused", reason="address_unknown", first_offset=None)


@plants.breaks("repeats", "decision-faithful")
def conflict_without_other_payload(facts: Facts) -> None:
    change(facts.postgres.decisions, place(0, 5), payload_hash=ONE)


@plants.breaks("repeats")
def unknown_kind(facts: Facts) -> None:
    change(facts.postgres.decisions, place(0, 4), kind="lost")


@plants.breaks("payloads", "decision-faithful", "cache-results", "event-data")
def checkout_with_two_payloads(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), checkout_id=checkout(2), payload_hash=OTHER)


# --- orders ------------------------------------------------------------------------------------------------------


@plants.breaks("orders", "order-events")
def doubled_order(facts: Facts) -> None:
    (order,) = [o for o in facts.postgres.orders if of_order(1, 0)(o)]
    facts.postgres.orders.append(order._replace(order_id=order_id_of(AT_MS + 1, 1, 0)))


@plants.breaks("orders", "order-payments", "stock-counts")
def missing_order(facts: Facts) -> None:
    drop(facts.postgres.orders, of_order(1, 0))
    drop(facts.postgres.payments, of_order(1, 0))


@plants.breaks("orders", "order-payments", "order-life", "stock-counts")
def order_in_an_unknown_status(facts: Facts) -> None:
    change(facts.postgres.orders, of_order(1, 0), status="lost")


@plants.breaks("orders")
def order_of_another_buyer(facts: Facts) -> None:
    change(facts.postgres.orders, of_order(1, 0), buyer_id="b7")


@plants.breaks("orders", "order-entries", "given-back", "event-data", "cache-results", "order-events")
def order_made_of_another_place(facts: Facts) -> None:
    postgres, wrong = facts.postgres, order_id_of(AT_MS, 1, 1)
    change(postgres.decisions, place(1, 0), order_id=wrong)
    change(postgres.orders, of_order(1, 0), order_id=wrong)
    change(postgres.items, of_order(1, 0), order_id=wrong)
    change(postgres.payments, of_order(1, 0), order_id=wrong)


@plants.breaks("orders", "event-data", "cache-results")
def refusal_with_an_order(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), order_id=order_id_of(AT_MS, 1, 1))


@plants.breaks("order-items", "order-payments", "given-back", "stock-counts")
def item_with_another_quantity(facts: Facts) -> None:
    change(facts.postgres.items, of_order(1, 0), quantity=9)


@plants.breaks("order-items")
def sold_for_less_than_the_catalogue_says(facts: Facts) -> None:
    change(facts.postgres.products, of_product("book"), price=PRICE + 1)


@plants.breaks("order-items")
def sold_for_the_price_and_not_the_sale_price(facts: Facts) -> None:
    change(facts.postgres.products, of_product("book"), sale_price=PRICE - 1)


@plants.breaks("order-items")
def sold_in_another_currency(facts: Facts) -> None:
    change(facts.postgres.products, of_product("book"), currency="EUR")


@plants.breaks("order-items")
def stray_item(facts: Facts) -> None:
    facts.postgres.items.append(ItemRow(order_id_of(AT_MS, 1, 3), 0, "book", PRICE, 1))


@plants.breaks("order-payments")
def payment_of_another_amount(facts: Facts) -> None:
    change(facts.postgres.payments, of_order(1, 0), amount=Decimal("0.01"))


@plants.breaks("order-payments")
def payment_in_another_currency(facts: Facts) -> None:
    change(facts.postgres.payments, of_order(1, 0), currency="EUR")


@plants.breaks("order-payments")
def stray_payment(facts: Facts) -> None:
    facts.postgres.payments.append(PaymentRow(order_id_of(AT_MS, 1, 3), PRICE, "CNY", "pending"))


@plants.breaks("order-payments", "order-life")
def paid_though_pending(facts: Facts) -> None:
    change(facts.postgres.payments, of_order(1, 0), status="paid")


@plants.breaks("order-entries", "entry-causes", "given-back", "conservation", "ledger-sequence")
def missing_entry(facts: Facts) -> None:
    drop(facts.postgres.ledger, of_order(1, 2))
    facts.postgres.ledger.append(LedgerRow("book", 4, 0, 2, "restock", None, None, None))


@plants.breaks("order-entries", "conservation")
def entry_without_decision(facts: Facts) -> None:
    facts.postgres.ledger.append(LedgerRow("book", 4, -1, 0, "order", 1, 3, None))
    change(facts.postgres.stock, of_product("book"), available=0, seq=4)
