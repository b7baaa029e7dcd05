"""Deviations of stock, of the view and of events, planted in a clean sale."""

from decimal import Decimal

import msgspec

from contracts.messages import Money
from stock_ledger.audit.decode import document_fact, event_fact
from stock_ledger.audit.facts import (
    Facts,
    ResultFact,
    ShownStock,
    SpoiltKey,
    StockRow,
)
from tests.unit.audit_sale import (
    AT_MS,
    BOOK,
    Plants,
    change,
    checkout,
    drop,
    of_event,
    of_order,
    of_product,
    place,
)

plants = Plants()

# --- stock -------------------------------------------------------------------------------------------------------


@plants.breaks("ledger-sequence")
def gap_in_the_ledger(facts: Facts) -> None:
    change(facts.postgres.ledger, of_order(1, 2), seq=4)
    change(facts.postgres.stock, of_product("book"), seq=4)


@plants.breaks("ledger-sequence", "entry-causes", "conservation", "oversold")
def entry_of_an_unknown_kind(facts: Facts) -> None:
    change(facts.postgres.ledger, lambda row: bool(row.product_id == "book" and row.seq == 1), kind="gift")


@plants.breaks("ledger-running", "conservation")
def ledger_does_not_add_up(facts: Facts) -> None:
    change(facts.postgres.ledger, of_order(1, 2), available=3)


@plants.breaks("ledger-running")
def ledger_out_of_order(facts: Facts) -> None:
    rows = facts.postgres.ledger
    first, second = (next(i for i, r in enumerate(rows) if of_order(1, o)(r)) for o in (0, 2))
    rows[first], rows[second] = (
        rows[second]._replace(seq=2, available=9),
        rows[first]._replace(seq=3, available=1),
    )


@plants.breaks("conservation")
def wrong_total(facts: Facts) -> None:
    change(facts.postgres.stock, of_product("book"), available=2)


@plants.breaks("conservation")
def total_of_another_entry(facts: Facts) -> None:
    change(facts.postgres.stock, of_product("book"), seq=2)


@plants.breaks("conservation")
def stock_without_ledger(facts: Facts) -> None:
    facts.postgres.stock.append(StockRow("pen", 0, 4, 1))


@plants.breaks("oversold", "ledger-running", "conservation", "refusals")
def sold_more_than_there_was(facts: Facts) -> None:
    change(facts.postgres.ledger, lambda r: bool(r.product_id == "book" and r.seq == 1), delta=7, available=7)
    change(facts.postgres.ledger, of_order(1, 0), available=-1)
    change(facts.postgres.ledger, of_order(1, 2), available=-2)


@plants.breaks("refusals", "event-data", "cache-results", "figures")
def refused_though_enough_was_left(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), reason="sold_out")
    change(facts.postgres.figures, lambda f: bool(f.outcome == "insufficient_stock"), outcome="sold_out")


@plants.breaks("refusals", "event-data", "cache-results")
def refused_insufficient_though_sold_out(facts: Facts) -> None:
    change(facts.postgres.decisions, place(0, 3), reason="insufficient_stock")


@plants.breaks("refusals", "purchases")
def refused_within_the_limit(facts: Facts) -> None:
    change(facts.postgres.products, of_product("hot"), buyer_limit=None)


@plants.breaks("refusals", "event-data", "cache-results")
def refused_as_unknown_though_found_before(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), reason="unknown_product")


@plants.breaks("refusals", "event-data", "cache-results")
def refused_as_unknown_though_long_there(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 3), reason="unknown_product")
    change(facts.postgres.ledger, of_product("box"), opened_at_ms=AT_MS - 60_001)


@plants.breaks("refusals")
def refused_as_off_the_shelf_though_on_it(facts: Facts) -> None:
    change(facts.postgres.products, of_product("box"), on_shelf=True)


@plants.breaks("refusals", "event-data", "cache-results")
def refused_as_not_on_sale_without_a_window(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), reason="not_on_sale")


@plants.breaks("refusals", "event-data", "cache-results")
def refused_for_a_total_of_nothing(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), reason="total_not_positive")


@plants.breaks("refusals", "event-data", "cache-results")
def refused_for_too_large_a_total(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), reason="total_too_large")


@plants.breaks("refusals", "event-data", "cache-results")
def refused_for_a_price_that_was_as_expected(facts: Facts) -> None:
    change(facts.postgres.decisions, place(1, 1), reason="price_changed")
    change(facts.messages, place(1, 1), expected=Money("29.70", "CNY"))


@plants.breaks("purchases")
def purchases_miscounted(facts: Facts) -> None:
    change(facts.postgres.purchases, lambda row: bool(row.buyer_id == "b2"), quantity=1)


@plants.breaks("purchases")
def purchases_above_the_limit(facts: Facts) -> None:
    change(facts.postgres.products, of_product("hot"), buyer_limit=2)


# --- the view ----------------------------------------------------------------------------------------------------


@plants.breaks("cache-stock")
def drifted_stock(facts: Facts) -> None:
    change(facts.cache.stock, of_product("book"), shown=(3, 9))


@plants.breaks("cache-stock")
def unreadable_stock(facts: Facts) -> None:
    change(facts.cache.stock, of_product("book"), shown=None, readable=False)


@plants.breaks("cache-stock")
def stock_of_another_type(facts: Facts) -> None:
    facts.cache.spoilt.append(SpoiltKey("cache-stock", "stock:{p1}:book", "list"))


@plants.breaks("cache-products")
def another_price_shown(facts: Facts) -> None:
    cheap = msgspec.structs.replace(BOOK, price=Decimal("1.00"))
    change(facts.cache.products, of_product("book"), shown=cheap)


@plants.breaks("cache-products")
def unreadable_product(facts: Facts) -> None:
    change(facts.cache.products, of_product("book"), shown=None, readable=False)


@plants.breaks("cache-products")
def product_of_another_type(facts: Facts) -> None:
    facts.cache.spoilt.append(SpoiltKey("cache-products", "product:{p1}:book", "list"))


@plants.breaks("cache-sold-out")
def gate_of_another_type(facts: Facts) -> None:
    facts.cache.spoilt.append(SpoiltKey("cache-sold-out", "gate:{p1}", "string"))


@plants.breaks("cache-results")
def result_of_another_type(facts: Facts) -> None:
    facts.cache.spoilt.append(SpoiltKey("cache-results", f"result:{checkout(1)}", "string"))


@plants.breaks("cache-sold-out")
def sold_out_though_available(facts: Facts) -> None:
    change(facts.cache.stock, of_product("book"), sold_out=True)


@plants.breaks("cache-sold-out")
def available_though_sold_out(facts: Facts) -> None:
    change(facts.cache.stock, of_product("hot"), sold_out=False)


@plants.breaks("cache-sold-out")
def sold_out_stranger(facts: Facts) -> None:
    facts.cache.stock.append(ShownStock("who", None, True, True, None))


@plants.breaks("cache-progress")
def progress_ahead(facts: Facts) -> None:
    change(facts.cache.progress, lambda p: p.partition == 0, shown=(3, 99))


@plants.breaks("cache-progress")
def progress_behind_after_the_drain(facts: Facts) -> None:
    change(facts.cache.progress, lambda p: p.partition == 0, shown=(3, 1))


@plants.breaks("cache-progress")
def progress_of_an_epoch_to_come(facts: Facts) -> None:
    change(facts.cache.progress, lambda p: p.partition == 0, shown=(4, 7))


@plants.breaks("cache-results")
def another_result_shown(facts: Facts) -> None:
    result = facts.cache.results[0]
    assert result.document is not None
    facts.cache.results[0] = result._replace(document=result.document._replace(status="refused", order_id=""))


@plants.breaks("cache-results")
def result_of_another_checkout(facts: Facts) -> None:
    facts.cache.results[0] = facts.cache.results[0]._replace(checkout_id=checkout(55))


@plants.breaks("cache-results")
def unreadable_result(facts: Facts) -> None:
    facts.cache.results.append(ResultFact(checkout(1), "hot", document_fact(b"[]")))


# --- events ------------------------------------------------------------------------------------------------------


@plants.breaks("events", "figures")
def missing_event(facts: Facts) -> None:
    drop(facts.events, of_event("1-1"))


@plants.breaks("events", "order-events", "figures")
def missing_event_of_an_order(facts: Facts) -> None:
    drop(facts.events, of_event("1-0"))


@plants.breaks("events", "order-events", "figures")
def event_without_decision(facts: Facts) -> None:
    facts.events.append(facts.events[0]._replace(event_id="0-4"))


@plants.breaks("events", "figures")
def event_with_a_foreign_id(facts: Facts) -> None:
    facts.events.append(facts.events[0]._replace(event_id="0-00"))


@plants.breaks("events")
def redelivered_with_other_data(facts: Facts) -> None:
    facts.events.append(facts.events[0]._replace(value_hash=1))


@plants.breaks("events")
def refusal_announced_as_created(facts: Facts) -> None:
    change(facts.events, of_event("1-1"), type="order.created")


@plants.breaks("event-data", "figures")
def event_of_another_total(facts: Facts) -> None:
    document = facts.events[0].document
    assert document is not None
    facts.events[0] = facts.events[0]._replace(document=document._replace(total=Decimal(1)))


@plants.breaks("event-data", "figures")
def event_without_readable_data(facts: Facts) -> None:
    facts.events[0] = facts.events[0]._replace(document=None)


@plants.breaks("event-data", "order-events")
def event_under_another_key(facts: Facts) -> None:
    facts.events[0] = facts.events[0]._replace(key=b"k")


@plants.breaks("event-envelope")
def event_without_headers(facts: Facts) -> None:
    event = facts.events[0]
    bare = event_fact(0, 0, event.key, b"{}", [("ce_id", b"0-0")])
    assert "ce_type" in bare.lacking
    facts.events[0] = event._replace(lacking=bare.lacking)


@plants.breaks("event-envelope", "figures")
def event_in_another_partition(facts: Facts) -> None:
    facts.events[0] = facts.events[0]._replace(partition=1)


@plants.breaks("figures")
def figures_miscounted(facts: Facts) -> None:
    facts.postgres.figures[0] = facts.postgres.figures[0]._replace(lines=9)


@plants.breaks("figures")
def figures_of_events_to_come(facts: Facts) -> None:
    facts.postgres.figure_states[0] = 99
