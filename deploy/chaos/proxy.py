"""A TCP proxy between the processes and one server: its connections can be cut, stalled and slowed."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from types import TracebackType
from typing import Self

import uvloop

from deploy.stack.ports import find_free

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """Listens on a loopback port of its own, at once; serves while it is entered. To be told from any thread.

    `target` is the server's port, to be known before the first connection.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.target = 0
        self._listener = socket.create_server(("127.0.0.1", find_free(set())))
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._delay_s = 0.0
        self._refusing = False

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def cut(self) -> None:
        """End every connection, and each new one, until `heal`."""
        self._tell(refusing=True, flowing=True, delay_s=0.0)

    def stall(self) -> None:
        """Keep connections, and take new ones, but pass nothing on until `heal`."""
        self._tell(refusing=False, flowing=False, delay_s=0.0)

    def slow(self, delay_s: float) -> None:
        """Pass each piece on, both ways, only after `delay_s`, until `heal`."""
        self._tell(refusing=False, flowing=True, delay_s=delay_s)

    def heal(self) -> None:
        self._tell(refusing=False, flowing=True, delay_s=0.0)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._serve, sock=self._listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop = None
        if self._server is not None:
            self._server.close()
        open_ones = set(self._connections)
        self._end_connections()
        if open_ones:
            await asyncio.wait(open_ones)

    def _tell(self, *, refusing: bool, flowing: bool, delay_s: float) -> None:
        def change() -> None:
            self._refusing, self._delay_s = refusing, delay_s
            if refusing:
                self._end_connections()
            if flowing:
                self._flowing.set()
            else:
                self._flowing.clear()

        if self._loop is not None:
            self._loop.call_soon_threadsafe(change)

    def _end_connections(self) -> None:
        for connection in self._connections:
            connection.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        if self._refusing or connection is None:
            writer.transport.abort()
            return
        self._connections.add(connection)
        server: asyncio.StreamWriter | None = None
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.target)
            await self._pass_on(reader, writer, answers, server)
        except (OSError, asyncio.CancelledError):  # the server is away, or the connection is cut
            pass
        finally:
            self._connections.discard(connection)
            for end in (writer, server):
                if end is not None:
                    end.transport.abort()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        """Until either side ends the connection; then it is over for both."""
        ways = {
            asyncio.create_task(self._pump(reader, server)),
            asyncio.create_task(self._pump(answers, writer)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # a connection that breaks has ended
            while data := await source.read(_CHUNK_BYTES):
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()


@contextmanager
def serving(proxies: Sequence[Proxy]) -> Iterator[None]:
    """With the proxies at work in a thread of their own, so that what else this process does holds nobody up."""
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with AsyncExitStack() as entered:
            for proxy in proxies:
                await entered.enter_async_context(proxy)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: uvloop.run(serve()), name="proxies")
    thread.start()
    started.wait()
    try:
        yield
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()
