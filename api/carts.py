"""/v1/cart: what a buyer means to buy."""

import re
from collections.abc import Callable
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.orders import money
from api.web import Who, private, route, whole_body
from contracts import problems
from contracts.bodies import Body
from contracts.buyers import CartLineView, CartRequest, CartView
from contracts.problems import Problem
from contracts.settings import Settings
from stock_ledger.carts import CartLine, CartRefusal, Carts

PATH = "/v1/cart"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_body = Body(CartRequest)


def cart_routes(carts: Carts, who: Who, clock: Callable[[], datetime], settings: Settings) -> list[Route]:
    endpoints = _Endpoints(carts, who, clock, settings)
    return [
        route(PATH, get=endpoints.all, delete=endpoints.clear),
        route(PATH + "/{product_id}", put=endpoints.put, delete=endpoints.remove),
    ]


class _Endpoints:
    def __init__(self, carts: Carts, who: Who, clock: Callable[[], datetime], settings: Settings) -> None:
        self._carts = carts
        self._who = who
        self._clock = clock
        self._settings = settings

    async def all(self, request: Request) -> Response:
        lines = await self._carts.lines(self._who(request))
        return private(CartView([line_view(line) for line in lines]))

    async def put(self, request: Request) -> Response:
        body = await whole_body(request, self._settings.body_bytes_max)
        buyer_id, product_id = self._who(request), request.path_params["product_id"]
        quantity = _body.parse(body).quantity
        if quantity > self._settings.quantity_max:
            detail = f"at most {self._settings.quantity_max} units of a product"
            raise Problem(problems.INVALID, detail, errors=[{"detail": detail, "pointer": "#/quantity"}])
        if not _ID.match(product_id):
            raise self._refused(CartRefusal.UNKNOWN_PRODUCT)
        stored = await self._carts.put(
            buyer_id, product_id, quantity, self._clock(), lines_max=self._settings.cart_lines_max
        )
        if isinstance(stored, CartRefusal):
            raise self._refused(stored)
        return private(line_view(stored.line), 201 if stored.is_new else 200)

    async def remove(self, request: Request) -> Response:
        buyer_id, product_id = self._who(request), request.path_params["product_id"]
        if not _ID.match(product_id) or not await self._carts.remove(buyer_id, product_id):
            raise Problem(problems.NOT_FOUND, "this product is not in your cart")
        return Response(status_code=204)

    async def clear(self, request: Request) -> Response:
        await self._carts.clear(self._who(request))
        return Response(status_code=204)

    def _refused(self, refusal: CartRefusal) -> Problem:
        match refusal:
            case CartRefusal.UNKNOWN_PRODUCT:
                return Problem(problems.UNKNOWN_PRODUCT, "nothing with this id is on the shelf")
            case CartRefusal.FULL:
                at_most = self._settings.cart_lines_max
                return Problem(
                    problems.LIMIT_REACHED, f"there are {at_most} products in your cart already; remove one"
                )


def line_view(line: CartLine) -> CartLineView:
    """The line as clients get it."""
    return CartLineView(
        product_id=line.product_id,
        quantity=line.quantity,
        name=line.name,
        cover=line.cover,
        price=money(line.price, line.currency),
        on_shelf=line.on_shelf,
        sale_from=line.sale_from,
        sale_to=line.sale_to,
        available=line.available,
        added_at=line.added_at,
        updated_at=line.updated_at,
    )
