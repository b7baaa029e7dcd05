"""The audit: laws held against facts that were gathered from outside. Pure, and independent of `decide`."""

import time
from collections.abc import Callable

from contracts.slices import product_of
from stock_ledger.audit import (
    buyers,
    causes,
    commands,
    events,
    forwards,
    holds,
    life,
    log,
    orders,
    refunds,
    repeats,
    slices,
    sources,
    stock,
    told,
    view,
)
from stock_ledger.audit.book import CONFLICT, CREATED, DEAD, FORWARDED, HELD, REFUSED, REPEATED, Book
from stock_ledger.audit.facts import Facts
from stock_ledger.audit.report import AuditReport, Law, Totals

LAWS: tuple[Callable[[Book], Law], ...] = (
    log.drained,
    log.complete,
    log.founded,
    log.position,
    log.faithful,
    log.dead_letters,
    log.dead_letter_copies,
    repeats.repeats,
    repeats.payloads,
    forwards.forwards,
    commands.drained,
    commands.complete,
    commands.faithful,
    commands.repeats,
    told.asked,
    orders.orders,
    orders.items,
    orders.payments,
    orders.entries,
    life.order_life,
    refunds.refunds,
    holds.gatherings,
    holds.holds,
    causes.entry_causes,
    causes.given_back,
    stock.sequence,
    stock.running,
    stock.conservation,
    stock.oversold,
    holds.counts,
    slices.moves,
    slices.entries,
    sources.stock_source,
    buyers.refusals,
    buyers.purchases,
    view.cache_stock,
    view.cache_products,
    view.cache_sold_out,
    view.cache_slices,
    view.cache_progress,
    view.cache_results,
    events.events,
    events.event_data,
    events.event_envelope,
    told.command_events,
    told.order_events,
    events.figures,
)


def audit(facts: Facts, started_at: float | None = None) -> AuditReport:
    """Hold every law against the facts. `started_at` is the monotonic time to count the duration from."""
    started = time.monotonic() if started_at is None else started_at
    book = Book(facts)
    laws = [law(book) for law in LAWS]
    totals = totals_of(book)
    return AuditReport(all(law.ok for law in laws), laws, totals, round(time.monotonic() - started, 3))


def totals_of(book: Book) -> Totals:
    facts, totals = book.facts, Totals()
    kinds: dict[str, int] = {}
    for row in facts.postgres.decisions:
        kinds[row.kind] = kinds.get(row.kind, 0) + 1
        if row.kind == REFUSED:
            reason = row.reason or "without a reason"
            totals.refused[reason] = totals.refused.get(reason, 0) + 1
    totals.messages = len(facts.messages)
    totals.decided = len(facts.postgres.decisions)
    totals.created = kinds.get(CREATED, 0)
    totals.repeated = kinds.get(REPEATED, 0)
    totals.conflicts = kinds.get(CONFLICT, 0)
    totals.dead_lettered = kinds.get(DEAD, 0)
    totals.lost = _lost(book)
    totals.oversold = sum(stock.oversold_units(book).values())
    totals.units_sold = sum(stock.sold(book).values())
    totals.products = len({product_of(row.product_id) for row in facts.postgres.products})
    totals.orders = len(facts.postgres.orders)
    totals.events = len(book.events) + len(book.command_events)
    totals.redelivered_events = len(facts.events) - totals.events
    totals.held = kinds.get(HELD, 0)
    totals.forwarded = kinds.get(FORWARDED, 0)
    totals.units_moving = sum(slices.units_on_their_way(book).values())
    for command in facts.postgres.commands:
        totals.commands[command.outcome] = totals.commands.get(command.outcome, 0) + 1
    totals.results_shown = len(facts.cache.results)
    return totals


def _lost(book: Book) -> int:
    """Messages without a decision that ought to have one, and offsets that the log lost undecided."""
    lost, history = 0, book.history
    for p, messages in book.messages.items():
        decisions, next_offset = book.decisions[p], book.facts.postgres.next_offset(p)
        due = max(next_offset, book.facts.target.get(p, 0))
        lost += sum(
            1
            for offset in messages
            if offset < due and offset not in decisions and not history.decided(p, offset)
        )
        lost += max(book.facts.checkouts[p].first - next_offset, 0)
    for p, asked in book.command_messages.items():
        due = max(book.facts.postgres.next_command(p), book.facts.command_target.get(p, 0))
        rows = book.command_rows.get(p, {})
        lost += sum(
            1 for offset in asked if offset < due and offset not in rows and not history.obeyed(p, offset)
        )
    return lost
