"""What a sale must look like from outside: a simple model that knows nothing of how the pipeline works."""

import json
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from contracts.decisions import Decision
from contracts.outcomes import Kind, Reason
from contracts.slices import others, product_of, slice_of_buyer, stock_id, stock_ids
from workers.fakes import MemoryMessage


class Violation(Exception):
    """What a sale must never look like."""


class Goods(msgspec.Struct, frozen=True):
    """A product of the sale as the model knows it; of one with slices, as one of them knows it, under its stock id."""

    product_id: str
    units: int
    buyer_limit: int | None = None
    on_shelf: bool = True
    slices: int = 1
    is_open: bool = True  # not so while the first slice sells alone
    version: int = 1

    def parts(self) -> "list[Goods]":
        """The slices that it has from the start, each with its share of the units."""
        share = self.units // self.slices
        first, *others = stock_ids(self.product_id, self.slices)
        rest = msgspec.structs.replace(self, product_id=first, units=self.units - share * len(others))
        return [rest, *(msgspec.structs.replace(self, product_id=other, units=share) for other in others)]


Expected = tuple[Kind, Reason | None, int | None]  # kind, reason, first offset
_SENT_ON: Expected = (Kind.FORWARDED, None, None)
_OF_STOCK = (Reason.SOLD_OUT, Reason.INSUFFICIENT_STOCK)


class Line(msgspec.Struct):
    """Of a message what the model goes by."""

    checkout_id: str
    product_id: str
    buyer_id: str
    quantity: int
    payload_hash: str
    policy: str = "independent"
    slice: int = 0
    forwarded: bool = False

    @property
    def stock_id(self) -> str:
        return stock_id(self.product_id, self.slice)


_decoder = msgspec.json.Decoder(Line)


class Model:
    """What the messages of a log come to, decided one by one in their order."""

    def __init__(self, goods: Iterable[Goods]) -> None:
        self.goods = {part.product_id: part for product in goods for part in product.parts()}
        self.available = {g.product_id: [0, g.units] for g in self.goods.values()}  # by seq
        self.poison: set[tuple[int, int]] = set()  # the places of what nobody can decode
        self._hashes: dict[tuple[str, int], str] = {}  # (checkout, partition)
        self._elsewhere: dict[str, set[str]] = defaultdict(set)  # checkout -> hashes, whichever the partition
        self._first: dict[tuple[str, str], int] = {}  # by checkout and stock id
        self._sent_on: dict[tuple[str, str], tuple[int, str]] = {}  # likewise: the offset, and the payload
        self.settled: dict[tuple[str, str], str] = {}  # the stock id where the line of a product is decided
        self.bought = Bought()

    def decide(self, partition: int, message: MemoryMessage, actual: Decision) -> Expected:
        """The decision that this message must get.

        Where another payload under the same key went to another partition, either of the two may have been first:
        the refusal as a conflict is right then, and so is none.
        """
        if (partition, message.offset) in self.poison:
            return Kind.DEAD, None, None
        line = _decoder.decode(message.value or b"")
        identity = (line.checkout_id, line.stock_id)
        known = self._hashes.get((line.checkout_id, partition))
        if known is None and identity in self._sent_on:
            known = self._sent_on[identity][1]
        elsewhere = self._elsewhere[line.checkout_id] - {line.payload_hash}
        if known is None and actual.kind is Kind.CONFLICT and elsewhere:
            known = min(elsewhere)
        if known not in (None, line.payload_hash):
            self._hashes.setdefault((line.checkout_id, partition), known or "")
            return Kind.CONFLICT, Reason.IDEMPOTENCY_CONFLICT, None
        self._elsewhere[line.checkout_id].add(line.payload_hash)
        if identity in self._first:
            self._hashes[line.checkout_id, partition] = line.payload_hash
            return Kind.REPEATED, None, self._first[identity]
        if identity in self._sent_on and not line.forwarded:
            return Kind.REPEATED, None, self._sent_on[identity][0]
        if self._is_sent_on(line, message, actual):
            self._sent_on[identity] = (message.offset, line.payload_hash)
            return _SENT_ON
        self._hashes[line.checkout_id, partition] = line.payload_hash
        return self._decide_here(line, message.offset, actual)

    def _decide_here(self, line: Line, offset: int, actual: Decision) -> Expected:
        settled = self.settled.setdefault((line.checkout_id, line.product_id), line.stock_id)
        if settled != line.stock_id:
            raise Violation(f"{line} is decided in {settled}, and again in {line.stock_id}")
        self._first[line.checkout_id, line.stock_id] = offset
        reason = self._refusal(line, actual.reason)
        if reason is not None:
            return Kind.REFUSED, reason, None
        self.available[line.stock_id].append(self.available[line.stock_id][-1] - line.quantity)
        self.bought.add(line.product_id, line.buyer_id, line.quantity)
        return Kind.CREATED if line.policy == "independent" else Kind.HELD, None, None

    def _is_sent_on(self, line: Line, message: MemoryMessage, actual: Decision) -> bool:
        """Whether another slice is to decide it. If it may, or may not, it is as it is; raises Violation if it is sent to
        one that it must not be sent to, or as something else.
        """
        goods = self.goods.get(line.stock_id)
        if goods is None or goods.slices == 1 or not goods.is_open:
            return False
        settled = self.settled.get((line.checkout_id, line.product_id), line.stock_id)
        belongs = slice_of_buyer(line.buyer_id, goods.slices)
        passes_on = belongs > line.slice and not line.forwarded
        must = settled != line.stock_id or passes_on
        if actual.kind is not Kind.FORWARDED:
            return must
        onward = _decoder.decode(actual.detail)
        allowed = {(settled, True)} - {(line.stock_id, True)}
        if passes_on:
            allowed.add((stock_id(line.product_id, belongs), False))
        if not must and not line.forwarded and self._refusal(line, None) in (*_OF_STOCK, Reason.BUYER_LIMIT):
            allowed |= {(other, True) for other in others(line.stock_id, goods.slices)}
        is_same = _content(actual.detail) == _content(message.value or b"")
        if (onward.stock_id, onward.forwarded) not in allowed or not is_same:
            raise Violation(
                f"{line} is sent on as {onward}: it is settled in {settled}, belongs to {belongs}"
            )
        return True

    def _refusal(self, line: Line, actual: Reason | None) -> Reason | None:
        """Of a product with slices, what a buyer had may have changed in another one since it was loaded: the limit is never
        exceeded, but a refusal may be of a moment before.
        """
        goods = self.goods.get(line.stock_id)
        if goods is None:
            return Reason.UNKNOWN_PRODUCT
        if not goods.on_shelf:
            return Reason.OFF_SHELF
        left = self.available[line.stock_id][-1]
        of_stock = (
            None if left >= line.quantity else Reason.INSUFFICIENT_STOCK if left > 0 else Reason.SOLD_OUT
        )
        limit, bought = goods.buyer_limit, self.bought.range(line.product_id, line.buyer_id)
        if limit is None:
            return of_stock
        if goods.slices > 1 and actual is Reason.BUYER_LIMIT and bought.taken + line.quantity > limit:
            return actual
        if (
            goods.slices > 1
            and actual is not None
            and actual is of_stock
            and bought.least + line.quantity <= limit
        ):
            return actual
        return Reason.BUYER_LIMIT if bought.now + line.quantity > limit else of_stock


class Range(msgspec.Struct):
    """Units that a buyer has of a product, the least that it ever was, and all that the buyer ever took: who was given
    some back a moment ago may be refused for what was taken before and since.
    """

    now: int = 0
    least: int = 0
    taken: int = 0


class Bought:
    """What buyers have of products, over all slices."""

    def __init__(self) -> None:
        self._ranges: dict[tuple[str, str], Range] = defaultdict(Range)

    def add(self, product_id: str, buyer_id: str, units: int) -> None:
        has = self._ranges[product_of(product_id), buyer_id]
        has.now += units
        has.least, has.taken = min(has.least, has.now), has.taken + max(units, 0)

    def range(self, product_id: str, buyer_id: str) -> Range:
        return self._ranges[product_of(product_id), buyer_id]


def _content(message: bytes | str) -> dict[str, object]:
    """All of a message but where it is sent."""
    return {name: value for name, value in json.loads(message).items() if name not in ("slice", "forwarded")}
