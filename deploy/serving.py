"""Serving HTTP with granian, inside this process's event loop and on a socket of our own."""

import asyncio
import logging
import socket
from enum import Enum
from typing import Any

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server.embed import Server

from contracts.errors import SettingsError
from contracts.settings import Settings

logger = logging.getLogger(__name__)

_BACKLOG = 4096
_IDLE_MS = 75_000  # longer than load balancers keep a connection, so that they close it and not we


class Interface(Enum):
    """How an application is called: RSGI is granian's own and the faster, ASGI what Starlette speaks."""

    RSGI = Interfaces.RSGI
    ASGI = Interfaces.ASGINL


class _Server(Server):
    """An embedded granian that listens on a socket it is given, and then owns.

    Its own would share a port silently with another process that has it (SO_REUSEPORT).
    """

    def __init__(self, app: Any, interface: Interface, listener: socket.socket, connections_max: int) -> None:
        super().__init__(
            app,
            interface=interface.value,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=_IDLE_MS),
            websockets=False,
            backpressure=connections_max,
            log_enabled=False,
        )
        self._listener = listener

    def _init_shared_socket(self) -> None:
        self._shd: Any = SocketHolder(self._listener.detach(), False, _BACKLOG)  # type: ignore[call-arg]


async def serve(app: Any, interface: Interface, port: int, settings: Settings, stop: asyncio.Event) -> None:
    """Serve until `stop`, then finish the requests under way. Port 0 is any free one.

    Raises SettingsError if the port cannot be had.
    """
    try:
        listener = socket.create_server((settings.host, port), backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}:{port}: {error}; choose another port"
        ) from error
    logger.info("listening on %s:%d", *listener.getsockname()[:2], extra={"action": "listening"})
    server = _Server(app, interface, listener, settings.http_connections_max)
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.stop()  # type: ignore[no-untyped-call]
    done, _ = await asyncio.wait({serving}, timeout=settings.shutdown_grace_s)
    if not done:
        logger.warning("requests were still under way at the end", extra={"action": "shutdown"})
    for task in done:
        task.result()
