"""Products and stock over HTTP: what sells, for everyone; the catalogue and the counts of stock, for merchants."""

import re
from datetime import datetime
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.catalogue import NO_PRODUCT, NO_PRODUCTS, WRONG_WINDOW
from api.desk import Desk
from api.orders import limit_of, money, wrong_parameter
from api.web import Json, private, route
from contracts import asks, problems
from contracts.auth import MERCHANT
from contracts.bodies import Body
from contracts.commands import (
    Adjust,
    Move,
    PatchProduct,
    PutProduct,
    Restock,
    SetStock,
    ends_before_it_begins,
)
from contracts.problems import Problem
from contracts.slices import slice_of
from stock_ledger.commands.reads import Shelf

PATCHES = ("application/merge-patch+json", "application/json")  # RFC 7396
_PUBLIC = {"cache-control": "public, max-age=1", "vary": "Authorization"}
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_put, _patch, _stock = Body(asks.ProductRequest), Body(asks.ProductPatch), Body(asks.StockRequest)
_move = Body(asks.MoveRequest)


def product_routes(desk: Desk) -> list[Route]:
    e = _Endpoints(desk)
    return [
        route("/v1/products", get=e.products),
        route("/v1/products/{product_id}", get=e.product, put=e.put, patch=e.patch),
        route("/v1/products/{product_id}/stock", get=e.stock, post=e.change_stock),
        route("/v1/products/{product_id}/stock/moves", post=e.move_stock),
    ]


class _Endpoints:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def products(self, request: Request) -> Response:
        """By id, in pages; to merchants those too that are not on the shelf."""
        whole = self._sees_all(request)
        limit = limit_of(request.query_params.get("limit"))
        after = request.query_params.get("cursor", "")
        if after and not _ID.match(after):
            raise wrong_parameter("cursor", "use the cursor of a page's next as it is")
        found = await self._desk.reads.product_page(after, limit + 1, off_shelf_too=whole)
        page = found[:limit]
        more = len(found) > limit
        url = f"/v1/products?limit={limit}&cursor={page[-1].product.product_id}" if more else None
        return _shown(request, asks.ProductPage([product_view(shelf) for shelf in page], url))

    async def product(self, request: Request) -> Response:
        whole = self._sees_all(request)
        shelf = await self._shelf(request)
        if not (whole or shelf.product.on_shelf):
            raise _no_product()
        return _shown(request, product_view(shelf))

    async def put(self, request: Request) -> Response:
        asker, asked = await self._desk.asked(request, self._desk.merchant, _put)
        check_window(asked.sale_from, asked.sale_to)
        return await self._ask(request, asker, PutProduct, msgspec.structs.asdict(asked))

    async def patch(self, request: Request) -> Response:
        asker, asked = await self._desk.asked(request, self._desk.merchant, _patch, PATCHES)
        given = {k: v for k, v in msgspec.structs.asdict(asked).items() if v is not msgspec.UNSET}
        return await self._ask(request, asker, PatchProduct, given)

    async def stock(self, request: Request) -> Response:
        self._desk.merchant(request)
        return private(stock_view(await self._shelf(request)))

    async def change_stock(self, request: Request) -> Response:
        asker, asked = await self._desk.asked(request, self._desk.merchant, _stock)
        kind, fields = _stock_command(asked)
        return await self._ask(request, asker, kind, fields)

    async def move_stock(self, request: Request) -> Response:
        asker, asked = await self._desk.asked(request, self._desk.merchant, _move)
        return await self._ask(request, asker, Move, msgspec.structs.asdict(asked))

    async def _ask(self, request: Request, asker: str, kind: type[Any], fields: dict[str, Any]) -> Response:
        product_id = request.path_params["product_id"]
        if not _ID.match(product_id):
            raise Problem(problems.UNKNOWN_PRODUCT, "a product id is 1-64 of A-Z a-z 0-9 _ -")
        if product_id in NO_PRODUCTS:
            raise Problem(problems.UNKNOWN_PRODUCT, NO_PRODUCT)
        base = self._desk.base(request, f"{MERCHANT}:{asker}", f"{kind.__struct_config__.tag} {product_id}")
        command = kind(**base, product_id=product_id, **fields)
        known = await self._desk.known(request, command, asker)
        if known is not None:
            return known
        if kind is not PutProduct:
            there = (await self._shelf(request)).product
            if kind is PatchProduct and {"sale_from", "sale_to"} & fields.keys():
                check_window(fields.get("sale_from", there.sale_from), fields.get("sale_to", there.sale_to))
        return await self._desk.send(request, command, asker)

    async def _shelf(self, request: Request) -> Shelf:
        product_id = request.path_params["product_id"]
        found = await self._desk.reads.products([product_id]) if _ID.match(product_id) else []
        if not found:
            raise _no_product()
        return found[0]

    def _sees_all(self, request: Request) -> bool:
        """Whether a merchant asks. What sells is shown without a token, but not with a bad one."""
        if "authorization" not in request.headers:
            return False
        self._desk.who(request)
        return self._desk.has_scope(request, MERCHANT)


def check_window(sale_from: datetime | None, sale_to: datetime | None) -> None:
    """Raise Problem 422 for a sale that ends before it begins."""
    if ends_before_it_begins(sale_from, sale_to):
        raise Problem(
            problems.INVALID, "correct the fields named in errors",
            errors=[{"detail": WRONG_WINDOW, "pointer": "#/sale_to"}],
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


def _shown(request: Request, content: msgspec.Struct) -> Response:
    """What everyone may see may be kept by everyone, for a second."""
    if "authorization" in request.headers:
        return private(content)
    return Json(msgspec.json.encode(content), headers=_PUBLIC)


def _no_product() -> Problem:
    return Problem(problems.UNKNOWN_PRODUCT, "there is no such product")


def product_view(shelf: Shelf) -> asks.ProductView:
    """The product as clients get it."""
    p = shelf.product
    return asks.ProductView(
        p.product_id, p.name, p.cover, money(p.sells_for(), p.currency), money(p.price, p.currency),
        p.on_shelf, p.buyer_limit, p.payment_ttl_s, p.sale_from, p.sale_to, p.stock_source,
        shelf.available(), p.version, p.slices,
    )  # fmt: skip


def stock_view(shelf: Shelf) -> asks.ProductStock:
    """Where the product's units are, in all and in each slice."""
    slices = [
        asks.SliceStock(
            slice_of(s.product.product_id), s.stock.available, s.counts.held, s.counts.pending, s.counts.paid,
            s.stock.available + s.counts.committed(),
        )
        for s in shelf.slices()
    ]  # fmt: skip
    return asks.ProductStock(
        product_id=shelf.product.product_id,
        available=sum(s.available for s in slices),
        held=sum(s.held for s in slices),
        pending_payment=sum(s.pending_payment for s in slices),
        paid=sum(s.paid for s in slices),
        total=sum(s.total for s in slices),
        slices=slices,
    )
