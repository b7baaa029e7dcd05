"""Laws of the commands topic: every command is decided once, as what it says, and the same one again has no effect."""

from stock_ledger.audit.book import APPLIED, DEAD, READABLE, REFUSED, REPEATED, Book, Place, replayed, where
from stock_ledger.audit.command_facts import CommandMessage, CommandRow
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law

_OUTCOMES = (APPLIED, REFUSED, REPEATED, DEAD)


def drained(book: Book) -> Law:
    law = Law("commands-drained", "Every command that was in the log when the audit began is decided")
    for p, target in sorted(book.facts.command_target.items()):
        first = book.facts.commands_span[p].first
        law.checked += max(target - first, 0)
        for offset in range(max(book.facts.postgres.next_command(p), first), target):
            law.deviate("undecided when the wait was over", place=(p, offset))
    return law


def complete(book: Book) -> Law:
    law = Law(
        "commands-complete",
        "Every command below a partition's next command has exactly one decision, and no decision lacks its command",
    )
    for p in sorted({*book.command_messages, *book.command_rows}):
        messages, rows = book.command_messages.get(p, {}), book.command_rows.get(p, {})
        span, next_command = book.facts.commands_span.get(p), book.facts.postgres.next_command(p)
        first = 0 if span is None else span.first
        dropped = {offset for offset in messages if offset not in rows and book.history.obeyed(p, offset)}
        law.skip(len(dropped), DROPPED)
        for offset in messages:
            if offset < next_command and offset not in dropped:
                law.checked += 1
                if offset not in rows:
                    law.deviate("lost: the command has no decision", place=(p, offset))
        if first > next_command:
            law.deviate(
                f"lost: commands {next_command} to {first - 1} were removed from the log before they were decided",
                place=(p, next_command),
            )
        law.skip(sum(offset < first for offset in rows), "retention removed the beginning of the log")
        for offset, row in rows.items():
            if offset >= first and offset not in messages:
                law.deviate(f"{row.outcome}, but the log has no command there", place=(p, offset))
        law.checked += 1
        after = max(max(rows) + 1 if rows else 0, book.history.next_command(p))
        if after != next_command:
            law.deviate(
                f"next_command is {next_command}, one past the last decision is {after}", place=(p, after)
            )
    for row in book.commands_twice:
        law.deviate("decided twice", place=where(row))
    return law


def faithful(book: Book) -> Law:
    law = Law(
        "command-faithful",
        "A decision names the command of its message; exactly those that are not valid are dead-lettered",
    )
    again = _replayed(book)
    for p, rows in sorted(book.command_rows.items()):
        messages = book.command_messages.get(p, {})
        for offset, row in rows.items():
            message = messages.get(offset)
            if message is None:
                continue  # judged by commands-complete
            if row.outcome == DEAD and where(row) in again:
                law.skip(1, READABLE)
                continue
            law.checked += 1
            if wrong := _unfaithful(
                message, row, erased=not row.pseudonyms.isdisjoint(book.history.pseudonyms)
            ):
                law.deviate(wrong, place=(p, offset))
    return law


def _replayed(book: Book) -> set[Place]:
    dead: dict[str, list[CommandRow]] = {}
    for row in book.facts.postgres.commands:
        if row.outcome == DEAD:
            message = book.command_messages.get(row.partition, {}).get(row.offset)
            if message is not None and message.command is not None:
                dead.setdefault(message.command.command_id, []).append(row)
    decided = (row for row in book.facts.postgres.commands if row.outcome in (APPLIED, REFUSED))
    return replayed(dead, ((row.command_id, row) for row in decided))


def _unfaithful(message: CommandMessage, row: CommandRow, *, erased: bool) -> str:
    """`erased`: it was of a buyer whose data was erased, here and not in the log."""
    command = message.command
    if command is None:
        return "" if row.outcome == DEAD else f"not valid ({message.error}), but {row.outcome}"
    if row.outcome == DEAD:
        return f"valid, but dead-lettered: {row.detail}"
    if row.outcome not in _OUTCOMES:
        return f"outcome {row.outcome} is not known"
    if (row.outcome == REFUSED) != (row.reason is not None):
        return f"{row.outcome}, with the reason {row.reason}"
    actor = command.actor if erased else row.actor
    told = (row.command_id, row.action, row.subject, actor)
    true = (
        command.command_id,
        str(command.__struct_config__.tag),
        command.subject(),
        command.actor,
    )
    if told != true:
        return f"(command_id, action, subject, actor) is {told}, the message's {true}"
    return "" if erased or row.command == command else "the document kept is not the message's command"


def repeats(book: Book) -> Law:
    law = Law(
        "command-repeats",
        "A command is applied or refused once; the same one again points at it and does nothing",
    )
    firsts: dict[str | None, CommandRow] = {}
    for row in book.facts.postgres.commands:
        if row.outcome == DEAD:
            continue
        law.checked += 1
        if row.outcome in (APPLIED, REFUSED):
            first = firsts.setdefault(row.command_id, row)
            if first is not row:
                law.deviate(f"decided anew, first at {first.partition}:{first.offset}", place=where(row))
            if row.first_offset is not None:
                law.deviate(f"{row.outcome}, but points at offset {row.first_offset}", place=where(row))
    for row in book.facts.postgres.commands:
        if row.outcome == REPEATED and row.command_id not in firsts and book.history.floor_ms:
            law.skip(1, DROPPED)
        elif row.outcome == REPEATED and (wrong := _wrong_repeat(row, firsts.get(row.command_id), book)):
            law.deviate(wrong, place=where(row))
    return law


def _wrong_repeat(row: CommandRow, first: CommandRow | None, book: Book) -> str:
    if first is None:
        return "repeated, but the command was never decided"
    # An id of another partition's command is found there, too: its offset says nothing about this partition's order.
    if first.offset != row.first_offset:
        return f"repeated of offset {row.first_offset}, but the first decision is at {first.partition}:{first.offset}"
    if first.partition == row.partition and first.offset >= row.offset:
        return f"repeated before its first decision at offset {first.offset}"
    if row.events or row.asked or row.results:
        return "repeated, but something was told of it"
    return "repeated, but stock moved" if book.command_entries.get(where(row)) else ""
