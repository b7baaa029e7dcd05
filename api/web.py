"""The Starlette application under the read side's routes: every error a problem document, the common pages."""

import logging

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from contracts import openapi, problems
from contracts.errors import Unavailable
from contracts.http import Answer, Page, Ready, answer_of, health
from contracts.problems import Problem

logger = logging.getLogger(__name__)

_BY_STATUS = {404: problems.NOT_FOUND, 405: problems.METHOD_NOT_ALLOWED, 400: problems.BAD_REQUEST}


class Json(Response):
    """Of bytes that are JSON already."""

    media_type = "application/json"


def application(routes: list[BaseRoute], ready: Ready) -> Starlette:
    """`routes`, health and the interface's description."""
    pages = health(ready) | openapi.pages()
    return Starlette(
        routes=[*routes, *(_route(path, page) for path, page in pages.items())],
        exception_handlers={
            Problem: _problem,
            HTTPException: _http_exception,
            Unavailable: _unavailable,
            Exception: _unexpected,
        },
    )


def _route(path: str, page: Page) -> Route:
    async def endpoint(_: Request) -> Response:
        return _response(await page())

    return Route(path, endpoint)


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers))


async def _problem(_: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise error
    return _response(answer_of(error))


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


async def _unavailable(request: Request, error: Exception) -> Response:
    """Which server does not answer goes to the log, never to the client."""
    logger.warning("%s: %s", request.url.path, error, extra={"action": "unavailable"})
    problem = Problem(problems.UNAVAILABLE, "nothing was changed; try again", headers=[("retry-after", "1")])
    return _response(answer_of(problem))


async def _unexpected(request: Request, error: Exception) -> Response:
    """The stack trace goes to the log, never to the client."""
    logger.error(
        "%s %s failed", request.method, request.url.path, exc_info=error, extra={"action": "http_error"}
    )
    problem = Problem(problems.INTERNAL, "the error is in the server's log; try again later")
    return _response(answer_of(problem))
