"""The audit: laws held against facts that were gathered from outside. Pure, and independent of `decide`."""

import time
from collections.abc import Callable

from stock_ledger import (
    audit_buyers,
    audit_causes,
    audit_commands,
    audit_events,
    audit_holds,
    audit_life,
    audit_log,
    audit_orders,
    audit_stock,
    audit_told,
    audit_view,
)
from stock_ledger.audit_book import CONFLICT, CREATED, DEAD, HELD, REFUSED, REPEATED, Book
from stock_ledger.audit_facts import Facts
from stock_ledger.audit_report import AuditReport, Law, Totals

LAWS: tuple[Callable[[Book], Law], ...] = (
    audit_log.drained,
    audit_log.complete,
    audit_log.founded,
    audit_log.position,
    audit_log.faithful,
    audit_log.dead_letters,
    audit_log.dead_letter_copies,
    audit_log.repeats,
    audit_log.payloads,
    audit_commands.drained,
    audit_commands.complete,
    audit_commands.faithful,
    audit_commands.repeats,
    audit_told.asked,
    audit_orders.orders,
    audit_orders.items,
    audit_orders.payments,
    audit_orders.entries,
    audit_life.order_life,
    audit_holds.gatherings,
    audit_holds.holds,
    audit_causes.entry_causes,
    audit_causes.given_back,
    audit_stock.sequence,
    audit_stock.running,
    audit_stock.conservation,
    audit_stock.oversold,
    audit_holds.counts,
    audit_buyers.refusals,
    audit_buyers.purchases,
    audit_view.cache_stock,
    audit_view.cache_sold_out,
    audit_view.cache_progress,
    audit_view.cache_results,
    audit_events.events,
    audit_events.event_data,
    audit_events.event_envelope,
    audit_told.command_events,
    audit_told.order_events,
    audit_events.figures,
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
    totals.oversold = sum(audit_stock.oversold_units(book).values())
    totals.units_sold = sum(audit_stock.sold(book).values())
    totals.products = len(facts.postgres.products)
    totals.orders = len(facts.postgres.orders)
    totals.events = len(book.events) + len(book.command_events)
    totals.redelivered_events = len(facts.events) - totals.events
    totals.held = kinds.get(HELD, 0)
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
    for p, commands in book.command_messages.items():
        due = max(book.facts.postgres.next_command(p), book.facts.command_target.get(p, 0))
        rows = book.command_rows.get(p, {})
        lost += sum(
            1 for offset in commands if offset < due and offset not in rows and not history.obeyed(p, offset)
        )
    return lost
