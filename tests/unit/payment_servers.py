"""A real HTTP server on loopback that plays a provider: keeps what it is asked, answers what it is told to."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from aiohttp.test_utils import TestServer


class Asked(msgspec.Struct, frozen=True):
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Answer(msgspec.Struct, frozen=True):
    """`cut` closes the connection in the middle of the body."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = {}
    cut: bool = False


class Played(msgspec.Struct):
    url: str
    asked: list[Asked]


@asynccontextmanager
async def playing(*answers: Answer | Callable[[Asked], Answer]) -> AsyncIterator[Played]:
    """Answers in turn; the last one for all that follow."""
    played = Played("", [])

    async def handle(request: web.Request) -> web.StreamResponse:
        asked = Asked(request.method, request.path, request.headers.copy(), await request.read())
        played.asked.append(asked)
        given = answers[min(len(played.asked), len(answers)) - 1]
        answer = given if isinstance(given, Answer) else given(asked)
        headers = {"Content-Type": "application/json", **answer.headers}
        if not answer.cut:
            return web.Response(status=answer.status, body=answer.body, headers=headers)
        response = web.StreamResponse(status=answer.status, headers=headers)
        response.content_length = len(answer.body) + 1
        await response.prepare(request)
        await response.write(answer.body)
        if request.transport is not None:
            request.transport.close()
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app) as server:
        played.url = str(server.make_url("")).rstrip("/")
        yield played
