"""What buyers and merchants ask of orders: cancel, close, pick, ship, complete; and the log of an order."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.desk import Desk, action_of, status_of
from api.orders import no_order
from api.web import private, route
from contracts import asks, problems
from contracts.auth import MERCHANT
from contracts.bodies import Body
from contracts.commands import Cancel, Close, Complete, Pick, Ship
from contracts.messages import is_uuid
from contracts.outcomes import OrderStatus
from contracts.problems import Problem
from stock_ledger.commands.reads import OrderHead
from stock_ledger.lifecycle import after, allowed

_close, _ship, _none = Body(asks.CloseRequest), Body(asks.ShipRequest), Body(asks.NoRequest)


def order_routes(desk: Desk) -> list[Route]:
    e = _Endpoints(desk)
    return [
        route("/v1/orders/{order_id}/cancel", post=e.cancel),
        route("/v1/orders/{order_id}/close", post=e.close),
        route("/v1/orders/{order_id}/pick", post=e.pick),
        route("/v1/orders/{order_id}/ship", post=e.ship),
        route("/v1/orders/{order_id}/complete", post=e.complete),
        route("/v1/orders/{order_id}/events", get=e.events),
    ]


class _Endpoints:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def cancel(self, request: Request) -> Response:
        buyer_id, _ = await self._desk.asked(request, self._desk.who, _none)
        order = await order_of(self._desk, request)
        if order.buyer_id != buyer_id:
            raise no_order()
        base = self._desk.base(request, f"buyer:{buyer_id}", f"cancel {order.order_id}")
        command = Cancel(**base, order_id=order.order_id, buyer_id=buyer_id)
        return await self._ask(request, order, command, buyer_id)

    async def close(self, request: Request) -> Response:
        asker, asked = await self._desk.asked(request, self._desk.merchant, _close)
        return await self._step(request, asker, Close, why=asked.why)

    async def pick(self, request: Request) -> Response:
        asker, _ = await self._desk.asked(request, self._desk.merchant, _none)
        return await self._step(request, asker, Pick)

    async def ship(self, request: Request) -> Response:
        asker, asked = await self._desk.asked(request, self._desk.merchant, _ship)
        return await self._step(request, asker, Ship, carrier=asked.carrier, tracking=asked.tracking)

    async def complete(self, request: Request) -> Response:
        asker, _ = await self._desk.asked(request, self._desk.merchant, _none)
        return await self._step(request, asker, Complete)

    async def events(self, request: Request) -> Response:
        asker = self._desk.who(request)
        order = await order_of(self._desk, request)
        if order.buyer_id != asker and not self._desk.has_scope(request, MERCHANT):
            raise no_order()
        return private(
            asks.CommandLog([status_of(c) for c in await self._desk.reads.commands_about(order.order_id)])
        )

    async def _step(self, request: Request, asker: str, kind: type[Any], **fields: Any) -> Response:
        """A merchant's step of an order."""
        order = await order_of(self._desk, request)
        base = self._desk.base(
            request, f"{MERCHANT}:{asker}", f"{kind.__struct_config__.tag} {order.order_id}"
        )
        return await self._ask(request, order, kind(**base, order_id=order.order_id, **fields), asker)

    async def _ask(self, request: Request, order: OrderHead, command: Any, asker: str) -> Response:
        known = await self._desk.known(request, command, asker)
        if known is not None:
            return known
        _allow(order, action_of(command))
        return await self._desk.send(request, command, asker)


async def order_of(desk: Desk, request: Request) -> OrderHead:
    """The order of the path, whose ever it is. Raises Problem 404."""
    order_id = request.path_params["order_id"]
    order = await desk.reads.order(order_id) if is_uuid(order_id) else None
    if order is None:
        raise no_order()
    return order


def _allow(order: OrderHead, action: str) -> None:
    """Refuse at once what the order's writer would refuse; whose view is newer decides for good."""
    status = OrderStatus(order.status)
    if after(status, action) is None:
        may = ", ".join(allowed(status)) or "nothing"
        raise Problem(
            problems.TRANSITION_FORBIDDEN, f"{action} is not possible: the order is {status}, which allows {may}",
            order_status=status.value, allowed=allowed(status),
        )  # fmt: skip
