"""Laws of the log: every message is decided once, as what it says, and what is not valid is set aside."""

from contracts.topics import Stream
from stock_ledger.audit.book import DEAD, FIRST, READABLE, Book, Place, replayed, where
from stock_ledger.audit.command_facts import CommandMessage, CommandRow
from stock_ledger.audit.facts import DecisionRow, LetterFact, MessageFact
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.report import Law

CHECKOUTS, COMMANDS = str(Stream.CHECKOUTS), str(Stream.COMMANDS)


def drained(book: Book) -> Law:
    law = Law("log-drained", "Every message that was in the log when the audit began is decided")
    for p, target in sorted(book.facts.target.items()):
        next_offset, first = book.facts.postgres.next_offset(p), book.facts.checkouts[p].first
        law.checked += max(target - first, 0)
        for offset in range(max(next_offset, first), target):
            message = book.messages[p].get(offset)
            law.deviate(
                "undecided when the wait was over",
                product_id=message.product_id if message else "",
                checkout_id=message.checkout_id if message else "",
                place=(p, offset),
            )
    return law


def complete(book: Book) -> Law:
    """Nothing below a partition's next offset is without its one decision."""
    law = Law("log-complete", "Every message below a partition's next offset has exactly one decision")
    for p, messages in book.messages.items():
        next_offset, decisions = book.facts.postgres.next_offset(p), book.decisions[p]
        for offset, message in messages.items():
            if offset >= next_offset:
                continue
            if offset not in decisions and book.history.decided(p, offset):
                law.skip(1, DROPPED)
                continue
            law.checked += 1
            if offset not in decisions:
                law.deviate(
                    "lost: the message has no decision",
                    product_id=message.product_id,
                    checkout_id=message.checkout_id,
                    place=(p, offset),
                )
        first = book.facts.checkouts[p].first
        if first > next_offset:
            law.checked += 1
            law.deviate(
                f"lost: offsets {next_offset} to {first - 1} were removed from the log before they were decided",
                place=(p, next_offset),
            )
    for row in book.twice:
        law.deviate(
            "decided twice",
            product_id=row.product_id,
            checkout_id=row.checkout_id,
            place=where(row),
        )
    return law


def founded(book: Book) -> Law:
    law = Law("log-founded", "Every decision has its message in the log")
    for p, decisions in book.decisions.items():
        messages, span = book.messages.get(p, {}), book.facts.checkouts.get(p)
        gone = 0
        for offset, row in decisions.items():
            if span is not None and offset < span.first:
                gone += 1
                continue
            law.checked += 1
            if offset not in messages:
                law.deviate(
                    f"{row.kind}, but the log has no message there",
                    product_id=row.product_id,
                    checkout_id=row.checkout_id,
                    place=(p, offset),
                )
        law.skip(gone, "retention removed the beginning of the log")
    return law


def position(book: Book) -> Law:
    law = Law("log-position", "A partition's next offset is one past its last decision")
    postgres = book.facts.postgres
    for p, decisions in sorted(book.decisions.items()):
        law.checked += 1
        after = max(max(decisions) + 1 if decisions else 0, book.history.next_offset(p))
        if postgres.next_offset(p) != after:
            law.deviate(
                f"next_offset is {postgres.next_offset(p)}, one past the last decision is {after}",
                place=(p, after),
            )
    return law


def faithful(book: Book) -> Law:
    law = Law(
        "decision-faithful",
        "A decision names the checkout, product, buyer, quantity and payload of its message",
    )
    for message, row in book.decided_messages():
        if message.error or row.kind == DEAD:
            continue  # judged by dead-letters
        law.checked += 1
        differ = _differences(message, row)
        if differ and not (
            row.buyer_id in book.history.pseudonyms and len(differ) == 1 and "buyer_id" in differ[0]
        ):
            law.deviate(
                "; ".join(differ),
                product_id=message.product_id,
                checkout_id=message.checkout_id,
                place=where(row),
            )
    return law


def _differences(message: MessageFact, row: DecisionRow) -> list[str]:
    if (
        message.checkout_id == row.checkout_id
        and message.product_id == row.product_id
        and message.buyer_id == row.buyer_id
        and message.quantity == row.quantity
        and message.payload_hash == row.payload_hash
        and message.line == row.line
    ):
        return []
    names = ("checkout_id", "product_id", "buyer_id", "quantity", "payload_hash", "line")
    return [
        f"{name} is {getattr(row, name)}, the message's {getattr(message, name)}"
        for name in names
        if getattr(row, name) != getattr(message, name)
    ]


def dead_letters(book: Book) -> Law:
    law = Law("dead-letters", "Exactly the messages that are not valid are dead-lettered")
    again = _replayed(book)
    for message, row in book.decided_messages():
        if row.kind == DEAD and where(row) in again:
            law.skip(1, READABLE)
            continue
        law.checked += 1
        if bool(message.error) != (row.kind == DEAD):
            law.deviate(
                f"not valid ({message.error}), but {row.kind}"
                if message.error
                else f"valid, but dead-lettered: {row.detail}",
                product_id=message.product_id,
                checkout_id=message.checkout_id,
                place=where(row),
            )
    return law


def _replayed(book: Book) -> set[Place]:
    dead: dict[tuple[str, int], list[DecisionRow]] = {}
    for row in book.facts.postgres.decisions:
        if row.kind == DEAD:
            message = book.messages.get(row.partition, {}).get(row.offset)
            if message is not None and not message.error:
                dead.setdefault((message.checkout_id, message.line), []).append(row)
    decided = (row for row in book.facts.postgres.decisions if row.kind in FIRST)
    return replayed(dead, (((row.checkout_id, row.line), row) for row in decided))


def dead_letter_copies(book: Book) -> Law:
    law = Law(
        "dead-letter-copies",
        "Every dead-lettered message has a copy with its reason in the dead-letter topic",
    )
    copies: dict[tuple[str, Place], list[LetterFact]] = {}
    for letter in book.facts.letters:
        law.checked += 1
        if letter.source is None or letter.stream not in (CHECKOUTS, COMMANDS):
            law.deviate("a dead letter does not tell where it lay", place=(letter.partition, letter.offset))
            continue
        copies.setdefault((letter.stream, letter.source), []).append(letter)
        if became := _became(book, letter.stream, letter.source):
            law.deviate(f"one of the {letter.stream} was set aside, but {became}", place=letter.source)
    for p, decisions in book.decisions.items():
        for row in decisions.values():
            if row.kind == DEAD:
                message = book.messages.get(p, {}).get(row.offset)
                _judge_copies(book, law, row, message, copies.get((CHECKOUTS, where(row)), []))
    for p, commands in book.command_rows.items():
        for of_command in commands.values():
            if of_command.outcome == DEAD:
                asked = book.command_messages.get(p, {}).get(of_command.offset)
                found = copies.get((COMMANDS, where(of_command)), [])
                _judge_copies(book, law, of_command, asked, found)
    return law


def _became(book: Book, stream: str, place: Place) -> str:
    """What became of a message that is no dead letter; empty for one that is, or is not decided yet."""
    if stream == COMMANDS:
        command = book.command(place)
        return "" if command is None or command.outcome == DEAD else command.outcome
    decision = book.decision(place)
    return "" if decision is None or decision.kind == DEAD else decision.kind


def _judge_copies(
    book: Book,
    law: Law,
    row: DecisionRow | CommandRow,
    message: MessageFact | CommandMessage | None,
    found: list[LetterFact],
) -> None:
    span = book.facts.letters_span.get(row.partition)
    if not found and span is not None and span.first > 0:
        law.skip(1, "retention removed the beginning of the dead-letter topic")
        return
    law.checked += 1
    if not any(_is_copy(letter, row, message) for letter in found):
        told = "none that equals it" if found else "none"
        law.deviate(f"dead-lettered ({row.detail}), copies: {told}", place=where(row))


def _is_copy(
    letter: LetterFact, row: DecisionRow | CommandRow, message: MessageFact | CommandMessage | None
) -> bool:
    """A message that retention has removed cannot be compared; its reason and place still are."""
    cut = slice(letter.truncated_to)
    same = message is None or (
        letter.key == (message.key and message.key[cut])
        and letter.value == (message.value and message.value[cut])
    )
    return same and letter.reason == row.detail and letter.partition == row.partition
