"""The read side's HTTP application: routes, who may see what, headers. Connects to nothing by itself."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from api.addresses import address_routes
from api.carts import cart_routes
from api.catalogue_files import catalogue_routes
from api.checkouts import Checkouts
from api.desk import Desk, command_routes
from api.gathered import Shown
from api.order_desk import order_routes
from api.orders import no_order, order_page, order_view
from api.payments.provider import PaymentProvider
from api.payments.routes import payment_routes
from api.polls import Polls, in_front
from api.products import product_routes
from api.publisher import CommandPublisher
from api.web import Who, application, bearer, private, scopes, sent_once
from contracts.auth import BearerVerifier
from contracts.errors import SettingsError, Unavailable
from contracts.messages import is_uuid
from contracts.receipts import ReceiptSigner
from contracts.settings import Settings
from stock_ledger.addresses import AddressBook
from stock_ledger.carts import Carts
from stock_ledger.commands.reads import CommandReads
from stock_ledger.reads import Reads

logger = logging.getLogger(__name__)

_AWAY = "does not answer"
_MISCONFIGURED = "is not as configured"  # how to mend it is in the log


class Kept(NamedTuple):
    """Where buyers keep what they need between checkouts, and what makes the ids of new addresses."""

    addresses: AddressBook
    carts: Carts
    new_id: Callable[[], str]


class Asked(NamedTuple):
    """Where commands go and are read, and who takes payments, by name."""

    commands: CommandPublisher
    reads: CommandReads
    providers: Mapping[str, PaymentProvider]


def build(
    settings: Settings,
    reads: Reads,
    view: Shown,
    verifier: BearerVerifier,
    signer: ReceiptSigner,
    clock: Callable[[], datetime],
    monotonic: Callable[[], float],
    kept: Kept,
    asked: Asked,
) -> ASGIApp:
    """The application. Every answer is of the bearer token's buyer; what is another's is not there (404).

    `clock` gives aware datetimes, for tokens and what is stored; `monotonic` seconds, for how old what was seen is.
    """
    who = bearer(verifier, clock)
    desk = Desk(
        asked.commands, asked.reads, who, scopes(verifier, clock), signer.of_commands(), clock, settings
    )
    refused: Counter[str] = Counter()
    endpoints = _Endpoints(reads, view, who, asked.commands, refused, settings.cache_timeout_s)
    polls = Polls(Checkouts(reads, view, settings, monotonic), verifier, signer, clock)
    routes: list[BaseRoute] = [
        Route("/v1/checkouts/{checkout_id}", polls, methods=["GET"]),
        Route("/v1/orders", endpoints.orders),
        Route("/v1/orders/{order_id}", endpoints.order),
        *address_routes(kept.addresses, who, clock, kept.new_id, settings),
        *cart_routes(kept.carts, who, clock, settings),
        *order_routes(desk),
        *catalogue_routes(desk),
        *product_routes(desk),
        *command_routes(desk),
        *payment_routes(desk, asked.providers, refused),
    ]
    app = in_front(polls, application(routes, endpoints.ready))
    return sent_once(app, settings.import_bytes_max)


class _Endpoints:
    def __init__(
        self,
        reads: Reads,
        view: Shown,
        who: Who,
        commands: CommandPublisher,
        refused: Counter[str],
        ready_within_s: float,
    ) -> None:
        self._reads = reads
        self._view = view
        self._who = who
        self._commands = commands
        self._refused = refused
        self._ready_within_s = ready_within_s

    async def order(self, request: Request) -> Response:
        buyer_id = self._who(request)
        order_id: str = request.path_params["order_id"]
        found = await self._reads.order(order_id, buyer_id) if is_uuid(order_id) else None
        if found is None:
            raise no_order()
        return private(order_view(found))

    async def orders(self, request: Request) -> Response:
        buyer_id = self._who(request)
        return private(await order_page(self._reads, buyer_id, request.query_params))

    async def ready(self) -> tuple[bool, dict[str, object]]:
        """One of Postgres and the cache is enough to answer most polls; Kafka is only told of."""
        postgres, cache = await asyncio.gather(
            _state(self._reads.next_offsets([0]), self._ready_within_s),
            _state(self._view.progress([0]), self._ready_within_s),
        )
        told: dict[str, object] = {
            "postgres": postgres,
            "cache": cache,
            "kafka": _AWAY if self._commands.problem else "ok",  # why is in the log
        }
        if self._refused:
            told["bad_signatures"] = dict(self._refused)  # of callbacks, by provider, since the start
        return "ok" in (postgres, cache) and postgres != _MISCONFIGURED, told


async def _state(answer: Coroutine[Any, Any, object], within_s: float) -> str:
    """Never later than `within_s`: to give a connection back to a server that stands still takes longer."""
    asking = asyncio.create_task(answer)
    try:
        async with asyncio.timeout(within_s):
            await asyncio.shield(asking)
    except (Unavailable, TimeoutError):
        return _AWAY
    except SettingsError as error:
        logger.warning("not ready: %s", error, extra={"action": "misconfigured"})
        return _MISCONFIGURED
    finally:
        asking.cancel()
    return "ok"
