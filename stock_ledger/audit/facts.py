"""The facts an audit judges: rows of Postgres, records of the log, entries of the view. Small tuples, many of them."""

from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import msgspec

from contracts.messages import Money
from stock_ledger.audit.command_facts import (
    CommandMessage,
    CommandRow,
    GatheringRow,
    HoldRow,
    RefundRow,
    SourceOpenRow,
    SourceRequestRow,
    WholeDocument,
)
from stock_ledger.audit.history import History
from stock_ledger.batch import Product


class MessageFact(NamedTuple):
    """A message of the checkouts topic. `error` says why it is not valid; its line's fields are empty then.

    `key` and `value` are kept where a dead letter is to be compared with them. `product_id` is the stock id of the slice
    that is asked, as in all facts but what buyers and others outside are told. `value_hash` is kept of what is not asked
    of a product's first slice, or comes from another one.
    """

    partition: int
    offset: int
    error: str
    checkout_id: str = ""
    product_id: str = ""
    buyer_id: str = ""
    quantity: int = 0
    payload_hash: str = ""
    line: int = 0
    key: bytes | None = None
    value: bytes | None = None
    forwarded: bool = False
    value_hash: int = 0
    expected: Money | None = None  # the total that the client saw, if it is of this line alone


class DecisionRow(NamedTuple):
    partition: int
    offset: int
    kind: str
    checkout_id: str | None
    buyer_id: str
    product_id: str
    quantity: int
    payload_hash: str
    line: int
    reason: str | None
    detail: str
    order_id: str | None
    first_offset: int | None
    decided_at_ms: int
    whole: bool = False  # of an all-or-nothing checkout


class OrderRow(NamedTuple):
    order_id: str
    checkout_id: str
    buyer_id: str
    status: str
    total: Decimal
    currency: str
    sequence: int = 1


class ItemRow(NamedTuple):
    order_id: str
    line: int
    product_id: str
    price: Decimal
    quantity: int
    counted: bool = False


class PaymentRow(NamedTuple):
    order_id: str
    amount: Decimal
    currency: str
    status: str
    reference: str = ""
    expires_at_ms: int = 0


class LedgerRow(NamedTuple):
    product_id: str
    seq: int
    delta: int
    available: int
    kind: str
    partition: int | None
    offset: int | None
    order_id: str | None
    opened_at_ms: int | None = None  # of an initial entry


class StockRow(NamedTuple):
    product_id: str
    partition: int
    available: int
    seq: int
    held: int = 0
    pending: int = 0
    paid: int = 0


class ProductRow(NamedTuple):
    product_id: str
    buyer_limit: int | None
    version: int
    slices: int = 1
    price: Decimal = Decimal(0)
    sale_price: Decimal | None = None
    currency: str = ""
    on_shelf: bool = True
    sale_from: datetime | None = None
    sale_to: datetime | None = None
    stock_source: str | None = None

    def sells_for(self) -> Decimal:
        return self.price if self.sale_price is None else self.sale_price

    def sells_throughout(self, start: datetime, end: datetime) -> bool:
        return (self.sale_from is None or self.sale_from <= start) and (
            self.sale_to is None or end <= self.sale_to
        )


class PurchaseRow(NamedTuple):
    product_id: str
    buyer_id: str
    quantity: int


class FigureRow(NamedTuple):
    partition: int
    product_id: str
    outcome: str
    currency: str
    lines: int
    units: int
    amount: Decimal


class Document(NamedTuple):
    """A decision as it was told: the data of an event, or a result shown. `order_id` is empty for a refusal."""

    partition: int
    offset: int
    checkout_id: str
    buyer_id: str
    product_id: str
    quantity: int
    status: str
    reason: str
    order_id: str
    total: Decimal
    currency: str


class EventCount(NamedTuple):
    """What the event of a command adds to the live figures."""

    product_id: str
    outcome: str
    currency: str
    units: int
    amount: Decimal


class EventFact(NamedTuple):
    """A record of the events topic. `lacking` names required headers that are absent or wrong.

    Events of decisions have a `document`; of commands only what they count for is kept.
    """

    partition: int
    offset: int
    event_id: str
    type: str
    key: bytes | None
    value_hash: int
    lacking: str
    document: Document | None  # None: not readable
    sequence: int | None = None
    counts: tuple[EventCount, ...] = ()


class LetterFact(NamedTuple):
    """A record of the dead-letter topic: a copy of the message at (source_partition, source_offset) of a stream."""

    partition: int
    offset: int
    source: tuple[int, int] | None  # None: its headers do not tell
    reason: str
    key: bytes | None
    value: bytes | None
    stream: str = "checkouts"
    truncated_to: int | None = None  # bytes of key and value, where they were too large for a copy


class ResultFact(NamedTuple):
    """A field of a result hash of the view: a decision as it was told, or the one answer to a whole checkout."""

    checkout_id: str
    field: str
    document: Document | None  # None: not readable
    whole: WholeDocument | None = None


class ShownStock(NamedTuple):
    """A stock id as the view shows it, beside Postgres at the same moment. None: the view has no stock key.

    `sold_out`: the gate has it so. `settled` is false where the two kept moving while compared.
    """

    product_id: str
    shown: tuple[int, int] | None  # (seq, available)
    readable: bool
    sold_out: bool
    true: tuple[int, int] | None  # (seq, available); None: no such product
    settled: bool = True


class ShownProduct(NamedTuple):
    """A catalogue entry as writers take it from the view, beside Postgres. None: they take none, or it cannot be read."""

    product_id: str
    shown: Product | None
    readable: bool
    true: Product
    settled: bool = True


class ShownSlices(NamedTuple):
    """How many slices the product of a stock id has, as the view shows it beside Postgres: 1 where it tells none, or none
    that can be read. None: the view does not show the partition; Postgres has no such stock id.
    """

    product_id: str
    shown: int | None
    true: int | None
    settled: bool = True


class ShownProgress(NamedTuple):
    """A partition's progress as (epoch, next_offset) in the view, beside Postgres at the same moment."""

    partition: int
    shown: tuple[int, int] | None
    readable: bool
    true: tuple[int, int]
    settled: bool = True


class SpoiltKey(NamedTuple):
    """A key of the view that `holds` a type it is not for, and the law that this breaks."""

    law: str
    key: str
    holds: str


class CacheFacts(msgspec.Struct):
    """What the view holds. `away` says why it could not be read; the rest is empty then."""

    away: str = ""
    stock: list[ShownStock] = []
    products: list[ShownProduct] = []
    slices: list[ShownSlices] = []
    progress: list[ShownProgress] = []
    results: list[ResultFact] = []
    spoilt: list[SpoiltKey] = []


class TopicSpan(NamedTuple):
    """Offsets of a partition that were read: first ≤ offset < end."""

    first: int
    end: int


class PostgresFacts(msgspec.Struct):
    """All tables as they were at one moment, `read_at_ms`. `states` is (epoch, next_offset) by partition."""

    states: dict[int, tuple[int, int]] = {}
    next_commands: dict[int, int] = {}
    read_at_ms: int = 0
    decisions: list[DecisionRow] = []  # by partition and offset
    orders: list[OrderRow] = []
    items: list[ItemRow] = []
    payments: list[PaymentRow] = []
    ledger: list[LedgerRow] = []  # by product and seq
    stock: list[StockRow] = []
    products: list[ProductRow] = []
    purchases: list[PurchaseRow] = []
    figure_states: dict[int, int] = {}
    figures: list[FigureRow] = []
    commands: list[CommandRow] = []  # by partition and offset
    holds: list[HoldRow] = []
    gatherings: list[GatheringRow] = []
    refunds: list[RefundRow] = []
    source_requests: list[SourceRequestRow] = []
    source_open: list[SourceOpenRow] = []
    history: History = History()

    def next_offset(self, partition: int) -> int:
        """The next offset to decide; 0 for a partition that was never claimed."""
        state = self.states.get(partition)
        return 0 if state is None else state[1]

    def next_command(self, partition: int) -> int:
        """The next offset to decide of the commands topic; 0 for a partition that was never claimed."""
        return self.next_commands.get(partition, 0)


class Facts(msgspec.Struct):
    """All that the laws are held against.

    `target` is, by partition, the end of the log when the audit began: all below it ought to be decided;
    `command_target` the same of the commands topic. `timed_out`: whatever is due by time ought to have ended.
    """

    partitions: int
    target: dict[int, int]
    checkouts: dict[int, TopicSpan]
    events_span: dict[int, TopicSpan]
    letters_span: dict[int, TopicSpan]
    postgres: PostgresFacts
    messages: list[MessageFact]
    events: list[EventFact]
    letters: list[LetterFact]
    cache: CacheFacts
    command_target: dict[int, int] = {}
    commands_span: dict[int, TopicSpan] = {}
    commands: list[CommandMessage] = []
    timed_out: bool = False
