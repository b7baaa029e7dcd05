"""What every HTTP process answers alike: problems, health, JSON. Plain ASGI and Starlette; listens to nothing itself."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from contracts import problems
from contracts.errors import Unavailable
from contracts.problems import Problem

logger = logging.getLogger(__name__)

Ready = Callable[[], Awaitable[tuple[bool, dict[str, object]]]]  # (ready, what to tell)

_BY_STATUS = {404: problems.NOT_FOUND, 405: problems.METHOD_NOT_ALLOWED, 400: problems.BAD_REQUEST}


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else orjson.dumps(content, option=orjson.OPT_UTC_Z)


def problem_response(problem: Problem) -> Response:
    """The problem as a response, with the headers its status needs."""
    response = Response(problem.body(), problem.kind.status, media_type=problems.CONTENT_TYPE.decode())
    for name, value in problem.headers:
        response.headers[name.decode()] = value.decode()
    if problem.kind.status == 401:
        response.headers["www-authenticate"] = 'Bearer realm="sluiceway"'
    return response


def application(routes: list[BaseRoute], ready: Ready) -> Starlette:
    """A Starlette application with /livez and /readyz, whose every error is a problem document."""

    async def livez(_: Request) -> Response:
        return Json({"status": "alive"})

    async def readyz(_: Request) -> Response:
        is_ready, told = await ready()
        return Json({"status": "ready" if is_ready else "not ready", **told}, 200 if is_ready else 503)

    return Starlette(
        routes=[*routes, Route("/livez", livez), Route("/readyz", readyz)],
        exception_handlers={
            Problem: _problem,
            HTTPException: _http_exception,
            Unavailable: _unavailable,
            Exception: _unexpected,
        },
    )


async def _problem(_: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise error
    return problem_response(error)


async def _http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    kind = _BY_STATUS.get(error.status_code, problems.BAD_REQUEST)
    details = {
        404: f"nothing is at {request.url.path}",
        405: f"{request.method} is not allowed at {request.url.path}",
    }
    headers = [(name.encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return problem_response(Problem(kind, details.get(error.status_code, str(error.detail)), headers=headers))


async def _unavailable(request: Request, error: Exception) -> Response:
    """Which server does not answer goes to the log, never to the client."""
    logger.warning("%s: %s", request.url.path, error, extra={"action": "unavailable"})
    return problem_response(
        Problem(problems.UNAVAILABLE, "nothing was changed; try again", headers=[(b"retry-after", b"1")])
    )


async def _unexpected(request: Request, error: Exception) -> Response:
    """The stack trace goes to the log, never to the client."""
    logger.error(
        "%s %s failed", request.method, request.url.path, exc_info=error, extra={"action": "http_error"}
    )
    return problem_response(Problem(problems.INTERNAL, "the error is in the server's log; try again later"))
