"""The commands topic as an audit reads it: all of it, and what decisions have asked and is still being sent."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from contracts.topics import partition_of
from deploy.records import Offsets, Records
from stock_ledger.audit.book import DEAD, FIRST
from stock_ledger.audit.command_facts import CommandMessage
from stock_ledger.audit.decode_commands import command_message
from stock_ledger.audit.facts import PostgresFacts, TopicSpan


async def read_commands(
    log: Records, topic: str, postgres: PostgresFacts, deadline: float
) -> tuple[list[CommandMessage], dict[int, TopicSpan]]:
    """All commands; waits for those that decisions ask for, which are sent a moment after the commit."""
    missing = _asked(postgres, log.partitions)
    dead = {(row.partition, row.offset) for row in postgres.commands if row.outcome == DEAD}
    commands: list[CommandMessage] = []

    def take(r: Any) -> None:
        keep = (r.partition, r.offset) in dead
        message = command_message(r.partition, r.offset, r.key, r.value, log.partitions, keep=keep)
        commands.append(message)
        command = message.command
        if command is not None:
            missing[r.partition].discard(command.command_id)
            missing[r.partition].discard(f"{command.subject()} {getattr(command, 'product_id', '')}")

    spans = await log.read_until(topic, take, nothing_of(missing), deadline)
    commands.sort(key=lambda message: (message.partition, message.offset))
    return commands, spans


def nothing_of(missing: Mapping[int, Collection[str]]) -> Callable[[Offsets], bool]:
    """Whether nothing is missing any more. Where retention has cut the topic, what is not there may have been."""
    return lambda firsts: not any(of_p for p, of_p in missing.items() if firsts[p] == 0)


def _asked(postgres: PostgresFacts, partitions: int) -> dict[int, set[str]]:
    """By partition the ids of commands asked for, and of lines of whole checkouts "checkout product" of their answer."""
    asked: dict[int, set[str]] = {p: set() for p in range(partitions)}
    for row in postgres.commands:
        for partition, command in row.asked:
            if command is not None:
                asked[partition].add(command.command_id)
    for decision in postgres.decisions:
        if decision.whole and decision.kind in FIRST and decision.checkout_id is not None:
            place = partition_of(decision.checkout_id, partitions)
            asked[place].add(f"{decision.checkout_id} {decision.product_id}")
    return asked
