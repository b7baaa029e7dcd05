"""What buyers and merchants ask of orders, stock and the catalogue: each request becomes a command in the log."""

import re
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.publisher import CommandPublisher
from api.web import Who, private, read_json, route
from contracts import asks, problems
from contracts.auth import MERCHANT
from contracts.bodies import Body
from contracts.commands import (
    Adjust,
    Cancel,
    Close,
    Command,
    Complete,
    PatchProduct,
    Pick,
    PutProduct,
    Restock,
    SetStock,
    Ship,
)
from contracts.errors import NotAcknowledged
from contracts.idempotency import idempotency_key
from contracts.outcomes import OrderStatus, Refusal
from contracts.problems import Problem
from contracts.requests import Total
from contracts.settings import Settings
from contracts.times import to_ms
from stock_ledger.commands.reads import CommandReads, OrderHead, Shelf, StoredCommand
from stock_ledger.lifecycle import after, allowed

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_REQUESTS = uuid.UUID("5f0e1f0b-52f3-5b0f-8e6e-1a0e4e6f7c3d")
_close, _ship, _none = Body(asks.CloseRequest), Body(asks.ShipRequest), Body(asks.NoRequest)
_put, _patch = Body(asks.ProductRequest), Body(asks.ProductPatch)
_stock = Body(asks.StockRequest)


class Desk(NamedTuple):
    """What the routes below work with."""

    commands: CommandPublisher
    reads: CommandReads
    who: Who
    has_scope: Callable[[Request, str], bool]
    clock: Callable[[], datetime]
    settings: Settings


def desk_routes(desk: Desk) -> list[Route]:
    e = _Endpoints(desk)
    return [
        route("/v1/orders/{order_id}/cancel", post=e.cancel),
        route("/v1/orders/{order_id}/close", post=e.close),
        route("/v1/orders/{order_id}/pick", post=e.pick),
        route("/v1/orders/{order_id}/ship", post=e.ship),
        route("/v1/orders/{order_id}/complete", post=e.complete),
        route("/v1/orders/{order_id}/events", get=e.events),
        route("/v1/products/{product_id}", get=e.product, put=e.put_product, patch=e.patch_product),
        route("/v1/products/{product_id}/stock", get=e.stock, post=e.change_stock),
        route("/v1/commands/{command_id}", get=e.command),
    ]


class _Endpoints:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._bytes_max = desk.settings.body_bytes_max

    async def cancel(self, request: Request) -> Response:
        _none.parse(await read_json(request, self._bytes_max))
        buyer_id = self._desk.who(request)
        order = await self._order(request)
        if order.buyer_id != buyer_id:
            raise _no_order()
        _allow(order, "cancel")
        base = self._base(request, f"buyer:{buyer_id}", f"cancel {order.order_id}")
        return await self._send(Cancel(**base, order_id=order.order_id, buyer_id=buyer_id))

    async def close(self, request: Request) -> Response:
        asked = _close.parse(await read_json(request, self._bytes_max))
        return await self._step(request, Close, why=asked.why)

    async def pick(self, request: Request) -> Response:
        _none.parse(await read_json(request, self._bytes_max))
        return await self._step(request, Pick)

    async def ship(self, request: Request) -> Response:
        asked = _ship.parse(await read_json(request, self._bytes_max))
        return await self._step(request, Ship, carrier=asked.carrier, tracking=asked.tracking)

    async def complete(self, request: Request) -> Response:
        _none.parse(await read_json(request, self._bytes_max))
        return await self._step(request, Complete)

    async def put_product(self, request: Request) -> Response:
        asked = _put.parse(await read_json(request, self._bytes_max))
        return await self._of_product(request, PutProduct, msgspec.structs.asdict(asked))

    async def patch_product(self, request: Request) -> Response:
        asked = _patch.parse(await read_json(request, self._bytes_max))
        given = {k: v for k, v in msgspec.structs.asdict(asked).items() if v is not msgspec.UNSET}
        return await self._of_product(request, PatchProduct, given)

    async def change_stock(self, request: Request) -> Response:
        asked = _stock.parse(await read_json(request, self._bytes_max))
        kind, fields = _stock_command(asked)
        return await self._of_product(request, kind, fields)

    async def product(self, request: Request) -> Response:
        self._desk.who(request)
        return private(product_view(await self._shelf(request)))

    async def stock(self, request: Request) -> Response:
        self._merchant(request)
        shelf = await self._shelf(request)
        c, available = shelf.counts, shelf.stock.available
        return private(
            asks.ProductStock(
                shelf.product.product_id, available, c.held, c.pending, c.paid, available + c.committed()
            )
        )

    async def events(self, request: Request) -> Response:
        asker = self._desk.who(request)
        order = await self._order(request)
        if order.buyer_id != asker and not self._desk.has_scope(request, MERCHANT):
            raise _no_order()
        return private(
            asks.CommandLog([status_of(c) for c in await self._desk.reads.commands_about(order.order_id)])
        )

    async def command(self, request: Request) -> Response:
        asker = self._desk.who(request)
        command_id = request.path_params["command_id"]
        found = await self._desk.reads.command(command_id) if _UUID.match(command_id) else None
        is_theirs = found is not None and found.actor.partition(":")[2] == asker
        if found is None or not (is_theirs or self._desk.has_scope(request, MERCHANT)):
            raise Problem(
                problems.NOT_FOUND, "no such command of yours is decided; ask again if you have just sent it"
            )
        return private(status_of(found))

    async def _step(self, request: Request, kind: type[Any], **fields: Any) -> Response:
        """A merchant's step of an order."""
        actor = self._merchant(request)
        order = await self._order(request)
        action = kind.__struct_config__.tag
        _allow(order, action)
        base = self._base(request, actor, f"{action} {order.order_id}")
        return await self._send(kind(**base, order_id=order.order_id, **fields))

    async def _of_product(self, request: Request, kind: type[Any], fields: dict[str, Any]) -> Response:
        actor = self._merchant(request)
        product_id = request.path_params["product_id"]
        if not _ID.match(product_id):
            raise Problem(problems.UNKNOWN_PRODUCT, "a product id is 1-64 of A-Z a-z 0-9 _ -")
        base = self._base(request, actor, f"{kind.__struct_config__.tag} {product_id}")
        return await self._send(kind(**base, product_id=product_id, **fields))

    def _base(self, request: Request, actor: str, what: str) -> dict[str, Any]:
        """Under the same Idempotency-Key the same thing asked by the same actor is the same command."""
        header = request.headers.get("idempotency-key")
        command_id = str(uuid.uuid4())
        if header is not None:
            command_id = str(uuid.uuid5(_REQUESTS, f"{actor}\0{what}\0{idempotency_key(header)}"))
        return {"command_id": command_id, "actor": actor, "asked_at_ms": to_ms(self._desk.clock())}

    async def _send(self, command: Command) -> Response:
        try:
            partition, offset = await self._desk.commands.publish(command)
        except NotAcknowledged as error:
            raise Problem(
                problems.NOT_ACKNOWLEDGED, "it may or may not be done; ask again with the same Idempotency-Key",
                headers=[("retry-after", "1")],
            ) from error  # fmt: skip
        url = f"/v1/commands/{command.command_id}"
        told = asks.CommandAccepted(
            command.command_id, str(command.__struct_config__.tag), command.subject(), url, partition, offset
        )
        return private(told, 202, location=url, **{"retry-after": "1"})

    def _merchant(self, request: Request) -> str:
        asker = self._desk.who(request)
        if not self._desk.has_scope(request, MERCHANT):
            raise Problem(problems.FORBIDDEN, f"the token's scope must contain {MERCHANT}")
        return f"{MERCHANT}:{asker}"

    async def _order(self, request: Request) -> OrderHead:
        order_id = request.path_params["order_id"]
        order = await self._desk.reads.order(order_id) if _UUID.match(order_id) else None
        if order is None:
            raise _no_order()
        return order

    async def _shelf(self, request: Request) -> Shelf:
        found = await self._desk.reads.products([request.path_params["product_id"]])
        if not found:
            raise Problem(problems.UNKNOWN_PRODUCT, "there is no such product")
        return found[0]


def _allow(order: OrderHead, action: str) -> None:
    """Refuse at once what the order's writer would refuse; whose view is newer decides for good."""
    status = OrderStatus(order.status)
    if after(status, action) is None:
        may = ", ".join(allowed(status)) or "nothing"
        raise Problem(
            problems.TRANSITION_FORBIDDEN, f"the order is {status}: {may} is allowed, {action} is not",
            order_status=status.value, allowed=allowed(status),
        )  # fmt: skip


def _stock_command(asked: asks.StockRequest) -> tuple[type[Any], dict[str, Any]]:
    if asked.kind == "restock" and asked.units >= 1:
        return Restock, {"units": asked.units, "why": asked.why}
    if asked.kind == "set" and asked.units >= 0:
        return SetStock, {"total": asked.units, "why": asked.why}
    if asked.kind == "adjust" and asked.why and asked.units:
        return Adjust, {"units": asked.units, "why": asked.why}
    pointer = "#/why" if asked.kind == "adjust" and not asked.why else "#/units"
    detail = "say why" if pointer == "#/why" else f"not a number of units to {asked.kind}"
    raise Problem(
        problems.INVALID, "correct the fields named in errors", errors=[{"detail": detail, "pointer": pointer}]
    )  # fmt: skip


def _no_order() -> Problem:
    return Problem(problems.NOT_FOUND, "you have no such order")


def status_of(command: StoredCommand) -> asks.CommandStatus:
    """The command as clients get it."""
    return asks.CommandStatus(
        command.command_id, command.action, command.subject, command.actor, command.outcome,  # type: ignore[arg-type]
        command.partition, command.offset, command.decided_at,
        None if command.reason is None else Refusal(command.reason),
    )  # fmt: skip


def product_view(shelf: Shelf) -> asks.ProductView:
    """The product as clients get it."""
    p = shelf.product
    return asks.ProductView(
        p.product_id, p.name, p.cover, Total(f"{p.sells_for():f}", p.currency), Total(f"{p.price:f}", p.currency),
        p.on_shelf, p.buyer_limit, p.payment_ttl_s, p.sale_from, p.sale_to, shelf.stock.available, p.version,
    )  # fmt: skip
