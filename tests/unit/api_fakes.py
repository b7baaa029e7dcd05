"""Stand-ins for Postgres, the cache and the clock, and a client that calls an ASGI application directly."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import jwt
import msgspec
import orjson

from contracts.decisions import Decision, Hold, Order, order_id_of
from contracts.errors import Unavailable
from contracts.keys import conflict_field
from contracts.messages import Shipping
from contracts.outcomes import FIRST, Kind, Reason
from contracts.receipts import Receipt
from contracts.times import to_ms
from stock_ledger.commands.book import Gathering
from stock_ledger.commands.reads import OrderHead, Shelf, StoredCommand
from stock_ledger.commands.whole import whole_answer
from stock_ledger.reads import OrderFilter, Position, StoredItem, StoredOrder, StoredPayment
from stock_ledger.view import CheckoutsView, Progress

SECRET = "0123456789abcdef0123456789abcdef"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CHECKOUT = "5b0c7a52-9d0e-8c61-a3c4-2f1f6f0f9b10"
BUYER = "buyer-1"
SHIPPING = Shipping("Wang Fang", "+86 138 0000 0000", "1 Example Road")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.now_s - 100)


class FakeReads:
    def __init__(self) -> None:
        self.down = False
        self.calls: list[str] = []
        self.next: dict[int, int] = {}
        self.decisions: list[Decision] = []
        self.stored: list[StoredOrder] = []
        self.gathering: Gathering | None = None

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise Unavailable("Postgres: refused")

    async def next_offsets(self, partitions: Sequence[int]) -> dict[int, int]:
        self._called("next_offsets")
        return {p: self.next[p] for p in partitions if p in self.next}

    async def decisions_at(self, positions: Sequence[Position]) -> dict[Position, Decision]:
        self._called("decisions_at")
        return {(d.partition, d.offset): d for d in self.decisions if (d.partition, d.offset) in positions}

    async def decisions_of_checkout(self, checkout_id: str) -> list[Decision]:
        self._called("decisions_of_checkout")
        return [d for d in self.decisions if d.checkout_id == checkout_id and d.kind in FIRST]

    async def conflicts_of_checkout(self, checkout_id: str) -> list[Decision]:
        self._called("conflicts_of_checkout")
        return [d for d in self.decisions if d.checkout_id == checkout_id and d.kind is Kind.CONFLICT]

    async def whole_answer(self, checkout_id: str) -> bytes | None:
        self._called("whole_answer")
        return None if self.gathering is None else whole_answer(self.gathering)

    async def order(self, order_id: str, buyer_id: str) -> StoredOrder | None:
        self._called("order")
        return next((o for o in self.stored if o.order_id == order_id and o.buyer_id == buyer_id), None)

    async def orders(self, buyer_id: str, wanted: OrderFilter, limit: int) -> list[StoredOrder]:
        self._called("orders")
        fitting = (
            o
            for o in self.stored
            if o.buyer_id == buyer_id
            and (not wanted.statuses or o.status in wanted.statuses)
            and (wanted.since is None or o.created_at >= wanted.since)
            and (wanted.until is None or o.created_at < wanted.until)
            and (wanted.before is None or o.order_id < wanted.before)
        )
        return sorted(fitting, key=lambda o: o.order_id, reverse=True)[:limit]


class FakeView:
    def __init__(self) -> None:
        self.down = False
        self.calls: list[str] = []
        self.shown: dict[int, Progress] = {}
        self.documents: dict[str, dict[str, bytes]] = {}

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.down:
            raise Unavailable("cache: refused")

    async def progress(self, partitions: Sequence[int]) -> dict[int, Progress]:
        self._called("progress")
        return {p: self.shown[p] for p in partitions if p in self.shown}

    async def checkouts(self, checkout_ids: Sequence[str], partitions: Sequence[int]) -> CheckoutsView:
        self._called("checkouts")
        shown = {p: self.shown[p] for p in partitions if p in self.shown}
        return CheckoutsView([self.documents.get(i, {}) for i in checkout_ids], shown)

    def show(self, decision: Decision) -> None:
        conflict = decision.kind is Kind.CONFLICT
        field = conflict_field(decision.partition, decision.offset) if conflict else decision.product_id
        self.documents.setdefault(decision.checkout_id or "", {})[field] = decision.document()


class Answered(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


async def call(
    app: Any,
    path: str,
    *,
    buyer: str | None = BUYER,
    method: str = "GET",
    body: bytes | None = None,
    media_type: str = "application/json",
    token_scope: str = "",
    headers: Sequence[tuple[str, str]] = (),
    chunks: Iterator[bytes] | None = None,
) -> Answered:
    """One request to an ASGI application; a body comes in two parts, or in `chunks`, the loop turning before each."""
    path, _, query = path.partition("?")
    sending = [(name.lower().encode(), value.encode()) for name, value in headers]
    if buyer is not None:
        sending.append((b"authorization", f"Bearer {token(buyer, token_scope)}".encode()))
    parts = [b""]
    if body is not None:
        sending.append((b"content-type", media_type.encode()))
        parts = [body[: len(body) // 2], body[len(body) // 2 :]]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"test"), *sending], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if chunks is not None:
            await asyncio.sleep(0)
            chunk = next(chunks, None)
            return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}
        if not parts:
            await asyncio.Event().wait()  # the client stays until it is answered
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return Answered(sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, body)


def token(buyer: str, scope: str = "") -> str:
    claims: dict[str, Any] = {"sub": buyer, "exp": 4_000_000_000}
    return jwt.encode(claims | ({"scope": scope} if scope else {}), SECRET, "HS256")


def receipt(*positions: Position) -> Receipt:
    return Receipt(to_ms(NOW), positions)


def created(partition: int, offset: int, product_id: str = "sku-1", **changes: Any) -> Decision:
    order = Order(
        order_id_of(to_ms(NOW), partition, offset), "Kettle", "kettle.jpg", Decimal("129.00"), "CNY",
        Decimal("258.00"), "wechat", NOW + timedelta(minutes=15), SHIPPING, "",
    )  # fmt: skip
    return decided(partition, offset, product_id, kind=Kind.CREATED, order=order, **changes)


def refused(partition: int, offset: int, product_id: str = "sku-1", **changes: Any) -> Decision:
    return decided(
        partition, offset, product_id, **{"kind": Kind.REFUSED, "reason": Reason.SOLD_OUT, **changes}
    )


def held(partition: int, offset: int, product_id: str, **changes: Any) -> Decision:
    hold = Hold("Kettle", "kettle.jpg", Decimal("129.00"), "CNY", 900, "wechat", SHIPPING, "")
    return decided(
        partition,
        offset,
        product_id,
        **{"kind": Kind.HELD, "hold": hold, "whole": True, "lines": 2, **changes},
    )


def decided(partition: int, offset: int, product_id: str = "sku-1", **changes: Any) -> Decision:
    common = {
        "checkout_id": CHECKOUT,
        "buyer_id": BUYER,
        "quantity": 2,
        "accepted_at": NOW,
        "decided_at": NOW,
    }
    return Decision(partition, offset, product_id=product_id, **{**common, **changes})


def stored_order(offset: int, buyer_id: str = BUYER, status: str = "pending_payment") -> StoredOrder:
    moment = NOW + timedelta(seconds=offset)
    return StoredOrder(
        order_id_of(to_ms(moment), 7, offset), CHECKOUT, buyer_id, status, Decimal("2.58E+2"), "CNY",
        SHIPPING, "", moment, [StoredItem(0, "sku-1", "Kettle", "kettle.jpg", Decimal("129.00"), 2)],
        StoredPayment("pending", "wechat", Decimal("258.00"), "CNY", moment),
    )  # fmt: skip


class FakeCommandReads:
    """See `stock_ledger.commands.reads.CommandReads`: what a test puts in."""

    def __init__(self) -> None:
        self.commands: dict[str, StoredCommand] = {}
        self.elsewhere: list[StoredCommand] = []  # repeated ones, and dead letters
        self.orders: dict[str, OrderHead] = {}
        self.shelves: dict[str, Shelf] = {}

    async def command(self, command_id: str) -> StoredCommand | None:
        return self.commands.get(command_id)

    async def commands_under(self, command_ids: Sequence[str]) -> list[StoredCommand]:
        return [self.commands[i] for i in command_ids if i in self.commands]

    async def command_at(self, partition: int, offset: int) -> StoredCommand | None:
        decided = [*self.commands.values(), *self.elsewhere]
        return next((c for c in decided if (c.partition, c.offset) == (partition, offset)), None)

    async def commands_about(self, subject: str) -> list[StoredCommand]:
        return [c for c in self.commands.values() if c.subject == subject]

    async def order(self, order_id: str) -> OrderHead | None:
        return self.orders.get(order_id)

    async def products(self, product_ids: Sequence[str]) -> list[Shelf]:
        return [self.shelves[i] for i in product_ids if i in self.shelves]

    async def product_page(self, after: str, limit: int, *, off_shelf_too: bool) -> list[Shelf]:
        beyond = [self.shelves[i] for i in sorted(self.shelves) if i > after]
        return [shelf for shelf in beyond if off_shelf_too or shelf.product.on_shelf][:limit]
