"""POST /v1/products/import, GET /v1/products/export: the catalogue as a file."""

import asyncio
from collections.abc import Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api import catalogue
from api.desk import Desk
from api.orders import wrong_parameter
from api.web import discard_body, media_type_of, private, require_type, route, whole_body
from contracts.asks import CommandAccepted, ImportAccepted
from contracts.auth import MERCHANT
from contracts.commands import PutProduct
from contracts.problems import Problem
from stock_ledger.commands.reads import CommandReads

EXPORT_PAGE = 500  # products of a query
_TOGETHER = 200  # commands on their way at once
_TYPES: dict[catalogue.Format, str] = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}


def catalogue_routes(desk: Desk) -> list[Route]:
    """They go before the routes of single products, of which none has these names."""
    settings = desk.settings
    places = asyncio.Semaphore(settings.imports_max)

    async def take_in(request: Request) -> Response:
        """A file is large: it is held only of who may send one, and only some at once. The others wait to be read."""
        await require_type(request, settings.import_bytes_max, tuple(catalogue.MEDIA_TYPES))
        try:
            asker = desk.merchant(request)
        except Problem:
            await discard_body(request, settings.import_bytes_max)
            raise
        async with places:
            body = await whole_body(request, settings.import_bytes_max, tuple(catalogue.MEDIA_TYPES))
            return await _imported(desk, request, body, asker)

    async def give_out(request: Request) -> Response:
        desk.merchant(request)
        wanted = request.query_params.get("format", "ndjson")
        kind = next((one for one in catalogue.FORMATS if one == wanted), None)
        if kind is None:
            raise wrong_parameter("format", f"format must be {' or '.join(catalogue.FORMATS)}")
        async with places:
            content = await exported(desk.reads, kind)
        headers = {
            "content-disposition": f'attachment; filename="products.{kind}"',
            "cache-control": "private, no-store",
            "content-type": _TYPES[kind],
        }
        return Response(content, headers=headers)

    return [route("/v1/products/import", post=take_in), route("/v1/products/export", get=give_out)]


async def exported(reads: CommandReads, kind: catalogue.Format) -> bytes:
    """All products by id, each page of one moment. Raises Unavailable.

    All of them before any is given out: a file that ends early looks whole.
    """
    content, after = bytearray(), ""
    while True:
        page = await reads.product_page(after, EXPORT_PAGE, off_shelf_too=True)
        content += catalogue.write(page, kind, head=not after)
        if len(page) < EXPORT_PAGE:
            return bytes(content)
        after = page[-1].product.product_id


async def _imported(desk: Desk, request: Request, body: bytes, asker: str) -> Response:
    kind = catalogue.MEDIA_TYPES[media_type_of(request)]
    lines = await asyncio.to_thread(catalogue.read, body, kind, desk.settings.import_lines_max)
    commands = []
    for line in lines:
        base = desk.base(request, f"{MERCHANT}:{asker}", f"put_product {line.product_id}")
        commands.append(catalogue.command_of(line, base))
    told: dict[str, CommandAccepted] = {}
    for some in together(commands):
        told |= await desk.decided_before(request, some, asker)
    for some in together([command for command in commands if command.command_id not in told]):
        told |= await _publish(desk, request, some, asker)
    in_order = [told[command.command_id] for command in commands]
    return private(ImportAccepted(len(in_order), in_order), 202)


async def _publish(
    desk: Desk, request: Request, commands: Sequence[PutProduct], asker: str
) -> dict[str, CommandAccepted]:
    """All of them at once, by their ids. Raises Problem 503 if any is not acknowledged: then send the file again, with its key."""
    sent = await asyncio.gather(
        *(desk.publish(request, command, asker) for command in commands), return_exceptions=True
    )
    told: dict[str, CommandAccepted] = {}
    for one in sent:
        if isinstance(one, BaseException):
            raise one
        told[one.command_id] = one
    return told


def together(commands: Sequence[PutProduct]) -> Iterator[Sequence[PutProduct]]:
    """As many at once as may be on their way."""
    return (commands[start : start + _TOGETHER] for start in range(0, len(commands), _TOGETHER))
