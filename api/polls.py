"""GET /v1/checkouts/{checkout_id}, which nearly all requests of the read side are: ASGI, without a framework."""

from collections.abc import Callable, Iterable
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
from contracts.http import JSON, Answer, not_allowed
from contracts.messages import is_uuid
from contracts.problems import Problem
from contracts.receipts import ReceiptSigner
from contracts.requests import CheckoutStatus

_PATH = "/v1/checkouts/"
_NO_CHECKOUT = (
    "nothing is known of this checkout for you; while it is queued, or where its message could not be read, poll the "
    "Location of the 202 as it is, since that carries the receipt; if that is lost, send the checkout again with its "
    "Idempotency-Key"
)
_encode = msgspec.json.Encoder().encode


class Polls:
    """An ASGI application that answers for a checkout by itself, and has `rest` answer for everything else."""

    def __init__(
        self,
        checkouts: Checkouts,
        verifier: BearerVerifier,
        signer: ReceiptSigner,
        clock: Callable[[], datetime],
        rest: ASGIApp,
    ) -> None:
        self._checkouts = checkouts
        self._verifier = verifier
        self._signer = signer
        self._clock = clock
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        checkout_id = path[len(_PATH) :]
        if scope["type"] != "http" or not path.startswith(_PATH) or not checkout_id or "/" in checkout_id:
            await self._rest(scope, receive, send)
            return
        try:
            answer = await self._poll(scope, checkout_id)
        except Exception as error:  # noqa: BLE001 - every error is answered, and logged where it is not a problem
            answer = answer_of_error(scope["method"], path, error)
        headers = [(name.encode(), value.encode()) for name, value in answer.headers]
        headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _poll(self, scope: Scope, checkout_id: str) -> Answer:
        if scope["method"] not in ("GET", "HEAD"):
            raise not_allowed(scope["method"], scope["path"], "GET, HEAD")
        buyer_id = buyer_of(self._verifier, _authorization(scope["headers"]), self._clock())
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


def _authorization(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name == b"authorization"), None)


def _answer(status: CheckoutStatus) -> Answer:
    """200: `Retry-After` and no-store while queued; final answers may be kept by their buyer alone."""
    headers = [JSON, ("cache-control", "private"), ("vary", "Authorization")]
    if status.status == "queued":
        headers = [JSON, ("cache-control", "no-store"), ("retry-after", str(retry_after_s(status)))]
    return Answer(200, headers, _encode(status))
