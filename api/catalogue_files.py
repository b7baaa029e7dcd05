"""POST /v1/products/import, GET /v1/products/export: the catalogue as a file."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from api import catalogue
from api.desk import Desk
from api.orders import wrong_parameter
from api.web import media_type_of, private, route, whole_body
from contracts.asks import CommandAccepted, ImportAccepted
from contracts.auth import MERCHANT
from contracts.commands import PutProduct
from stock_ledger.commands.reads import CommandReads

EXPORT_PAGE = 500  # products of a query
TOGETHER = 200  # commands on their way at once
_TYPES: dict[catalogue.Format, str] = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}


def catalogue_routes(desk: Desk) -> list[Route]:
    """They go before the routes of single products: one of the id `export` is not shown by itself."""

    async def take_in(request: Request) -> Response:
        settings = desk.settings
        body = await whole_body(request, settings.import_bytes_max, tuple(catalogue.MEDIA_TYPES))
        asker = desk.merchant(request)
        kind = catalogue.MEDIA_TYPES[media_type_of(request)]
        lines = await asyncio.to_thread(catalogue.read, body, kind, settings.import_lines_max)
        commands = []
        for line in lines:
            base = desk.base(request, f"{MERCHANT}:{asker}", f"put_product {line.product_id}")
            commands.append(catalogue.command_of(line, base))
        told: list[CommandAccepted] = []
        for start in range(0, len(commands), TOGETHER):
            told += await _publish(desk, commands[start : start + TOGETHER], asker)
        return private(ImportAccepted(len(told), told), 202)

    async def give_out(request: Request) -> Response:
        desk.merchant(request)
        wanted = request.query_params.get("format", "ndjson")
        kind = next((one for one in catalogue.FORMATS if one == wanted), None)
        if kind is None:
            raise wrong_parameter("format", f"format must be {' or '.join(catalogue.FORMATS)}")
        parts = exported(desk.reads, kind)
        first = await anext(parts)  # while it can still be answered with a problem

        async def whole() -> AsyncIterator[bytes]:
            yield first
            async for part in parts:
                yield part

        headers = {
            "content-disposition": f'attachment; filename="products.{kind}"',
            "cache-control": "private, no-store",
            "content-type": _TYPES[kind],
        }
        return StreamingResponse(whole(), headers=headers)

    return [route("/v1/products/import", post=take_in), route("/v1/products/export", get=give_out)]


async def exported(reads: CommandReads, kind: catalogue.Format) -> AsyncIterator[bytes]:
    """All products by id, in parts, at least one. Each part is of one moment. Raises Unavailable."""
    after, head = "", True
    while True:
        page = await reads.product_page(after, EXPORT_PAGE, off_shelf_too=True)
        yield catalogue.write(page, kind, head=head)
        if len(page) < EXPORT_PAGE:
            return
        after, head = page[-1].product.product_id, False


async def _publish(desk: Desk, commands: list[PutProduct], asker: str) -> list[CommandAccepted]:
    """All of them at once. Raises Problem 503 if any is not acknowledged: then send the file again, with its key."""
    sent = await asyncio.gather(
        *(desk.publish(command, asker) for command in commands), return_exceptions=True
    )
    told: list[CommandAccepted] = []
    for one in sent:
        if isinstance(one, BaseException):
            raise one
        told.append(one)
    return told
