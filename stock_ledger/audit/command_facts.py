"""The facts an audit judges of commands: what was asked, what came of it, what is held, due back, or open elsewhere."""

from typing import NamedTuple

from contracts.commands import Command


class CommandMessage(NamedTuple):
    """A message of the commands topic. `error` says why it is not valid; `command` is None then.

    `key` and `value` are kept where a dead letter is to be compared with them.
    """

    partition: int
    offset: int
    error: str
    command: Command | None = None
    key: bytes | None = None
    value: bytes | None = None


class ToldEvent(NamedTuple):
    """An event as a command's decision keeps it."""

    event_id: str
    type: str
    key: bytes
    sequence: int | None
    value_hash: int


class ToldCommand(NamedTuple):
    """A command that a decision asks of another one's partition; None if it cannot be read."""

    partition: int
    command: Command | None


class WholeDocument(NamedTuple):
    """The one answer to an all-or-nothing checkout: as it was told, or as it is shown."""

    partition: int
    offset: int  # of the command that decided it
    checkout_id: str
    buyer_id: str
    status: str
    order_id: str
    total: str
    currency: str
    lines: tuple[tuple[str, int, str], ...]  # (product_id, quantity, reason)
    value_hash: int


class ToldResult(NamedTuple):
    """A result that a command's decision has shown; `document` is None if it cannot be read."""

    checkout_id: str
    field: str
    document: WholeDocument | None


class CommandRow(NamedTuple):
    """A decided command. `command` is None for a dead letter."""

    partition: int
    offset: int
    command_id: str | None
    action: str
    subject: str
    actor: str
    outcome: str
    reason: str | None
    detail: str
    first_offset: int | None
    decided_at_ms: int
    command: Command | None = None
    events: tuple[ToldEvent, ...] = ()
    asked: tuple[ToldCommand, ...] = ()
    results: tuple[ToldResult, ...] = ()
    pseudonyms: frozenset[str] = frozenset()  # names in it that look like those of erased buyers


class HoldRow(NamedTuple):
    checkout_id: str
    product_id: str
    buyer_id: str
    quantity: int
    state: str
    counted: bool
    order_id: str | None


class AnswerFact(NamedTuple):
    """One line's answer as a gathering keeps it. `reason` is empty for a line that was held."""

    product_id: str
    line: int
    lines: int
    quantity: int
    reason: str
    price: str
    currency: str


class GatheringRow(NamedTuple):
    checkout_id: str
    partition: int
    state: str
    deadline_ms: int
    answers: tuple[AnswerFact, ...]
    order_id: str | None
    decided_at_ms: int | None
    decided_offset: int | None


class RefundRow(NamedTuple):
    order_id: str
    reference: str
    provider: str
    refunded: bool


class SourceRequestRow(NamedTuple):
    """What the batch that begins at `next_offset` has asked a second stock source for."""

    partition: int
    next_offset: int
    product_id: str
    batch: str
    units: int


class SourceOpenRow(NamedTuple):
    """What is to be made good with a second stock source: a "return", a "request" without an answer, or what is "short"."""

    kind: str
    product_id: str
    cause: str
    units: int
    sold: int
