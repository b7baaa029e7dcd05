"""Commands, and what was told of them, made into facts. What cannot be read becomes a fact that says so."""

import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from sys import intern
from typing import Any

import msgspec

from contracts.commands import Command, decode_command
from contracts.errors import UndecodableMessage
from contracts.events import CHECKOUT_REFUSED, ORDER_CREATED
from stock_ledger.audit.command_facts import (
    AnswerFact,
    CommandMessage,
    CommandRow,
    GatheringRow,
    ToldCommand,
    ToldEvent,
    ToldResult,
    WholeDocument,
)
from stock_ledger.audit.facts import EventCount

_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation, KeyError, TypeError, ValueError)


class _Told(msgspec.Struct):
    events: list[tuple[bytes, bytes, list[tuple[str, bytes]]]] = []
    commands: list[tuple[int, bytes, bytes]] = []
    results: list[tuple[str, str, bytes]] = []


class _Price(msgspec.Struct):
    amount: str
    currency: str


class _Line(msgspec.Struct):
    product_id: str
    quantity: int
    price: _Price | None = None
    reason: str = ""


class _Order(msgspec.Struct):
    order_id: str
    total: _Price


class _Whole(msgspec.Struct):
    partition: int
    command_offset: int
    checkout_id: str
    buyer_id: str
    status: str
    lines: list[_Line]
    order: _Order | None = None


class _Item(msgspec.Struct):
    product_id: str
    quantity: int
    price: str


class _Answer(msgspec.Struct):
    product_id: str
    line: int
    lines: int
    quantity: int
    reason: str = ""
    price: str = "0"
    currency: str = ""


class _Counting(msgspec.Struct):
    status: str = ""
    total: _Price | None = None
    items: list[_Item] = []
    lines: list[_Line] = []


_PSEUDONYM = re.compile(rb"\berased-[0-9a-f]{32}\b")

_told = msgspec.json.Decoder(_Told)
_whole = msgspec.json.Decoder(_Whole)
_counting = msgspec.json.Decoder(_Counting)
_answers = msgspec.json.Decoder(list[_Answer])
_command: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


def command_message(
    partition: int, offset: int, key: bytes | None, value: bytes | None, partitions: int,
    *, keep: bool = False,
) -> CommandMessage:  # fmt: skip
    """A message judged by the definition of valid. Its bytes stay if it is not, or if `keep`."""
    try:
        command = decode_command(value, key, partition, partitions)
    except UndecodableMessage as error:
        return CommandMessage(partition, offset, str(error), None, key, value)
    return CommandMessage(partition, offset, "", command, key if keep else None, value if keep else None)


def command_row(record: Iterable[Any]) -> CommandRow:
    """A row of `commands`: the columns of CommandRow up to `decided_at_ms`, then document and told as stored."""
    *plain, document, told = record
    try:
        command = None if document is None else _command.decode(document)
    except msgspec.DecodeError:
        command = None
    kept = _told.decode(told)
    events = tuple(_told_event(key, value, dict(headers)) for key, value, headers in kept.events)
    asked = tuple(_told_command(partition, value) for partition, _, value in kept.commands)
    results = tuple(ToldResult(checkout, field, whole_fact(value)) for checkout, field, value in kept.results)
    texts = [value for _, value, _ in kept.events] + [value for _, _, value in kept.commands]
    if document is not None:
        texts.append(document.encode() if isinstance(document, str) else document)
    names = frozenset(name.decode() for text in texts for name in _PSEUDONYM.findall(text))
    return CommandRow._make([*plain, command, events, asked, results, names])


def _told_event(key: bytes, value: bytes, headers: dict[str, bytes]) -> ToldEvent:
    sequence = headers.get("ce_sequence", b"")
    return ToldEvent(
        headers.get("ce_id", b"").decode(errors="replace"),
        intern(headers.get("ce_type", b"").decode(errors="replace")),
        key,
        int(sequence) if sequence.isdigit() else None,
        hash(value),
    )


def _told_command(partition: int, value: bytes) -> ToldCommand:
    try:
        return ToldCommand(partition, _command.decode(value))
    except msgspec.DecodeError:
        return ToldCommand(partition, None)


def whole_fact(value: bytes | None) -> WholeDocument | None:
    """The one answer to an all-or-nothing checkout; None if it cannot be read as one, which the laws report."""
    try:
        told = _whole.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    order = told.order
    return WholeDocument(
        told.partition, told.command_offset, told.checkout_id, told.buyer_id, intern(told.status),
        "" if order is None else order.order_id, "" if order is None else order.total.amount,
        "" if order is None else intern(order.total.currency),
        tuple((line.product_id, line.quantity, line.reason) for line in told.lines), hash(value),
    )  # fmt: skip


def counts_of(kind: str, value: bytes | None) -> tuple[EventCount, ...]:
    """What the event of a command counts for: each line of a whole checkout, each item of an order in a new status."""
    try:
        told = _counting.decode(value or b"")
        if kind in (ORDER_CREATED, CHECKOUT_REFUSED):
            return tuple(_count_of_line(line) for line in told.lines)
        if kind.startswith("order.") and told.total is not None:
            currency = told.total.currency
            return tuple(
                EventCount(i.product_id, told.status, currency, i.quantity, Decimal(i.price) * i.quantity)
                for i in told.items
            )
    except _MALFORMED:
        return ()  # `command-events` says that it is not what was told
    return ()


def _count_of_line(line: _Line) -> EventCount:
    if line.reason or line.price is None:
        return EventCount(line.product_id, line.reason, "", line.quantity, Decimal(0))
    amount = Decimal(line.price.amount) * line.quantity
    return EventCount(line.product_id, "created", line.price.currency, line.quantity, amount)


def gathering_row(record: Iterable[Any]) -> GatheringRow:
    """A row of `gatherings`, whose answers are JSON."""
    checkout_id, partition, state, deadline_ms, answers, *end = record
    return GatheringRow(checkout_id, partition, state, deadline_ms, _answers_of(answers), *end)


def _answers_of(value: str) -> tuple[AnswerFact, ...]:
    return tuple(AnswerFact(*msgspec.structs.astuple(a)) for a in _answers.decode(value))
