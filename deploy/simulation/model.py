"""What a sale must look like from outside: a simple model that knows nothing of how the pipeline works."""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from contracts.outcomes import Kind, Reason
from workers.fakes import MemoryMessage


class Violation(Exception):
    """What a sale must never look like."""


class Goods(msgspec.Struct, frozen=True):
    """A product of the sale as the model knows it."""

    product_id: str
    units: int
    buyer_limit: int | None = None
    on_shelf: bool = True


Expected = tuple[Kind, Reason | None, int | None]  # kind, reason, first offset


class Line(msgspec.Struct):
    """Of a message what the model goes by."""

    checkout_id: str
    product_id: str
    buyer_id: str
    quantity: int
    payload_hash: str
    policy: str = "independent"


_decoder = msgspec.json.Decoder(Line)


class Model:
    """What the messages of a log come to, decided one by one in their order."""

    def __init__(self, goods: Iterable[Goods]) -> None:
        self.goods = {g.product_id: g for g in goods}
        self.available = {g.product_id: [0, g.units] for g in self.goods.values()}  # by seq
        self.poison: set[tuple[int, int]] = set()  # the places of what nobody can decode
        self._hashes: dict[tuple[str, int], str] = {}  # (checkout, partition)
        self._elsewhere: dict[str, set[str]] = defaultdict(set)  # checkout -> hashes, whichever the partition
        self._first: dict[tuple[str, str], int] = {}
        self.bought: dict[tuple[str, str], int] = defaultdict(int)

    def decide(self, partition: int, message: MemoryMessage, actual: Kind) -> Expected:
        """The decision that this message must get.

        Where another payload under the same key went to another partition, either of the two may have been first:
        the refusal as a conflict is right then, and so is none.
        """
        if (partition, message.offset) in self.poison:
            return Kind.DEAD, None, None
        line = _decoder.decode(message.value or b"")
        known = self._hashes.get((line.checkout_id, partition))
        others = self._elsewhere[line.checkout_id] - {line.payload_hash}
        if known is None and actual is Kind.CONFLICT and others:
            known = min(others)
        if known not in (None, line.payload_hash):
            self._hashes.setdefault((line.checkout_id, partition), known or "")
            return Kind.CONFLICT, Reason.IDEMPOTENCY_CONFLICT, None
        self._hashes[line.checkout_id, partition] = line.payload_hash
        self._elsewhere[line.checkout_id].add(line.payload_hash)
        identity = (line.checkout_id, line.product_id)
        if identity in self._first:
            return Kind.REPEATED, None, self._first[identity]
        self._first[identity] = message.offset
        reason = self._refusal(line)
        if reason is not None:
            return Kind.REFUSED, reason, None
        self.available[line.product_id].append(self.available[line.product_id][-1] - line.quantity)
        self.bought[line.product_id, line.buyer_id] += line.quantity
        return Kind.CREATED if line.policy == "independent" else Kind.HELD, None, None

    def _refusal(self, line: Line) -> Reason | None:
        goods = self.goods.get(line.product_id)
        if goods is None:
            return Reason.UNKNOWN_PRODUCT
        if not goods.on_shelf:
            return Reason.OFF_SHELF
        limit, bought = goods.buyer_limit, self.bought[line.product_id, line.buyer_id]
        if limit is not None and bought + line.quantity > limit:
            return Reason.BUYER_LIMIT
        left = self.available[line.product_id][-1]
        if left >= line.quantity:
            return None
        return Reason.INSUFFICIENT_STOCK if left > 0 else Reason.SOLD_OUT
