"""A second system that keeps stock, and must agree: what is asked of it, and what is done when it does not answer."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Protocol

import msgspec

from contracts.messages import CheckoutLine
from stock_ledger.batch import Loaded, OpenRow, Received


class WhenDown(StrEnum):
    """What becomes of a product's checkouts while its source does not answer."""

    REFUSE = "refuse"
    TRUST_LOCAL = "trust_local"  # sell from local stock, and make it good with the source later


class Why(StrEnum):
    """Why there is no answer."""

    UNREACHABLE = "unreachable"
    DEADLINE = "deadline"
    FAILING = "failing"  # it says itself that it cannot, for now
    WRONG = "wrong"  # its answer makes no sense
    REJECTED = "rejected"  # it says that the request is at fault, and has done nothing
    CIRCUIT_OPEN = "circuit_open"  # it was not asked, since it has failed too often just now


class Unanswered(msgspec.Struct, frozen=True):
    """No answer that can be used."""

    why: Why
    detail: str = ""

    def may_have_been_done(self) -> bool:
        """Whether the source may have done what it was asked for: ask again with the same key to know."""
        return self.why not in {Why.REJECTED, Why.CIRCUIT_OPEN}


class Granted(msgspec.Struct, frozen=True):
    """The source keeps so many units for us, from none up to what was asked for."""

    units: int


class Reserve(msgspec.Struct, frozen=True):
    """Up to `units` of a product for the checkouts of one batch.

    `batch` names it: "partition-first_offset". A batch that is decided again has to ask for the same units again.
    """

    product_id: str
    batch: str
    units: int

    def key(self) -> str:
        """The idempotency key."""
        return f"reserve-{self.batch}-{self.product_id}"

    def partition(self) -> int:
        return int(self.batch.partition("-")[0])


class GiveBack(msgspec.Struct, frozen=True):
    """Units that were granted and are not needed, or came back. The same `cause` of a product is the same return."""

    product_id: str
    cause: str
    units: int

    def key(self) -> str:
        """The idempotency key."""
        return f"return-{self.cause}-{self.product_id}"


Answer = Granted | Unanswered


class StockSource(Protocol):
    """The second system. It never raises for what the other side does: no answer is a value.

    Every call ends within the source's deadline, and asks once for each of its parts. Asking again under the same key
    is safe, gives the answer that was first given, and changes nothing.
    """

    async def reserve(self, requests: Sequence[Reserve]) -> dict[str, Answer]:
        """The answer of each request by product; a product has one request at most."""
        ...

    async def give_back(self, returns: Sequence[GiveBack]) -> dict[str, Unanswered | None]:
        """By the key of each return: None once the source has the units back."""
        ...

    async def available(self, product_ids: Sequence[str]) -> dict[str, int | Unanswered]:
        """Units that the source has and nobody has reserved, by product."""
        ...


class NoStockSource:
    """No source is configured: none of its products has an answer. See `StockSource`."""

    async def reserve(self, requests: Sequence[Reserve]) -> dict[str, Answer]:
        return {request.product_id: _NOT_CONFIGURED for request in requests}

    async def give_back(self, returns: Sequence[GiveBack]) -> dict[str, Unanswered | None]:
        return {back.key(): _NOT_CONFIGURED for back in returns}

    async def available(self, product_ids: Sequence[str]) -> dict[str, int | Unanswered]:
        return dict.fromkeys(product_ids, _NOT_CONFIGURED)


_NOT_CONFIGURED = Unanswered(Why.CIRCUIT_OPEN, "SLUICEWAY_STOCK_SOURCE_URL is not set")


class Allowance(msgspec.Struct, frozen=True):
    """What a batch may sell. A product that is not in `units` has no second source: local stock alone counts.

    `down` are the products that are refused because their source does not answer. `unknown` are the requests of which
    has to be learned later what the source has done.
    """

    units: dict[str, int]
    down: frozenset[str]
    unknown: list[Reserve]


class Unsettled(msgspec.Struct, frozen=True):
    """A request whose outcome is not known yet, and how many units of it were sold all the same."""

    request: Reserve
    sold: int


class Intended(msgspec.Struct, frozen=True):
    """What a batch asks for, as it was first remembered. `again` are the products of requests that were remembered
    before: an earlier try of the batch may have made them.
    """

    requests: list[Reserve]
    again: frozenset[str] = frozenset()


class Outstanding(msgspec.Struct, frozen=True):
    """What is to be done with the source once a batch is persisted, oldest first; to be persisted with it.

    `stock_ledger.upstream.settle.make_good` does it.
    """

    give_back: list[GiveBack]
    unsettled: list[Unsettled]


def requests_of(
    batch: Iterable[Received], loaded: Loaded, when_down: Mapping[str, WhenDown]
) -> list[Reserve]:
    """What to ask for a batch: of each product with a second source what its new lines want, and can have locally.

    `when_down` has the products that have a second source.
    """
    first_offsets: dict[int, int] = {}
    wanted: dict[str, int] = {}
    places: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    payloads = loaded.payloads()
    for message in batch:
        first_offsets.setdefault(message.partition, message.offset)
        line = message.line
        if line is None or line.product_id not in when_down or not _is_new(line, loaded, payloads, seen):
            continue
        seen.add((line.checkout_id, line.product_id))
        places[line.product_id] = message.partition
        wanted[line.product_id] = wanted.get(line.product_id, 0) + line.quantity
    requests = []
    for product_id, units in sorted(wanted.items()):
        local = loaded.stock.get(product_id)
        can_be_sold = min(units, 0 if local is None else local.available)
        if can_be_sold > 0:
            partition = places[product_id]
            requests.append(Reserve(product_id, f"{partition}-{first_offsets[partition]}", can_be_sold))
    return requests


def _is_new(
    line: CheckoutLine, loaded: Loaded, payloads: Mapping[str, str], seen: set[tuple[str, str]]
) -> bool:
    identity = (line.checkout_id, line.product_id)
    known_hash = payloads.get(line.checkout_id, line.payload_hash)
    return identity not in loaded.decided and identity not in seen and known_hash == line.payload_hash


def granted_or_policy(
    requests: Iterable[Reserve],
    answers: Mapping[str, Answer],
    when_down: Mapping[str, WhenDown],
    again: AbstractSet[str] = frozenset(),
) -> Allowance:
    """What may be sold, given what the source answered; where it did not, by the product's policy.

    Of the products in `again` the source may have done what is asked, though it was not asked this time.
    """
    units: dict[str, int] = {}
    down: set[str] = set()
    unknown: list[Reserve] = []
    for request in requests:
        answer = answers[request.product_id]
        if isinstance(answer, Granted):
            units[request.product_id] = min(answer.units, request.units)
            continue
        trusted = when_down[request.product_id] is WhenDown.TRUST_LOCAL
        units[request.product_id] = request.units if trusted else 0
        if not trusted:
            down.add(request.product_id)
        if trusted or answer.may_have_been_done() or request.product_id in again:
            unknown.append(request)
    return Allowance(units, frozenset(down), unknown)


def half_asked(
    wanted: Iterable[Reserve], requests: Iterable[Reserve], allowance: Allowance
) -> frozenset[str]:
    """Products of which an earlier try of the batch asked for less than is wanted now: they may have more than was granted."""
    asked = {request.product_id: request.units for request in requests}
    return frozenset(
        of.product_id for of in wanted if allowance.units[of.product_id] == asked[of.product_id] < of.units
    )


def outstanding(requests: Iterable[Reserve], allowance: Allowance, sold: Mapping[str, int]) -> Outstanding:
    """What is left to do when the batch sold so many units of each product."""
    give_back: list[GiveBack] = []
    unsettled: list[Unsettled] = []
    unknown = set(allowance.unknown)
    for request in requests:
        of_it = sold.get(request.product_id, 0)
        if request in unknown:
            unsettled.append(Unsettled(request, of_it))
        elif request.product_id not in allowance.down and allowance.units[request.product_id] > of_it:
            unused = allowance.units[request.product_id] - of_it
            give_back.append(GiveBack(request.product_id, f"unused-{request.batch}", unused))
    return Outstanding(give_back, unsettled)


def rows_of(outstanding: Outstanding) -> list[OpenRow]:
    """As it is stored: ("return", product, cause, units, 0), ("request", product, batch, units, sold)."""
    returns: list[OpenRow] = [("return", b.product_id, b.cause, b.units, 0) for b in outstanding.give_back]
    asked = [(u.request, u.sold) for u in outstanding.unsettled]
    return returns + [("request", r.product_id, r.batch, r.units, sold) for r, sold in asked]
