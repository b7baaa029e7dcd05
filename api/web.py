"""The Starlette application under the read side's routes: every error a problem document, the common pages."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from contracts import asyncapi, openapi, problems
from contracts.auth import BearerVerifier
from contracts.errors import Invalid, Unavailable
from contracts.http import ONCE, Answer, Page, Ready, answer_of, encoded, health, sent_twice
from contracts.problems import Problem

logger = logging.getLogger(__name__)

Who = Callable[[Request], str]  # the buyer whose request it is; raises Problem 401
Handler = Callable[[Request], Awaitable[Response]]

_ONCE = {name.encode(): name for name in ONCE}
_BY_STATUS = {404: problems.NOT_FOUND, 405: problems.METHOD_NOT_ALLOWED, 400: problems.BAD_REQUEST}


class Json(Response):
    """Of bytes that are JSON already."""

    media_type = "application/json"


def bearer(verifier: BearerVerifier, clock: Callable[[], datetime]) -> Who:
    """The buyer of the request's bearer token, at the clock's aware datetime."""
    return lambda request: buyer_of(verifier, request.headers.get("authorization"), clock())


def buyer_of(verifier: BearerVerifier, authorization: str | None, now: datetime) -> str:
    """The buyer of the header's token. Raises Problem 401."""
    try:
        return verifier.buyer(authorization, now.timestamp())
    except Invalid as error:
        raise _unauthorized(error) from error


def scopes(verifier: BearerVerifier, clock: Callable[[], datetime]) -> Callable[[Request, str], bool]:
    """Whether the request's bearer token has a scope. Raises Problem 401: it may have expired since it was looked at."""

    def has(request: Request, scope: str) -> bool:
        try:
            return verifier.has_scope(request.headers.get("authorization"), clock().timestamp(), scope)
        except Invalid as error:
            raise _unauthorized(error) from error

    return has


def _unauthorized(error: Invalid) -> Problem:
    return Problem(problems.UNAUTHORIZED, str(error))


def private(content: msgspec.Struct, status: int = 200, **headers: str) -> Response:
    """Something of a buyer that may change: kept by its buyer alone, and asked for again each time."""
    return Json(
        msgspec.json.encode(content),
        status,
        headers={"cache-control": "private, no-cache", "vary": "Authorization", **headers},
    )


def route(path: str, **handlers: Handler) -> Route:
    """A route whose handlers are named by their methods in lower case; GET answers HEAD too."""

    async def endpoint(request: Request) -> Response:
        method = "get" if request.method == "HEAD" else request.method.lower()
        return await handlers[method](request)

    return Route(path, endpoint, methods=[method.upper() for method in handlers])


JSON_ONLY = ("application/json",)


async def whole_body(request: Request, bytes_max: int, media_types: Sequence[str] = JSON_ONLY) -> bytes:
    """The whole body, of one of the types; of any if none is named.

    Raises Problem 415 for another type or an encoded one, 413 as soon as it is too large. Read it before anything is
    refused: the server cuts off a client that is answered in the middle of its body.
    """
    await require_type(request, bytes_max, media_types)
    body = bytearray()
    async for chunk in _chunks(request, bytes_max):
        body += chunk
    return bytes(body)


async def discard_body(request: Request, bytes_max: int) -> None:
    """Read the body as `whole_body` does, to refuse the request after it, but keep nothing of it."""
    async for _ in _chunks(request, bytes_max):
        pass


async def require_type(request: Request, bytes_max: int, media_types: Sequence[str]) -> None:
    """Raise Problem 415, once the body is read, unless it is of one of the types, if any is named, and not encoded."""
    wrong = _wrong_type(request, media_types)
    if wrong is not None:
        await discard_body(request, bytes_max)
        raise wrong


def _wrong_type(request: Request, media_types: Sequence[str]) -> Problem | None:
    if problem := encoded(request.headers.getlist("content-encoding")):
        return problem
    if media_types and media_type_of(request) not in media_types:
        return Problem(problems.UNSUPPORTED_MEDIA_TYPE, f"send Content-Type: {' or '.join(media_types)}")
    return None


async def _chunks(request: Request, bytes_max: int) -> AsyncIterator[bytes]:
    read = 0
    try:
        async for chunk in request.stream():
            read += len(chunk)
            if read > bytes_max:
                headers = [("connection", "close")]
                raise Problem(problems.TOO_LARGE, f"at most {bytes_max} bytes are taken", headers=headers)
            yield chunk
    except ClientDisconnect as error:
        raise Problem(problems.BAD_REQUEST, "the body is not whole") from error


def media_type_of(request: Request) -> str:
    """The type of the body without its parameters, in lower case."""
    return request.headers.get("content-type", "").split(";", 1)[0].strip().lower()


def sent_once(app: ASGIApp, bytes_max: int) -> ASGIApp:
    """An application in front of `app` that refuses, with 400, what comes with two keys or two tokens, once its body of up
    to `bytes_max` is read: which of them counts is not for the server to guess.
    """

    async def refuse(scope: Scope, receive: Receive, send: Send, name: str) -> None:
        problem = sent_twice(name)
        try:
            await discard_body(Request(scope, receive), bytes_max)
        except Problem as of_body:
            problem = of_body
        await _response(answer_of(problem))(scope, receive, send)

    def checked(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            names = [name for name, _ in scope["headers"]]
            for once, name in _ONCE.items():
                if names.count(once) > 1:
                    return refuse(scope, receive, send, name)
        return app(scope, receive, send)

    return checked


def application(routes: list[BaseRoute], ready: Ready) -> Starlette:
    """`routes`, health and the interface's description."""
    pages = health(ready) | openapi.pages() | asyncapi.pages()
    return Starlette(
        routes=[*routes, *(_route(path, page) for path, page in pages.items())],
        exception_handlers={
            HTTPException: _http_exception,
            Problem: _error,
            Unavailable: _error,
            Exception: _error,
        },
    )


def _route(path: str, page: Page) -> Route:
    async def endpoint(_: Request) -> Response:
        return _response(await page())

    return Route(path, endpoint)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))


async def _http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    kind = _BY_STATUS.get(error.status_code, problems.BAD_REQUEST)
    details = {
        404: f"nothing is at {request.url.path}",
        405: f"{request.method} is not allowed at {request.url.path}",
    }
    headers = [(name.lower(), value) for name, value in (error.headers or {}).items()]
    problem = Problem(kind, details.get(error.status_code, str(error.detail)), headers=headers)
    return _response(answer_of(problem))


async def _error(request: Request, error: Exception) -> Response:
    return _response(answer_of_error(request.method, request.url.path, error))


def answer_of_error(method: str, path: str, error: Exception) -> Answer:
    """Which server does not answer, and the stack trace of what nobody expected, go to the log, never to the client."""
    match error:
        case Problem():
            return answer_of(error)
        case Unavailable():
            logger.warning("%s: %s", path, error, extra={"action": "unavailable"})
            detail = (
                "nothing was changed; try again"
                if method in {"GET", "HEAD"}
                else "whether it was done is not known; look, or try again"
            )
            return answer_of(Problem(problems.UNAVAILABLE, detail, headers=[("retry-after", "1")]))
    logger.error("%s %s failed", method, path, exc_info=error, extra={"action": "http_error"})
    return answer_of(Problem(problems.INTERNAL, "the error is in the server's log; try again later"))
