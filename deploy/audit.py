"""The audit of a deployment: gathers the facts from Kafka, Postgres and the cache, and shows what the laws say."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contracts.settings import Settings
from contracts.topics import Topics
from deploy.audit_commands import nothing_of, read_commands
from deploy.records import LOOK_S, Offsets, Records, reading
from stock_ledger.audit.book import DEAD, FORWARDED
from stock_ledger.audit.cache import read_cache
from stock_ledger.audit.decode import event_fact, letter_fact, message_fact
from stock_ledger.audit.events import has_event
from stock_ledger.audit.facts import EventFact, Facts, LetterFact, MessageFact, PostgresFacts, TopicSpan
from stock_ledger.audit.laws import audit
from stock_ledger.audit.postgres import next_commands_now, snapshot, states_now
from stock_ledger.audit.report import AuditReport, Law
from stock_ledger.pool import connect_pool

_SHOWN_MAX = 20  # deviations of a law on the screen


async def run(settings: Settings, drain_timeout_s: float = 30.0, *, timed_out: bool = False) -> AuditReport:
    """Audit the deployment. Waits at most `drain_timeout_s` for what is in the log to be decided and published.

    `timed_out` says that whatever is due by time ought to have ended; without it that is not judged.
    Changes nothing. Raises Unavailable if Kafka or Postgres does not answer; a cache that does not is reported, one
    that does not let itself be read raises SettingsError.
    """
    _, report = await run_on_facts(settings, drain_timeout_s, timed_out=timed_out)
    return report


async def run_on_facts(
    settings: Settings, drain_timeout_s: float, *, timed_out: bool = False
) -> tuple[Facts, AuditReport]:
    """The same, with the facts that were audited, for those who hold something else against them."""
    started = time.monotonic()
    deadline = started + drain_timeout_s
    pool = await connect_pool(settings)
    try:
        with _uncollected():
            async with reading(settings) as log:
                facts = await _gather(settings, log, pool, deadline)
                facts.timed_out = timed_out
            return facts, await asyncio.to_thread(audit, facts, started)
    finally:
        await pool.close()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cyclic collector: going through millions of facts again and again takes a third of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


async def _gather(settings: Settings, log: Records, pool: "asyncpg.Pool[Any]", deadline: float) -> Facts:
    """Postgres first: what it decided can only be older than what the log and the events hold by then."""
    topics = Topics(settings)
    target = await log.ends(topics.checkouts)
    command_target = await log.ends(topics.commands)
    await _wait_decided(pool, target, command_target, deadline)
    postgres = await snapshot(pool)
    messages = await _messages(log, topics.checkouts, target, postgres, deadline)
    letters = await _letters(log, topics.dead_letters)
    commands, commands_span = await read_commands(log, topics.commands, postgres, deadline)
    events, events_span = await _events(log, topics.events, postgres, deadline)
    return Facts(
        partitions=settings.partitions,
        target=target,
        checkouts=await log.spans(topics.checkouts),
        events_span=events_span,
        letters_span=await log.spans(topics.dead_letters),
        postgres=postgres,
        messages=messages,
        events=events,
        letters=letters,
        cache=await read_cache(pool, settings),
        command_target=command_target,
        commands_span=commands_span,
        commands=commands,
    )


async def _wait_decided(
    pool: "asyncpg.Pool[Any]", target: Offsets, command_target: Offsets, deadline: float
) -> None:
    while True:
        states, commands = await states_now(pool), await next_commands_now(pool)
        decided = all(states.get(p, (0, 0))[1] >= end for p, end in target.items())
        obeyed = all(commands.get(p, 0) >= end for p, end in command_target.items())
        if (decided and obeyed) or time.monotonic() > deadline:
            return
        await asyncio.sleep(LOOK_S)


async def _messages(
    log: Records, topic: str, target: Offsets, postgres: PostgresFacts, deadline: float
) -> list[MessageFact]:
    """All that was there when the audit began or is decided since. Dead letters' bytes are kept to compare them.

    Where lines were sent on between slices, which is done a moment after the commit, all that is there once they are.
    """
    dead = {(row.partition, row.offset) for row in postgres.decisions if row.kind == DEAD}
    missing = {hash(row.detail.encode()) for row in postgres.decisions if row.kind == FORWARDED}
    messages: list[MessageFact] = []

    def take(r: Any) -> None:
        keep = (r.partition, r.offset) in dead
        message = message_fact(r.partition, r.offset, r.key, r.value, log.partitions, keep=keep)
        messages.append(message)
        missing.discard(message.value_hash)

    if missing:  # where retention has cut the topic, what is not there may have been
        await log.read_until(topic, take, lambda firsts: not missing or any(firsts.values()), deadline)
    else:
        ends = await log.ends(topic)
        due = {p: min(end, max(target[p], postgres.next_offset(p))) for p, end in ends.items()}
        async for record in log.read(topic, await log.firsts(topic), due):
            take(record)
    messages.sort(key=lambda message: (message.partition, message.offset))
    return messages


async def _letters(log: Records, topic: str) -> list[LetterFact]:
    return [
        letter_fact(r.partition, r.offset, r.key, r.value, r.headers)
        async for r in log.read(topic, await log.firsts(topic), await log.ends(topic))
    ]


async def _events(
    log: Records, topic: str, postgres: PostgresFacts, deadline: float
) -> tuple[list[EventFact], dict[int, TopicSpan]]:
    """All events; waits for those of decisions made, which are published a moment after the commit."""
    missing: dict[int, set[str]] = {p: set() for p in range(log.partitions)}
    for row in postgres.decisions:
        if has_event(row):
            missing[row.partition].add(f"{row.partition}-{row.offset}")
    for command in postgres.commands:
        missing[command.partition].update(event.event_id for event in command.events)
    events: list[EventFact] = []

    def take(r: Any) -> None:
        event = event_fact(r.partition, r.offset, r.key, r.value, r.headers)
        events.append(event)
        missing[r.partition].discard(event.event_id)

    spans = await log.read_until(topic, take, nothing_of(missing), deadline)
    events.sort(key=lambda event: (event.partition, event.offset))
    return events, spans


def render(report: AuditReport, console: Console) -> None:
    """The laws as a table, the totals, and the first deviations of each broken law."""
    table = Table(title="Audit", title_justify="left", caption=_totals(report), caption_justify="left")
    table.add_column("")
    table.add_column("law", no_wrap=True)
    table.add_column("says", overflow="fold")
    for heading in ("checked", "not checkable", "deviations"):
        table.add_column(heading, justify="right")
    for law in report.laws:
        colour, mark = _verdict(law)
        table.add_row(
            f"[{colour}]{mark}[/]",
            f"[{colour}]{law.code}[/]",
            escape(law.title),
            f"{law.checked:,}",
            f"{law.not_checkable:,}" if law.not_checkable else "",
            f"[bold red]{law.deviation_count:,}[/]" if law.deviation_count else "0",
        )
    console.print(table)
    for law in report.laws:
        if law.not_checkable:
            console.print(f"[yellow]{law.code}[/]: {law.not_checkable:,} not checkable: {escape(law.note)}")
    for law in report.laws:
        _render_deviations(law, console)
    verdict = (
        "[bold green]Every law holds[/]"
        if report.ok
        else f"[bold red]Broken: {', '.join(report.broken())}[/]"
    )
    console.print(f"{verdict} ({report.duration_s:.1f} s)")


def _verdict(law: Law) -> tuple[str, str]:
    if not law.ok:
        return "red", "✗"
    return ("green", "✓") if law.checked or not law.not_checkable else ("yellow", "?")


def _render_deviations(law: Law, console: Console) -> None:
    if law.ok:
        return
    console.print(f"\n[bold red]{law.code}[/]: {escape(law.title)}")
    for deviation in law.deviations[:_SHOWN_MAX]:
        at = [] if deviation.partition is None else [f"{deviation.partition}:{deviation.offset}"]
        about = [*at, deviation.product_id, deviation.checkout_id]
        console.print(
            f"  {escape(' '.join(part for part in about if part))}  {escape(deviation.detail)}",
            highlight=False,
        )
    if law.deviation_count > _SHOWN_MAX:
        console.print(f"  and {law.deviation_count - _SHOWN_MAX:,} more")


def _totals(report: AuditReport) -> str:
    t = report.totals
    refused = ", ".join(f"{reason} {count:,}" for reason, count in sorted(t.refused.items())) or "none"
    commands = ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(t.commands.items())) or "none"
    return (
        f"{t.messages:,} messages, {t.decided:,} decided: {t.created:,} created, {t.held:,} held, {t.repeated:,} repeated, "
        f"{t.forwarded:,} sent on, {t.conflicts:,} conflicts, {t.dead_lettered:,} dead-lettered; refused: {refused}.\n"
        f"{t.units_sold:,} units of {t.products:,} products sold, {t.oversold:,} oversold, {t.lost:,} lost; "
        f"{t.events:,} events, {t.redelivered_events:,} redelivered; commands: {commands}."
    )
