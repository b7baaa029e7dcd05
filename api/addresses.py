"""/v1/addresses: a buyer's address book."""

import re
from collections.abc import Callable
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.orders import wrong_parameter
from api.web import Who, private, route, whole_body
from contracts import problems
from contracts.bodies import Body
from contracts.buyers import AddressList, AddressRequest, AddressView
from contracts.messages import Shipping
from contracts.problems import Problem
from contracts.settings import Settings
from stock_ledger.addresses import Address, AddressBook, StoredAddress

PATH = "/v1/addresses"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_NO_ADDRESS = "you have no such address"
_body = Body(AddressRequest)


def address_routes(
    book: AddressBook, who: Who, clock: Callable[[], datetime], new_id: Callable[[], str], settings: Settings
) -> list[Route]:
    endpoints = _Endpoints(book, who, clock, new_id, settings)
    return [
        route(PATH, get=endpoints.all, post=endpoints.add),
        route(PATH + "/{address_id}", get=endpoints.one, put=endpoints.put, delete=endpoints.remove),
    ]


class _Endpoints:
    def __init__(
        self,
        book: AddressBook,
        who: Who,
        clock: Callable[[], datetime],
        new_id: Callable[[], str],
        settings: Settings,
    ) -> None:
        self._book = book
        self._who = who
        self._clock = clock
        self._new_id = new_id
        self._settings = settings

    async def all(self, request: Request) -> Response:
        addresses = await self._book.addresses(self._who(request))
        return private(AddressList([address_view(address) for address in addresses]))

    async def one(self, request: Request) -> Response:
        address_id = request.path_params["address_id"]
        addresses = await self._book.addresses(self._who(request))
        found = next((address for address in addresses if address.address_id == address_id), None)
        if found is None:
            raise Problem(problems.NOT_FOUND, _NO_ADDRESS)
        return private(address_view(found))

    async def add(self, request: Request) -> Response:
        stored = await self._store(request, self._new_id())
        view = address_view(stored.address)
        return private(view, 201, location=f"{PATH}/{view.address_id}")

    async def put(self, request: Request) -> Response:
        stored = await self._store(request, request.path_params["address_id"])
        return private(address_view(stored.address), 201 if stored.is_new else 200)

    async def remove(self, request: Request) -> Response:
        buyer_id, address_id = self._who(request), request.path_params["address_id"]
        if not _ID.match(address_id) or not await self._book.remove(buyer_id, address_id):
            raise Problem(problems.NOT_FOUND, _NO_ADDRESS)
        return Response(status_code=204)

    async def _store(self, request: Request, address_id: str) -> StoredAddress:
        body = await whole_body(request, self._settings.body_bytes_max)
        buyer_id = self._who(request)
        if not _ID.match(address_id):
            raise wrong_parameter("address_id", "an address id is 1-64 of A-Z a-z 0-9 _ -")
        wanted = _body.parse(body)
        stored = await self._book.put(
            buyer_id,
            address_id,
            Shipping(wanted.contact_name, wanted.phone, wanted.address),
            self._clock(),
            as_default=wanted.default,
            addresses_max=self._settings.addresses_max,
        )
        if stored is None:
            raise Problem(
                problems.LIMIT_REACHED,
                f"you have {self._settings.addresses_max} addresses already; change or delete one",
            )
        return stored


def address_view(address: Address) -> AddressView:
    """The address as clients get it."""
    at = address.shipping
    return AddressView(address.address_id, at.contact_name, at.phone, at.address, address.is_default)
