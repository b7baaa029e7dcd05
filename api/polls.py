"""GET /v1/checkouts/{checkout_id}, which nearly all requests of the read side are: ASGI, without a framework."""

import re
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from urllib.parse import parse_qsl

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from api.checkouts import Checkouts
from api.orders import wrong_parameter
from api.status import retry_after_s
from api.web import answer_of_error, buyer_of
from contracts import problems
from contracts.auth import BearerVerifier
from contracts.errors import Invalid
from contracts.http import JSON, Answer
from contracts.messages import is_uuid
from contracts.problems import Problem
from contracts.receipts import ReceiptSigner
from contracts.requests import CheckoutStatus

_BEFORE = "/v1/checkouts/"
_is_path = re.compile(_BEFORE + "[^/]+").fullmatch
_NO_CHECKOUT = (
    "nothing is known of this checkout for you; while it is queued, or where its message could not be read, poll the "
    "Location of the 202 as it is, since that carries the receipt; if that is lost, send the checkout again with its "
    "Idempotency-Key"
)
_encode = msgspec.json.Encoder().encode


class Polls:
    """The ASGI application of the route. What its path ends with is the checkout, whether or not there is such a one."""

    def __init__(
        self,
        checkouts: Checkouts,
        verifier: BearerVerifier,
        signer: ReceiptSigner,
        clock: Callable[[], datetime],
    ) -> None:
        self._checkouts = checkouts
        self._verifier = verifier
        self._signer = signer
        self._clock = clock

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        try:
            answer = await self._poll(scope)
        except Exception as error:  # noqa: BLE001 - every error is answered, and logged where it is not a problem
            answer = answer_of_error(scope["method"], scope["path"], error)
        headers = [(name.encode(), value.encode()) for name, value in answer.headers]
        headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _poll(self, scope: Scope) -> Answer:
        buyer_id = buyer_of(self._verifier, _authorization(scope["headers"]), self._clock())
        checkout_id: str = scope["path"][len(_BEFORE) :]
        if not is_uuid(checkout_id):
            raise Problem(problems.NOT_FOUND, _NO_CHECKOUT)
        text = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)).get("receipt")
        status: CheckoutStatus | None
        if text is None:
            status = await self._checkouts.of_buyer(checkout_id, buyer_id)
        else:
            try:
                receipt = self._signer.verify(text, checkout_id, buyer_id)
            except Invalid as error:
                raise wrong_parameter("receipt", str(error)) from error
            status = await self._checkouts.of_receipt(checkout_id, buyer_id, receipt)
        if status is None:
            raise Problem(problems.NOT_FOUND, _NO_CHECKOUT)
        return _answer(status)


def in_front(polls: Polls, rest: ASGIApp) -> ASGIApp:
    """An application that has `polls` answer where a checkout is read, without the way through `rest`.

    `rest` has the route as well: for other methods, and for a slash too many.
    """

    def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        is_read = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        is_poll = is_read and _is_path(scope["path"])
        return (polls if is_poll else rest)(scope, receive, send)

    return app


def _authorization(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name == b"authorization"), None)


def _answer(status: CheckoutStatus) -> Answer:
    """200: `Retry-After` and no-store while queued; final answers may be kept by their buyer alone."""
    headers = [JSON, ("cache-control", "private"), ("vary", "Authorization")]
    if status.status == "queued":
        headers = [JSON, ("cache-control", "no-store"), ("retry-after", str(retry_after_s(status)))]
    return Answer(200, headers, _encode(status))
