"""The checkouts that a bench submits: as requests over HTTP, and as the messages that ingest makes of them."""

import random
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import msgspec

from contracts.kafka import Record, send
from contracts.kafka_clients import start_producer
from contracts.messages import CheckoutLine
from contracts.settings import Settings
from contracts.slices import slice_of_buyer
from contracts.topics import Topics, partition_of
from deploy import sample
from deploy.local import token

BUYERS = 5000
OTHERS = 50  # products beside the hot one in a sale's requests
_OTHERS_SHARE = 0.05  # of a sale's requests
_SLICE = 5000  # records handed to the producer at once
_TOKEN_TTL_S = 6 * 3600

Backlog = Mapping[int, Sequence[Record]]  # by partition


def post(settings: Settings, buyer: int, product_id: str, *, key: bool = True) -> bytes:
    """A checkout of one unit as it goes over the wire; %KEY% stands for its idempotency key."""
    body = b'{"items":[{"product_id":"%b","quantity":1}],"address_id":"home"}' % product_id.encode()
    return (
        b"POST /v1/checkouts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        + b"Authorization: Bearer %b\r\n" % bearer(settings, buyer)
        + (b"Idempotency-Key: %KEY%\r\n" if key else b"")
        + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def get(settings: Settings, buyer: int, target: str) -> bytes:
    """A read of the buyer's as it goes over the wire."""
    head = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n" % target.encode()
    return head + b"Authorization: Bearer %b\r\n\r\n" % bearer(settings, buyer)


def bearer(settings: Settings, buyer: int) -> bytes:
    return token(settings, sample.buyer_id(buyer), _TOKEN_TTL_S).encode()


def requests(settings: Settings, buyers: int = BUYERS) -> list[bytes]:
    """A sale: a checkout of each buyer, most of them of the hot product."""
    chance = random.Random(1)  # noqa: S311 - a plan, not a secret
    made = []
    for number in range(1, buyers + 1):
        is_other = chance.random() < _OTHERS_SHARE
        product_id = f"sku-{chance.randint(1, OTHERS):04d}" if is_other else sample.HOT_PRODUCT
        made.append(post(settings, number, product_id))
    return made


def zipf(products: int, seed: int = 1) -> Iterator[str]:
    """Product ids without end: the one of rank r is asked for 1/r as often as the first."""
    chance = random.Random(seed)  # noqa: S311 - a plan, not a secret
    weights = list(accumulate(1 / rank for rank in range(1, products + 1)))
    while True:
        for rank in chance.choices(range(products), cum_weights=weights, k=_SLICE):
            yield f"sku-{rank + 1:04d}"


def baskets(product_ids: Iterator[str], size: int) -> Iterator[tuple[str, ...]]:
    """Checkouts of `size` different products each, without end."""
    while True:
        basket: set[str] = set()
        while len(basket) < size:
            basket.add(next(product_ids))
        yield tuple(sorted(basket))


def backlog_of(
    checkouts: Iterable[Sequence[str]], partitions: int, slices: int = 1
) -> dict[int, list[Record]]:
    """The messages of checkouts given by their products, of so many slices each, one unit each, as ingest would write
    them.
    """
    now_ms = time.time_ns() // 1_000_000
    made: dict[int, list[Record]] = defaultdict(list)
    for number, product_ids in enumerate(checkouts):
        checkout_id, buyer_id = str(uuid.uuid4()), sample.buyer_id(number % BUYERS + 1)
        for place, product_id in enumerate(product_ids):
            line = CheckoutLine(
                v=1,
                checkout_id=checkout_id,
                buyer_id=buyer_id,
                product_id=product_id,
                quantity=1,
                payload_hash="0" * 32,
                accepted_at_ms=now_ms,
                line=place,
                lines=len(product_ids),
                address_id="home",
                slice=slice_of_buyer(buyer_id, slices),
            )
            record: Record = (line.partition_key(), msgspec.json.encode(line), [])
            made[partition_of(line.stock_id, partitions)].append(record)
    return made


async def write(settings: Settings, backlog: Backlog) -> None:
    """Put a backlog into the log, the partitions side by side."""
    producer = await start_producer(settings, "sluiceway-bench")
    topic, now_ms = Topics(settings).checkouts, time.time_ns() // 1_000_000
    try:
        for start in range(0, max(map(len, backlog.values()), default=0), _SLICE):
            acks = []
            for partition, records in backlog.items():
                if piece := records[start : start + _SLICE]:
                    acks += [ack for _, ack in await send(producer, topic, partition, piece, now_ms)]
            for ack in acks:
                await ack
    finally:
        await producer.stop()


async def write_hot(settings: Settings, count: int) -> None:
    """Put so many single-line checkouts of the hot product into the log."""
    hot = ((sample.HOT_PRODUCT,) for _ in range(count))
    await write(settings, backlog_of(hot, settings.partitions))
