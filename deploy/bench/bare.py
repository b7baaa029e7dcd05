"""Servers that do nothing but answer, for others to be measured beside: `python -m deploy.bench.bare KIND BYTES`.

`accept` is the server of ingest and its settings: it reads the body and answers 202. `read` is that of api: it answers
200. `wire` is no HTTP server: it answers whatever comes at once, to show what the load generator itself can do.
Each answers with a body of so many bytes.
"""

import asyncio
import os
import sys
from typing import Any, cast

from contracts.http import JSON, Exchange, Scope
from contracts.settings import Settings
from deploy import processes
from deploy.serving import Interface, serve


def accept(body: bytes) -> Any:
    """RSGI."""

    async def application(_: Scope, exchange: Exchange) -> None:
        await exchange()
        exchange.response_bytes(202, [JSON], body)

    return application


def read(body: bytes) -> Any:
    """ASGI."""
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))],
    }

    async def application(_: Any, __: Any, send: Any) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return application


class Wire(asyncio.Protocol):
    """Answers each piece of input, which is a request of the load generator's."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not subclasses

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(self._answer)


async def run(kind: str, body: bytes, settings: Settings, stop: asyncio.Event) -> None:
    port = settings.ingest_port
    if kind == "accept":
        await serve(accept(body), Interface.RSGI, port, settings, stop)
    elif kind == "read":
        await serve(read(body), Interface.ASGI, port, settings, stop)
    else:
        answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Wire(answer), settings.host, port)
        await stop.wait()
        server.close()


def main() -> None:
    kind, body_bytes = sys.argv[1], int(sys.argv[2])
    body = b'{"checkout_id":"'.ljust(body_bytes - 2, b"0") + b'"}'
    processes.run(lambda settings, stop: run(kind, body, settings, stop), Settings.from_env(os.environ))


if __name__ == "__main__":
    main()
