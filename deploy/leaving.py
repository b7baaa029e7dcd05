"""How a process leaves its clients: ready no more, every answer the last on its connection."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

from contracts.http import Answer, Exchange, Pages, Scope, json_answer
from contracts.problems import Headers

_CLOSE = ("connection", "close")
_READYZ = "/readyz"
_NOT_READY = {"status": "not ready", "http": "ending"}


async def _not_ready() -> Answer:
    return json_answer(_NOT_READY, 503)


class _LastExchange:
    """An exchange whose answer tells the client to close the connection."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __call__(self) -> Awaitable[bytes]:
        return self._exchange()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._exchange.__aiter__()

    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None:
        kept = [header for header in headers if header[0] != _CLOSE[0]]
        self._exchange.response_bytes(status, [*kept, _CLOSE], body)


class Rsgi:
    """An RSGI application that can be left."""

    def __init__(self, app: Any) -> None:
        self._app: Callable[[Scope, Exchange], Awaitable[None]] = getattr(app, "__rsgi__", app)
        self._pages = Pages({_READYZ: _not_ready})
        self.leaving = False

    def __rsgi__(self, scope: Scope, exchange: Exchange) -> Awaitable[None]:
        if not self.leaving:
            return self._app(scope, exchange)
        app = self._pages.__rsgi__ if scope.path == _READYZ else self._app
        return app(scope, _LastExchange(exchange))


class Asgi:
    """An ASGI application that can be left."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.leaving = False

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if not self.leaving:
            awaitable: Awaitable[None] = self._app(scope, receive, send)
            return awaitable
        return self._leave(scope, receive, send)

    async def _leave(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_last(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"connection", b"close")]
                message = {**message, "headers": headers}
            await send(message)

        if scope["path"] != _READYZ:
            await self._app(scope, receive, send_last)
            return
        headers = [(b"content-type", b"application/json")]
        await send_last({"type": "http.response.start", "status": 503, "headers": headers})
        await send_last({"type": "http.response.body", "body": orjson.dumps(_NOT_READY)})
