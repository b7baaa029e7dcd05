"""The commands topic as an audit reads it: all of it, and what decisions have asked and is still being sent."""

import asyncio
import time

from contracts.topics import partition_of
from deploy.records import Records
from stock_ledger.audit.book import DEAD, FIRST
from stock_ledger.audit.command_facts import CommandMessage
from stock_ledger.audit.decode_commands import command_message
from stock_ledger.audit.facts import PostgresFacts, TopicSpan

LOOK_S = 0.2  # between looks at what is still under way
PUBLISH_S = 2.0  # from a commit to what it publishes, at least waited for whatever the time limit


async def read_commands(
    log: Records, topic: str, postgres: PostgresFacts, deadline: float
) -> tuple[list[CommandMessage], dict[int, TopicSpan]]:
    """All commands; waits for those that decisions ask for, which are sent a moment after the commit."""
    missing = _asked(postgres, log.partitions)
    dead = {(row.partition, row.offset) for row in postgres.commands if row.outcome == DEAD}
    deadline = max(deadline, time.monotonic() + PUBLISH_S)
    commands: list[CommandMessage] = []
    firsts = await log.firsts(topic)
    start = firsts
    while True:
        ends = await log.ends(topic)
        async for r in log.read(topic, start, ends):
            keep = (r.partition, r.offset) in dead
            message = command_message(r.partition, r.offset, r.key, r.value, log.partitions, keep=keep)
            commands.append(message)
            command = message.command
            if command is not None:
                missing[r.partition].discard(command.command_id)
                missing[r.partition].discard(f"{command.subject()} {getattr(command, 'product_id', '')}")
        start = ends
        # Where retention has cut the topic, what is not there may have been.
        if not any(of_p for p, of_p in missing.items() if firsts[p] == 0) or time.monotonic() > deadline:
            commands.sort(key=lambda message: (message.partition, message.offset))
            return commands, {p: TopicSpan(firsts[p], end) for p, end in ends.items()}
        await asyncio.sleep(LOOK_S)


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
