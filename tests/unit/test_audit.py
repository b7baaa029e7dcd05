"""Every law of the audit holds on a clean sale and is broken by what breaks it, and by nothing else."""

from collections.abc import Callable
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

import msgspec
import orjson
import pytest
from rich.console import Console

from contracts.commands import Settle
from contracts.decisions import order_id_of
from contracts.messages import Money
from contracts.outcomes import Kind, Reason
from contracts.times import from_ms
from deploy.audit import render
from stock_ledger.audit.book import place_in
from stock_ledger.audit.command_facts import SourceOpenRow, SourceRequestRow
from stock_ledger.audit.facts import (
    CacheFacts,
    Facts,
    ResultFact,
    ShownProduct,
    ShownProgress,
    ShownStock,
    TopicSpan,
)
from stock_ledger.audit.laws import LAWS, audit
from stock_ledger.audit.life import Life
from stock_ledger.audit.report import DEVIATIONS_KEPT_MAX, Law
from stock_ledger.audit.view import wrong_results
from tests.harness import uuid_of
from tests.unit import (
    audit_plants,
    audit_plants_caused,
    audit_plants_commands,
    audit_plants_outside,
    audit_plants_shown,
    audit_plants_sliced,
)
from tests.unit.audit_commands_sale import A, change_row, commanded, order_of, row_of
from tests.unit.audit_plants import lost_decision
from tests.unit.audit_sale import (
    AT_MS,
    BOOK,
    HOT,
    PRICE,
    Plant,
    Sale,
    change,
    checkout,
    clean,
    drop,
    of_product,
    place,
)
from tests.unit.audit_sliced_sale import hot, sliced

PLANTS = [
    *((*plant, clean) for plant in (*audit_plants.plants.all, *audit_plants_shown.plants.all)),
    *((*plant, commanded) for plant in audit_plants_commands.plants.all),
    *((*plant, sliced) for plant in audit_plants_sliced.plants.all),
    *((*plant, commanded) for plant in (*audit_plants_caused.plants.all, *audit_plants_outside.plants.all)),
]


OF_SLICES = {"forwards", "slice-moves", "slice-entries", "cache-slices"}


@pytest.mark.parametrize(("change_it", "codes", "sale"), [p[1:] for p in PLANTS], ids=[p[0] for p in PLANTS])
def test_a_planted_deviation_breaks_its_laws_and_no_other(
    change_it: Plant, codes: set[str], sale: Callable[[], Facts]
) -> None:
    facts = sale()
    change_it(facts)
    report = audit(facts)
    told = [(law.code, [d.detail for d in law.deviations]) for law in report.laws if not law.ok]
    assert set(report.broken()) == codes, told
    assert not report.ok


def test_every_law_can_be_broken() -> None:
    codes = [law.code for law in audit(clean()).laws]
    assert len(codes) == len(set(codes)) == len(LAWS)
    assert {code for _, _, broken, _ in PLANTS for code in broken} == set(codes)


def test_a_clean_sale_is_ok_and_every_law_checked_something() -> None:
    report = audit(clean())
    assert report.ok, [(law.code, law.deviations) for law in report.laws if not law.ok]
    of_commands = {law.code for law in report.laws if not law.checked}
    assert of_commands == {
        "commands-drained", "command-faithful", "command-repeats", "commands-asked", "gatherings", "holds",
        "entry-causes", "refunds", "command-events", *OF_SLICES,
    }  # fmt: skip
    assert [law.code for law in report.laws if law.not_checkable] == []
    t = report.totals
    assert (t.messages, t.decided, t.created, t.repeated, t.conflicts, t.dead_lettered) == (
        11,
        11,
        4,
        1,
        1,
        1,
    )
    assert t.refused == {"buyer_limit": 1, "sold_out": 1, "insufficient_stock": 1, "off_shelf": 1}
    assert (t.lost, t.oversold, t.units_sold, t.events, t.redelivered_events) == (0, 0, 14, 9, 0)


def test_a_clean_sale_with_commands_is_ok_and_every_law_checked_something() -> None:
    report = audit(commanded())
    assert report.ok, [(law.code, law.deviations) for law in report.laws if not law.ok]
    assert {law.code for law in report.laws if not law.checked} == OF_SLICES
    assert [law.code for law in report.laws if law.not_checkable] == []
    t = report.totals
    assert t.commands == {"applied": 40, "refused": 3, "repeated": 1, "dead_lettered": 1}
    # What is not given back: 1 of A, and of B "together", "completed" and "late".
    assert (t.decided, t.created, t.held, t.orders, t.units_sold, t.events) == (15, 7, 6, 9, 4, 36)


def test_a_clean_sale_with_slices_is_ok_and_its_laws_checked_something() -> None:
    report = audit(sliced())
    assert report.ok, [(law.code, law.deviations) for law in report.laws if not law.ok]
    assert {law.code for law in report.laws if law.checked} >= OF_SLICES
    assert [law.code for law in report.laws if law.not_checkable] == []
    t = report.totals
    assert (t.products, t.forwarded, t.units_moving, t.repeated, t.conflicts) == (4, 8, 0, 2, 1)


def test_what_is_on_its_way_between_slices_is_no_deviation_and_is_told() -> None:
    facts = sliced()
    asked = next(r for r in facts.postgres.commands if r.action == "take_in")
    facts.postgres.commands.remove(asked)
    (entry,) = [e for e in facts.postgres.ledger if (e.kind, e.partition, e.offset) == ("move", *asked[:2])]
    facts.postgres.ledger.remove(entry)
    forwarded = max((m for m in facts.messages if m.product_id == hot(2)), key=lambda m: m.offset)
    drop(facts.postgres.decisions, place(forwarded.partition, forwarded.offset))
    report = audit(facts)
    assert report.law("slice-moves").ok
    assert (report.law("slice-moves").not_checkable, report.totals.units_moving) == (2, 2)
    assert report.law("forwards").ok
    assert report.law("forwards").not_checkable == 2, "the message, and what its line comes to"


def test_only_of_the_slice_that_is_being_told_the_entry_is_not_judged() -> None:
    facts = sliced()
    told = [r for r in facts.postgres.commands if r.action == "take_over" and r.subject == hot(1)]
    facts.postgres.commands.remove(told[-1])
    change(facts.postgres.products, of_product(hot(1)), version=1)
    law = audit(facts).law("slice-entries")
    assert (law.ok, law.not_checkable) == (True, 1)
    change(facts.postgres.products, of_product(hot(2)), version=1)
    law = audit(facts).law("slice-entries")
    assert [d.product_id for d in law.deviations] == [hot(2)]


def test_while_entries_are_handed_on_those_of_all_slices_are_not_judged() -> None:
    facts = sliced()
    first = next(r for r in facts.postgres.commands if r.action == "take_over" and r.subject == hot(1))
    facts.postgres.commands.remove(first)
    for number in (1, 2):
        drop(facts.postgres.products, of_product(hot(number)))
    law = audit(facts).law("slice-entries")
    assert (law.ok, law.not_checkable) == (True, 2)


def test_a_settlement_under_way_is_no_deviation() -> None:
    """Postgres was read between an order's payment and the decision of the holds' writer, who has it in his log."""
    facts = commanded()
    paid = next(
        r for r in facts.postgres.commands if getattr(r.command, "to", "") == "paid" and r.partition == 1
    )
    assert isinstance(paid.command, Settle)
    change(
        facts.postgres.commands, lambda r: r is paid, outcome="dead_lettered", command=None, command_id=None
    )
    found = next(h for h in facts.postgres.holds if h.product_id == paid.subject and h.state == "paid")
    change(facts.postgres.holds, lambda h: h is found, state="pending")
    law = audit(facts).law("holds")
    assert (law.ok, law.not_checkable) == (True, 1), law.deviations


def test_what_is_due_by_time_is_judged_only_where_it_ought_to_have_ended() -> None:
    facts = commanded()
    facts.postgres.read_at_ms += 10**9
    change(facts.postgres.gatherings, lambda g: g.state == "refused" and len(g.answers) == 1,
           state="gathering", decided_offset=None)  # fmt: skip
    order = next(o for o in facts.postgres.orders if o.status == "closed_by_timeout")
    change(facts.postgres.orders, lambda o: o is order, status="pending_payment")
    law = audit(facts).law("gatherings")
    assert (law.ok, law.not_checkable) == (True, 2), law.deviations
    facts.timed_out = True
    told = [d.detail for d in audit(facts).law("gatherings").deviations]
    assert told == ["open past its deadline", f"order {order.order_id} waits for a payment that is late"]


def test_what_is_open_with_the_second_stock_source_for_a_cause_is_no_deviation() -> None:
    facts = commanded()
    end, entry = facts.postgres.next_offset(0), next(e for e in facts.postgres.ledger if e.kind == "cancel")
    facts.postgres.source_open = [
        SourceOpenRow("request", A, "0-0", 3, 3),
        SourceOpenRow("return", A, "unused-0-0-more", 3, 0),
        SourceOpenRow(
            "return", entry.product_id, f"command-{entry.partition}-{entry.offset}", entry.delta, 0
        ),
        SourceOpenRow("short", A, "0-0", 1, 1),
    ]
    facts.postgres.source_requests = [
        SourceRequestRow(0, end, A, f"0-{end}", 1),
        SourceRequestRow(0, 1, A, "0-1", 1),
    ]
    facts.checkouts[0] = TopicSpan(0, end + 1)  # the batch came when Postgres was read already
    law = audit(facts).law("stock-source")
    assert (law.ok, law.not_checkable) == (True, 2), law.deviations
    facts.timed_out = True
    told = [(d.offset, d.detail) for d in audit(facts).law("stock-source").deviations]
    assert told == [(1, "its batch is decided, and nobody has ended the request")]


def test_a_copy_cut_short_for_its_size_is_a_copy() -> None:
    facts = clean()
    (dead,) = [m for m in facts.messages if m.error]
    change(facts.messages, lambda m: m is dead, value=b"{ and more")
    assert audit(facts).broken() == ["dead-letter-copies"]
    facts.letters[0] = facts.letters[0]._replace(truncated_to=1)
    assert audit(facts).ok


def test_a_dead_letter_that_can_be_read_today_deviates_until_it_is_replayed() -> None:
    """A later version may read what an earlier one could not."""
    sale = Sale()
    sale.send_garbage(0)
    sale.send(1, "hot", 2, Kind.CREATED)
    sale.send(2, "hot", 1, Kind.CREATED, buyer="b2")
    facts = sale.end()
    first = next(m for m in facts.messages if place(0, 1)(m))
    change(
        facts.messages, place(0, 0), error="", checkout_id=first.checkout_id, product_id=first.product_id,
        buyer_id=first.buyer_id, quantity=first.quantity, payload_hash=first.payload_hash,
    )  # fmt: skip
    report = audit(facts)
    assert report.ok, [(law.code, law.deviations) for law in report.laws if not law.ok]
    assert report.law("dead-letters").not_checkable == 1
    change(facts.messages, place(0, 0), line=1)
    assert audit(facts).broken() == ["dead-letters"]


def test_a_repeat_that_was_dead_lettered_was_not_replayed() -> None:
    """Its line is decided, but before."""
    facts = clean()
    change(facts.postgres.decisions, place(0, 4), kind="dead_lettered", first_offset=None)
    assert "dead-letters" in audit(facts).broken()


def test_so_it_is_with_commands() -> None:
    facts = commanded()
    unread: Any = {"outcome": "dead_lettered", "detail": "not read", "command": None, "command_id": None}
    change_row(facts, "cancel", "repeated", first_offset=None, **unread)
    assert not audit(facts).law("command-faithful").ok, "the one that it repeats was decided before"

    facts = commanded()
    first = row_of(facts, "cancel", "repeated").first_offset
    change_row(facts, "cancel", "repeated", outcome="applied", first_offset=None)
    (n,) = [n for n in range(2) if row_of(facts, "cancel", n=n).offset == first]
    change_row(facts, "cancel", n=n, **unread)
    law = audit(facts).law("command-faithful")
    assert (law.ok, law.not_checkable) == (True, 1), law.deviations


def test_what_retention_removed_of_commands_is_not_checkable() -> None:
    facts = commanded()
    facts.commands = [m for m in facts.commands if m.partition == 1 or m.offset >= 9]
    facts.commands_span[0] = TopicSpan(9, facts.commands_span[0].end)
    facts.events = [e for e in facts.events if e.partition == 1 or e.offset >= 4]
    facts.events_span[0] = TopicSpan(4, facts.events_span[0].end)
    report = audit(facts)
    assert report.ok, [(law.code, law.deviations) for law in report.laws if not law.ok]
    assert report.law("commands-complete").not_checkable == 9
    assert report.law("command-events").not_checkable > 0
    assert report.law("commands-asked").not_checkable > 0


def test_deviations_tell_where_they_lie() -> None:
    facts = clean()
    lost_decision(facts)
    report = audit(facts)
    (deviation,) = report.law("log-complete").deviations
    assert (deviation.product_id, deviation.checkout_id) == ("book", checkout(6))
    assert (deviation.partition, deviation.offset) == (1, 1)
    assert report.totals.lost == 1


def test_what_retention_removed_is_counted_as_not_checkable() -> None:
    facts = clean()
    facts.messages = [m for m in facts.messages if m.partition == 1 or m.offset >= 3]
    facts.checkouts[0] = TopicSpan(3, 7)
    facts.events = [e for e in facts.events if e.partition == 1 or e.offset >= 2]
    facts.events_span[0] = TopicSpan(2, facts.events_span[0].end)
    report = audit(facts)
    assert report.ok, report.broken()
    assert report.law("log-founded").not_checkable == 3
    assert report.law("events").not_checkable == 2
    assert report.law("order-events").not_checkable == 2
    assert report.law("figures").not_checkable == 1
    assert "retention" in report.law("events").note


def test_redeliveries_with_equal_data_are_counted_and_no_deviation() -> None:
    facts = clean()
    facts.events.append(facts.events[0]._replace(offset=facts.events_span[0].end))
    facts.events_span[0] = TopicSpan(0, facts.events_span[0].end + 1)
    report = audit(facts)
    assert report.ok, report.broken()
    assert report.totals.redelivered_events == 1


def test_what_is_decided_and_published_after_the_snapshot_is_no_deviation() -> None:
    facts = clean()
    facts.events.append(facts.events[0]._replace(event_id="0-7", offset=facts.events_span[0].end))
    document = facts.cache.results[0].document
    assert document is not None
    facts.cache.results.append(ResultFact(checkout(60), "hot", document._replace(offset=7)))
    facts.letters.append(facts.letters[0]._replace(source=(0, 8)))
    report = audit(facts)
    assert report.ok, report.broken()
    assert report.law("cache-results").not_checkable == 1


def test_a_cache_that_is_empty_moving_or_away_is_no_deviation() -> None:
    facts = clean()
    facts.cache.stock = [ShownStock("hot", None, True, False, (3, 0)), facts.cache.stock[1]]
    facts.cache.stock[1] = facts.cache.stock[1]._replace(shown=(2, 2), settled=False)
    facts.cache.products = [
        ShownProduct("hot", None, True, HOT),
        ShownProduct("book", msgspec.structs.replace(BOOK, version=2), True, BOOK, settled=False),
    ]
    facts.cache.progress = [ShownProgress(0, None, True, (3, 7))]
    facts.cache.results = []
    report = audit(facts)
    assert report.ok, report.broken()
    assert report.law("cache-stock").not_checkable == 2
    assert report.law("cache-products").not_checkable == 2
    facts.cache = CacheFacts(away="refused")
    report = audit(facts)
    assert report.ok
    assert "refused" in report.law("cache-results").note


def test_a_restock_between_two_orders_leaves_both_refusals_possible() -> None:
    sale = Sale()
    sale.send(1, "book", 10, Kind.CREATED)
    sale.send(2, "book", 20, Kind.REFUSED, reason=Reason.SOLD_OUT)
    sale.restock(5)
    sale.send(3, "book", 20, Kind.REFUSED, reason=Reason.INSUFFICIENT_STOCK)
    sale.send(4, "book", 5, Kind.CREATED)
    report = audit(sale.end())
    assert report.ok, [(law.code, law.deviations) for law in report.laws if not law.ok]


def test_limits_of_a_changed_catalogue_entry_are_not_checkable() -> None:
    facts = clean()
    change(facts.postgres.products, of_product("hot"), buyer_limit=1, version=2)
    report = audit(facts)
    assert report.ok, report.broken()
    assert report.law("purchases").not_checkable == 2
    assert report.law("refusals").not_checkable == 1


def test_prices_of_a_changed_catalogue_entry_are_not_judged() -> None:
    facts = clean()
    change(facts.postgres.products, of_product("book"), price=PRICE + 1, version=2)
    report = audit(facts)
    assert report.ok, report.broken()


def test_refusals_by_a_changed_catalogue_entry_are_not_checkable() -> None:
    facts = clean()
    change(facts.postgres.products, of_product("box"), on_shelf=True, version=2)
    report = audit(facts)
    assert report.ok, report.broken()
    assert report.law("refusals").not_checkable == 1


def test_a_product_may_have_been_loaded_after_it_was_refused_as_unknown() -> None:
    facts = clean()
    change(facts.postgres.decisions, place(1, 3), reason="unknown_product")
    for at_ms in (AT_MS - 60_000, AT_MS + 1):
        change(facts.postgres.ledger, of_product("box"), opened_at_ms=at_ms)
        assert audit(facts).law("refusals").ok


@pytest.mark.parametrize(
    ("window", "ok"),
    [
        ({"sale_to": from_ms(AT_MS)}, True),
        (
            {"sale_to": from_ms(AT_MS) + timedelta(microseconds=500)},
            True,
        ),  # at some moment of the millisecond
        ({"sale_to": from_ms(AT_MS + 1)}, False),
        ({"sale_from": from_ms(AT_MS) + timedelta(microseconds=1)}, True),
        ({"sale_from": from_ms(AT_MS), "sale_to": from_ms(AT_MS + 1)}, False),
    ],
)
def test_a_window_is_held_against_the_time_of_the_decision(window: dict[str, datetime], ok: bool) -> None:
    facts = clean()
    change(facts.postgres.decisions, place(1, 1), reason="not_on_sale")
    change(facts.postgres.products, of_product("book"), **window)
    assert audit(facts).law("refusals").ok is ok


def test_an_expected_total_that_is_not_kept_is_not_checkable() -> None:
    facts = clean()
    change(facts.postgres.decisions, place(1, 1), reason="price_changed")
    law = audit(facts).law("refusals")
    assert (law.ok, law.not_checkable) == (True, 1)
    change(facts.messages, place(1, 1), expected=Money("29.69", "CNY"))
    law = audit(facts).law("refusals")
    assert (law.ok, law.not_checkable) == (True, 0)


def test_an_order_is_unknown_to_others_and_before_it_is_made() -> None:
    facts = commanded()
    command = row_of(facts, "cancel", "refused").command
    of_other = msgspec.structs.replace(command, buyer_id="b9")
    made_ms = place_in(order_of(facts, "cancelled"))[0]
    for asked, at_ms, ok in (
        (command, made_ms, True),
        (command, made_ms + 1, False),
        (of_other, made_ms + 1, True),
    ):
        change_row(facts, "cancel", "refused", reason="unknown_order", command=asked, decided_at_ms=at_ms)
        assert audit(facts).law("order-life").ok is ok


@pytest.mark.parametrize(
    ("reason", "outcome", "reference", "ok"),
    [
        ("unknown_order", "paid", "new", False),
        ("not_allowed", "paid", "new", False),
        ("not_allowed", "failed", "taken", False),
        ("not_allowed", "refunded", "new", False),
        ("not_allowed", "refunded", "taken", True),  # it is not due back
        ("not_allowed", "refunded", "back", True),
        ("amount_mismatch", "paid", "new", True),
        ("amount_mismatch", "failed", "new", False),
    ],
)
def test_what_a_payment_may_be_refused_for(reason: str, outcome: str, reference: str, ok: bool) -> None:
    facts = commanded()
    row = row_of(facts, "pay", "refused")
    (order,) = [o for o in facts.postgres.orders if o.order_id == row.subject]
    life = Life(order, [], None)
    life.payment, life.reference, life.given_back = "paid", "taken", {"back"}
    notice = msgspec.structs.replace(row.command, outcome=outcome, reference=reference)
    later = row._replace(command=notice, reason=reason, decided_at_ms=row.decided_at_ms + 1)
    wrong, *_ = life.take(later, took_again=False)
    assert (not wrong) is ok, wrong


def test_an_order_that_no_payment_could_be_taken_for_is_refused_though_all_is_held() -> None:
    facts = commanded()
    found = next(g for g in facts.postgres.gatherings if g.checkout_id == uuid_of("halfway"))
    (one,) = found.answers
    for answer in (one._replace(lines=1, price="1000000000000"), one._replace(lines=1)):
        change(facts.postgres.gatherings, lambda g: g.checkout_id == uuid_of("halfway"), answers=(answer,))
        assert audit(facts).law("gatherings").ok is (answer.price != one.price)


def test_figures_that_lag_are_judged_as_far_as_they_are() -> None:
    facts = clean()
    facts.postgres.figure_states = {0: 1}
    facts.postgres.figures = facts.postgres.figures[:1]
    facts.postgres.figures[0] = facts.postgres.figures[0]._replace(lines=1, units=2, amount=PRICE * 2)
    report = audit(facts)
    assert report.ok, report.broken()
    assert report.law("figures").not_checkable == 1


def test_an_order_id_is_read_back_without_the_contract() -> None:
    assert place_in(order_id_of(AT_MS, 4095, 2**62 - 1)) == (AT_MS, 4095, 2**62 - 1)
    with pytest.raises(ValueError, match="version 8"):
        place_in("00000000-0000-4000-8000-000000000000")


def test_deviations_are_capped_but_counted() -> None:
    law = Law("x", "y")
    for _ in range(DEVIATIONS_KEPT_MAX + 5):
        law.deviate("z")
    assert (law.deviation_count, len(law.deviations)) == (DEVIATIONS_KEPT_MAX + 5, DEVIATIONS_KEPT_MAX)


def test_all_wrong_results_are_known_and_not_just_those_that_are_kept() -> None:
    facts = clean()
    many = [checkout(1000 + n) for n in range(DEVIATIONS_KEPT_MAX + 5)]
    facts.cache.results += [ResultFact(checkout_id, "hot", None) for checkout_id in many]
    assert len(audit(facts).law("cache-results").deviations) == DEVIATIONS_KEPT_MAX
    assert wrong_results(facts) == set(many)


def test_the_report_as_json_and_on_the_screen() -> None:
    facts = clean()
    facts.events.clear()
    report = audit(facts)
    document = orjson.loads(report.to_json())
    assert document["ok"] is False
    events = next(law for law in document["laws"] if law["code"] == "events")
    assert events["deviation_count"] == 9
    assert events["deviations"][0]["partition"] == 0
    for n in range(20):
        report.law("events").deviate(f"[more] {n}")
    screen = StringIO()
    render(report, Console(file=screen, width=140))
    told = screen.getvalue()
    assert "Broken: events, order-events, figures" in told
    assert "and 9 more" in told
    assert "[more] 0" in told
    screen = StringIO()
    render(audit(clean()), Console(file=screen, width=140))
    assert "Every law holds" in screen.getvalue()
