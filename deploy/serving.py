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
from deploy.leaving import Asgi, Rsgi

logger = logging.getLogger(__name__)

_IDLE_MS = 75_000  # longer than load balancers keep a connection, so that they close it and not we


class Interface(Enum):
    """How an application is called: RSGI is granian's own and the faster, ASGI what Starlette speaks."""

    RSGI = Interfaces.RSGI
    ASGI = Interfaces.ASGINL


class _Server(Server):
    """An embedded granian that listens on a socket it is given, and then owns.

    Its own would share a port silently with another process that has it (SO_REUSEPORT).
    """

    def __init__(self, app: Any, interface: Interface, listener: socket.socket, settings: Settings) -> None:
        super().__init__(
            app,
            interface=interface.value,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=_IDLE_MS),
            websockets=False,
            backpressure=settings.http_connections_max,
            backlog=settings.http_backlog_max,
            log_enabled=False,
        )
        self._listener = listener

    def _init_shared_socket(self) -> None:
        self._shd: Any = SocketHolder(self._listener.detach(), False, self.backlog)  # type: ignore[call-arg]


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    """`::` is every address of both families."""
    if ":" not in host:
        return socket.create_server((host, port), backlog=backlog)
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=both)


async def serve(
    app: Any,
    interface: Interface,
    port: int,
    settings: Settings,
    stop: asyncio.Event,
    drain_s: float = 0.0,
) -> None:
    """Serve until `stop`, then finish the requests under way. Port 0 is any free one.

    In between, for `drain_s`, everything is still answered, but not ready and as the last on its connection: clients
    and load balancers go elsewhere by themselves. A connection closed by us could have a request on its way.

    Raises SettingsError if the port cannot be had.
    """
    try:
        listener = _listen(settings.host, port, settings.http_backlog_max)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}:{port}: {error}; choose another port"
        ) from error
    logger.info("listening on %s:%d", *listener.getsockname()[:2], extra={"action": "listening"})
    leavable = Rsgi(app) if interface is Interface.RSGI else Asgi(app)
    server = _Server(leavable, interface, listener, settings)
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        leavable.leaving = True
        await asyncio.wait({serving}, timeout=drain_s)
    finally:  # also when it is cancelled: it would listen on
        stopping.cancel()
        server.stop()  # type: ignore[no-untyped-call]
        done, _ = await asyncio.wait({serving}, timeout=settings.shutdown_grace_s)
    if not done:
        logger.warning("requests were still under way at the end", extra={"action": "shutdown"})
    for task in done:
        task.result()
