"""Records of the log and entries of the view, made into facts. What cannot be read becomes a fact that says so."""

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from sys import intern  # ids come back in many rows: one object for equal strings

import msgspec

from contracts.errors import UndecodableMessage
from contracts.events import ORDER_CREATED
from contracts.keys import WHOLE
from contracts.messages import decode_checkout_line
from contracts.topics import Stream
from stock_ledger.audit.decode_commands import counts_of, whole_fact
from stock_ledger.audit.facts import Document, EventFact, LetterFact, MessageFact, ResultFact

_HEADERS = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_subject", "content-type")


def message_fact(
    partition: int, offset: int, key: bytes | None, value: bytes | None, partitions: int,
    *, keep: bool = False,
) -> MessageFact:  # fmt: skip
    """A message judged by the definition of valid. Its bytes stay if it is not, or if `keep`."""
    try:
        line = decode_checkout_line(value, key, partition, partitions)
    except UndecodableMessage as error:
        return MessageFact(partition, offset, str(error), key=key, value=value)
    return MessageFact(
        partition, offset, "", intern(line.checkout_id), intern(line.stock_id), intern(line.buyer_id),
        line.quantity, intern(line.payload_hash), line.line, key if keep else None, value if keep else None,
        line.forwarded, hash(value) if line.slice or line.forwarded else 0,
        line.expected_total if line.basket is None else None,
    )  # fmt: skip


class _Amount(msgspec.Struct):
    amount: str
    currency: str


class _Order(msgspec.Struct):
    order_id: str
    total: _Amount


class _Document(msgspec.Struct):
    partition: int
    offset: int
    checkout_id: str
    buyer_id: str
    product_id: str
    quantity: int
    status: str
    reason: str = ""
    order: _Order | None = None


_decoder = msgspec.json.Decoder(_Document)


def document_fact(value: bytes | None) -> Document | None:
    """A told decision; None if it cannot be read as one, which the laws report."""
    try:
        told = _decoder.decode(value or b"")
        order = told.order
        total = Decimal(0) if order is None else Decimal(order.total.amount)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidOperation):
        return None
    return Document(
        told.partition, told.offset, intern(told.checkout_id), intern(told.buyer_id), intern(told.product_id),
        told.quantity, intern(told.status), intern(told.reason),
        "" if order is None else intern(order.order_id), total,
        "" if order is None else intern(order.total.currency),
    )  # fmt: skip


def result_fact(checkout_id: str, field: str, value: bytes) -> ResultFact:
    """A result of the view: the answer to a whole checkout under its own field, else that to a line."""
    if field == WHOLE:
        return ResultFact(checkout_id, field, None, whole_fact(value))
    return ResultFact(checkout_id, field, document_fact(value))


def event_fact(
    partition: int, offset: int, key: bytes | None, value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
) -> EventFact:  # fmt: skip
    """A record of the events topic, with its CloudEvents headers held against what is required of each event."""
    told = dict(headers)
    lacking = [] if all(map(told.get, _HEADERS)) else [name for name in _HEADERS if not told.get(name)]
    if told.get("ce_specversion", b"1.0") != b"1.0":
        lacking.append("ce_specversion 1.0")
    if told.get("content-type", b"application/json") != b"application/json":
        lacking.append("content-type application/json")
    kind = told.get("ce_type", b"").decode(errors="replace")
    if kind == ORDER_CREATED and told.get("ce_sequence") != b"1":
        lacking.append("ce_sequence 1")
    if key is not None and told.get("ce_subject", key) != key:
        lacking.append("ce_subject as the key")
    event_id = told.get("ce_id", b"").decode(errors="replace")
    sequence = told.get("ce_sequence", b"")
    of_command = event_id.startswith("command-")
    return EventFact(
        partition, offset, event_id, intern(kind), key, hash(value), ", ".join(lacking),
        None if of_command else document_fact(value), int(sequence) if sequence.isdigit() else None,
        counts_of(kind, value) if of_command else (),
    )  # fmt: skip


def letter_fact(
    partition: int,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
) -> LetterFact:
    told = {name: header or b"" for name, header in headers}  # anyone may have put it there
    try:
        source = (int(told["partition"]), int(told["offset"]))
    except (KeyError, ValueError):
        return LetterFact(partition, offset, None, "", key, value)
    reason = told.get("reason", b"").decode(errors="replace")
    stream = told.get("stream", Stream.CHECKOUTS.encode()).decode(errors="replace")
    cut = told.get("truncated-to", b"")
    return LetterFact(
        partition, offset, source, reason, key, value, intern(stream), int(cut) if cut.isdigit() else None
    )
