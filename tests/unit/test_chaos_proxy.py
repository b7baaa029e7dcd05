"""The proxy: it passes on, cuts, stalls, slows, and heals."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from deploy.chaos.proxy import Proxy, serving
from tests.harness import eventually


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """In front of a server that gives back what it is sent."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    found = Proxy("echo")
    found.target = server.sockets[0].getsockname()[1]
    async with found:
        yield found
    server.close()


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def says(self, data: bytes) -> bytes:
        """What comes back; empty if the connection is over."""
        self._writer.write(data)
        try:
            return await self._reader.readexactly(len(data))
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


@asynccontextmanager
async def client_of(proxy: Proxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_it_passes_on_both_ways(proxy: Proxy) -> None:
    async with client_of(proxy) as client:
        assert await client.says(b"hello") == b"hello"
        assert await client.says(b"x" * 300_000) == b"x" * 300_000


async def test_cut_ends_connections_and_refuses_new_ones_until_it_is_healed(proxy: Proxy) -> None:
    async with client_of(proxy) as client:
        assert await client.says(b"hello") == b"hello"
        proxy.cut()
        assert await client.says(b"again") == b""
    async with client_of(proxy) as refused:
        assert await refused.says(b"again") == b""
    proxy.heal()
    async with client_of(proxy) as healed:
        assert await healed.says(b"hello") == b"hello"


async def test_stalled_connections_stay_and_go_on_where_they_were(proxy: Proxy) -> None:
    async with client_of(proxy) as client:
        assert await client.says(b"hello") == b"hello"
        proxy.stall()
        waiting = asyncio.create_task(client.says(b"again"))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done
        proxy.heal()
        assert await waiting == b"again"


async def test_slow_connections_take_their_time_both_ways(proxy: Proxy) -> None:
    async with client_of(proxy) as client:
        proxy.slow(0.05)
        began = asyncio.get_running_loop().time()
        assert await client.says(b"hello") == b"hello"
        assert asyncio.get_running_loop().time() - began >= 0.1


async def test_without_its_server_connections_end(proxy: Proxy) -> None:
    proxy.target = 1
    async with client_of(proxy) as client:
        assert await client.says(b"hello") == b""


async def test_a_client_that_leaves_ends_the_connection_to_the_server(proxy: Proxy) -> None:
    async with client_of(proxy) as client:
        assert await client.says(b"hello") == b"hello"
        assert proxy.connections == 1
    await eventually(lambda: proxy.connections == 0)


def test_proxies_serve_from_a_thread_while_the_caller_blocks() -> None:
    """Nothing here runs a loop: a plain socket is answered all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy = Proxy("plain")
        proxy.target = server.getsockname()[1]
        with serving([proxy]), socket.create_connection(("127.0.0.1", proxy.port), 5) as client:
            taken, _ = server.accept()
            with taken:
                client.sendall(b"hello")
                assert taken.recv(5) == b"hello"
                proxy.cut()
                assert taken.recv(5) == b""
