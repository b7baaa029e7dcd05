"""Events on the events topic: CloudEvents 1.0, Kafka protocol binding, binary mode."""

from datetime import datetime
from functools import lru_cache

from contracts.decisions import Decision
from contracts.outcomes import Kind

ORDER_CREATED = "order.created"
CHECKOUT_REFUSED = "checkout.refused"

Headers = list[tuple[str, bytes]]
Event = tuple[bytes, bytes, Headers]  # key, value, headers

SOURCE = "/sluiceway/checkouts"
_COMMON: Headers = [
    ("ce_specversion", b"1.0"),
    ("ce_source", SOURCE.encode()),
    ("content-type", b"application/json"),
]
_CREATED: Headers = [*_COMMON, ("ce_type", ORDER_CREATED.encode()), ("ce_sequence", b"1")]
_REFUSED: Headers = [*_COMMON, ("ce_type", CHECKOUT_REFUSED.encode())]


@lru_cache(maxsize=64)  # a batch is decided at one time
def _time_of(decided_at: datetime) -> bytes:
    return decided_at.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def event_of(decision: Decision, document: bytes) -> Event | None:
    """The event of a decision, or None where it has none: repeated lines, dead letters, and lines of an
    all-or-nothing checkout, whose one event comes when all of them are answered.

    `ce_id` is "partition-offset" of the decided message: the same however often it is published, so that
    consumers can drop repeats. It goes to the partition of the same number as the decided message. The key is the
    order id, or the checkout id of a refusal. `ce_sequence` counts the events of an order from 1 without gaps.
    """
    if decision.kind in (Kind.REPEATED, Kind.DEAD) or decision.whole or decision.checkout_id is None:
        return None
    order = decision.order
    headers = _REFUSED if order is None else _CREATED
    key = decision.checkout_id if order is None else order.order_id
    identity = b"%d-%d" % (decision.partition, decision.offset)
    return (
        key.encode(),
        document,
        [
            *headers,
            ("ce_id", identity),
            ("ce_time", _time_of(decision.decided_at)),
            ("ce_subject", key.encode()),
        ],
    )


def command_event(
    kind: str,
    subject: str,
    partition: int,
    offset: int,
    number: int,
    at: datetime,
    document: bytes,
    sequence: int | None,
) -> Event:
    """The event that a command caused, the `number`-th of its own, about an order, a checkout or a product.

    `ce_id` is "command-partition-offset-number". Events about an order carry on its `ce_sequence`.
    """
    headers = [
        *_COMMON,
        ("ce_type", kind.encode()),
        ("ce_id", b"command-%d-%d-%d" % (partition, offset, number)),
        ("ce_time", _time_of(at)),
        ("ce_subject", subject.encode()),
    ]
    if sequence is not None:
        headers.append(("ce_sequence", b"%d" % sequence))
    return subject.encode(), document, headers
