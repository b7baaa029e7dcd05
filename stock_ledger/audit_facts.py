"""The facts an audit judges: rows of Postgres, records of the log, entries of the view. Small tuples, many of them."""

from decimal import Decimal
from typing import NamedTuple

import msgspec


class MessageFact(NamedTuple):
    """A message of the checkouts topic. `error` says why it is not valid; its line's fields are empty then.

    `key` and `value` are kept where a dead letter is to be compared with them.
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


class OrderRow(NamedTuple):
    order_id: str
    checkout_id: str
    buyer_id: str
    status: str
    total: Decimal
    currency: str


class ItemRow(NamedTuple):
    order_id: str
    line: int
    product_id: str
    price: Decimal
    quantity: int


class PaymentRow(NamedTuple):
    order_id: str
    amount: Decimal
    currency: str
    status: str


class LedgerRow(NamedTuple):
    product_id: str
    seq: int
    delta: int
    available: int
    kind: str
    partition: int | None
    offset: int | None
    order_id: str | None


class StockRow(NamedTuple):
    product_id: str
    partition: int
    available: int
    seq: int


class ProductRow(NamedTuple):
    product_id: str
    buyer_limit: int | None
    version: int


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


class EventFact(NamedTuple):
    """A record of the events topic. `lacking` names required headers that are absent or wrong."""

    partition: int
    offset: int
    event_id: str
    type: str
    key: bytes | None
    value_hash: int
    lacking: str
    document: Document | None  # None: not readable


class LetterFact(NamedTuple):
    """A record of the dead-letter topic: a copy of the message at (source_partition, source_offset)."""

    partition: int
    offset: int
    source: tuple[int, int] | None  # None: its headers do not tell
    reason: str
    key: bytes | None
    value: bytes | None


class ResultFact(NamedTuple):
    """A field of a result hash of the view."""

    checkout_id: str
    field: str
    document: Document | None  # None: not readable


class ShownStock(NamedTuple):
    """A product as the view shows it, beside Postgres at the same moment. None: the view has no stock key.

    `sold_out`: the product is in the sold-out set. `settled` is false where the two kept moving while compared.
    """

    product_id: str
    shown: tuple[int, int] | None  # (seq, available)
    readable: bool
    sold_out: bool
    true: tuple[int, int] | None  # (seq, available); None: no such product
    settled: bool = True


class ShownProgress(NamedTuple):
    """A partition's progress as (epoch, next_offset) in the view, beside Postgres at the same moment."""

    partition: int
    shown: tuple[int, int] | None
    readable: bool
    true: tuple[int, int]
    settled: bool = True


class CacheFacts(msgspec.Struct):
    """What the view holds. `away` says why it could not be read; the rest is empty then."""

    away: str = ""
    stock: list[ShownStock] = []
    progress: list[ShownProgress] = []
    results: list[ResultFact] = []


class TopicSpan(NamedTuple):
    """Offsets of a partition that were read: first ≤ offset < end."""

    first: int
    end: int


class PostgresFacts(msgspec.Struct):
    """All tables as they were at one moment. `states` is (epoch, next_offset) by partition."""

    states: dict[int, tuple[int, int]] = {}
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

    def next_offset(self, partition: int) -> int:
        """The next offset to decide; 0 for a partition that was never claimed."""
        state = self.states.get(partition)
        return 0 if state is None else state[1]


class Facts(msgspec.Struct):
    """All that the laws are held against.

    `target` is, by partition, the end of the log when the audit began: all below it ought to be decided.
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
