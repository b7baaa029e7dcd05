"""Deviations of the commands topic, planted in a clean sale with commands."""

import msgspec

from stock_ledger.audit.facts import Facts, TopicSpan
from tests.harness import uuid_of
from tests.unit.audit_commands_sale import change_row, row_of
from tests.unit.audit_sale import Plants, change, drop, place

plants = Plants()


@plants.breaks("commands-drained")
def undecided_command(facts: Facts) -> None:
    message = facts.commands[0]
    facts.commands.append(message._replace(offset=facts.commands_span[0].end))
    facts.command_target[0] += 1


@plants.breaks("commands-complete", "command-events")
def lost_command(facts: Facts) -> None:
    row = row_of(facts, "patch_product")
    drop(facts.postgres.commands, lambda r: r is row)


@plants.breaks("commands-complete")
def command_decided_twice(facts: Facts) -> None:
    facts.postgres.commands.append(row_of(facts, "", "dead_lettered"))


@plants.breaks("commands-complete")
def decided_command_without_message(facts: Facts) -> None:
    row = row_of(facts, "restock")
    drop(facts.commands, place(row.partition, row.offset))


@plants.breaks("command-events", "commands-complete", "commands-drained", "order-events")
def next_command_too_low(facts: Facts) -> None:
    facts.postgres.next_commands[1] -= 1


@plants.breaks("commands-complete")
def log_lost_commands(facts: Facts) -> None:
    facts.commands_span[0] = TopicSpan(99, 99)
    facts.commands = [m for m in facts.commands if m.partition != 0]
    facts.command_target[0] = 0


@plants.breaks("command-faithful")
def command_of_another_actor(facts: Facts) -> None:
    change_row(facts, "restock", actor="merchant:other")


@plants.breaks("command-faithful", "entry-causes")
def command_with_another_document(facts: Facts) -> None:
    command = row_of(facts, "restock").command
    change_row(facts, "restock", command=msgspec.structs.replace(command, units=6))


@plants.breaks("command-faithful", "dead-letter-copies")
def valid_command_was_dead_lettered(facts: Facts) -> None:
    change_row(facts, "adjust", "refused", outcome="dead_lettered", reason=None)


@plants.breaks("command-faithful")
def refused_without_reason(facts: Facts) -> None:
    change_row(facts, "adjust", "refused", reason=None)


@plants.breaks("command-repeats")
def repeat_of_another_offset(facts: Facts) -> None:
    change_row(facts, "cancel", "repeated", first_offset=1)


@plants.breaks("command-repeats", "command-faithful")
def command_decided_anew(facts: Facts) -> None:
    change_row(facts, "cancel", "repeated", outcome="refused", first_offset=None)


@plants.breaks("dead-letter-copies")
def dead_command_without_copy(facts: Facts) -> None:
    drop(facts.letters, lambda letter: letter.stream == "commands")


@plants.breaks("dead-letter-copies")
def copy_of_a_command_taken_for_a_line(facts: Facts) -> None:
    change(facts.letters, lambda letter: letter.stream == "commands", stream="checkouts")


@plants.breaks("commands-asked")
def settlement_was_never_sent(facts: Facts) -> None:
    settle = row_of(facts, "settle")
    others = [r for r in facts.postgres.commands if r.asked and r.action != "pay"]
    row = others[0]
    asked = row.asked[0]
    assert asked.command is not None
    never = msgspec.structs.replace(settle.command, command_id=uuid_of("never sent"))
    change(facts.postgres.commands, lambda r: r is row, asked=(*row.asked, asked._replace(command=never)))


@plants.breaks("commands-asked", "commands-complete")
def hold_was_never_answered(facts: Facts) -> None:
    row = next(r for r in facts.postgres.commands if r.subject == uuid_of("halfway"))
    drop(facts.commands, place(row.partition, row.offset))
