"""What the applications count on from the HTTP server, over real connections."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from api.web import Json, application, route, sent_once, whole_body
from contracts.errors import SettingsError
from contracts.http import JSON, Answer, Exchange, Pages, Scope, health, respond
from contracts.settings import Settings
from deploy.serving import Interface, serve
from deploy.stack.ports import find_free
from ingest.app import check_headers, read_body
from tests.harness import eventually
from tests.unit.ingest_fakes import Edge

BODY_MAX = 1000
SOON_S = 30.0
DRAIN_S = 10.0  # passes by turning the clock


class Echo:
    """Answers with the body, read as ingest reads it, once `gate` is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.reading = 0
        self.ended = 0

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        self.reading += 1
        await respond(scope, exchange, self._answer(scope, exchange))
        self.ended += 1

    async def _answer(self, scope: Scope, exchange: Exchange) -> Answer:
        if scope.path == "/broken":
            raise RuntimeError("planted")
        pairs = scope.headers.items()
        body = await read_body(exchange, dict(pairs), BODY_MAX)
        check_headers(scope.headers, pairs, dict(pairs))
        await self.gate.wait()
        return Answer(200, [JSON, ("x-method", scope.method)], body)


class Served:
    def __init__(self, port: int, stop: asyncio.Event, serving: "asyncio.Task[None]") -> None:
        self.port = port
        self.stop = stop
        self.serving = serving

    async def send(self, raw: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        return reader, writer

    async def ask(self, raw: bytes) -> tuple[int, bytes, bytes]:
        """Status, head in lower case and body of the one response."""
        reader, writer = await self.send(raw)
        async with asyncio.timeout(SOON_S):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.split(b"content-length: ", 1)[1].split(b"\r", 1)[0])
            body = b"" if raw.startswith(b"HEAD") else await reader.readexactly(length)
            writer.close()
            return int(head.split()[1]), head, body


@asynccontextmanager
async def served(
    app: object, settings: Settings, interface: Interface = Interface.RSGI, drain_s: float = 0.0
) -> AsyncIterator[Served]:
    stop = asyncio.Event()
    port = find_free(set())
    serving = asyncio.create_task(serve(app, interface, port, settings, stop, drain_s))
    try:
        await eventually(lambda: _listens(port))
        yield Served(port, stop, serving)
    finally:
        stop.set()
        await serving


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("host", "reached"), [("::1", ("::1",)), ("::", ("::1", "127.0.0.1"))])
async def test_it_listens_on_ipv6(host: str, reached: tuple[str, ...], offline_settings: Settings) -> None:
    stop, port = asyncio.Event(), find_free(set())
    settings = msgspec.structs.replace(offline_settings, host=host)
    serving = asyncio.create_task(serve(Echo(), Interface.RSGI, port, settings, stop))
    await eventually(lambda: _listens(port, "::1"))
    for address in reached:
        reader, writer = await asyncio.open_connection(address, port)
        writer.write(request(b"x"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    stop.set()
    await serving


def request(
    body: bytes = b"",
    *,
    method: bytes = b"POST",
    path: bytes = b"/",
    headers: bytes = b"",
    length: bool = True,
) -> bytes:
    sized = b"content-length: %d\r\n" % len(body) if length else b""
    kind = b"host: x\r\ncontent-type: application/json\r\n"
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n%b" % (method, path, kind, sized, headers, body)


def chunked(*chunks: bytes, method: bytes = b"POST") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    return request(body, method=method, headers=b"transfer-encoding: chunked\r\n", length=False)


async def test_a_body_comes_whole_with_a_length_and_in_chunks(offline_settings: Settings) -> None:
    async with served(Echo(), offline_settings) as server:
        assert (await server.ask(request(b"abc")))[::2] == (200, b"abc")
        assert (await server.ask(chunked(b"ab", b"c")))[::2] == (200, b"abc")
        assert (await server.ask(request()))[::2] == (200, b"")
        assert (await server.ask(chunked()))[::2] == (200, b"")


async def test_a_body_that_is_too_large_is_refused_and_the_connection_closed(
    offline_settings: Settings,
) -> None:
    async with served(Echo(), offline_settings) as server:
        for raw in (request(b"x" * 1001), chunked(*[b"x" * 100] * 11)):
            status, head, _ = await server.ask(raw)
            assert status == 413
            assert b"connection: close" in head
        assert (await server.ask(request(b"x" * 1000)))[0] == 200


async def test_headers_that_are_double_or_not_text_are_seen(offline_settings: Settings) -> None:
    async with served(Echo(), offline_settings) as server:
        for headers in (
            b"idempotency-key: a\r\nidempotency-key: b\r\n",
            b"Idempotency-Key: \xe9\r\n",
            b"Authorization: a\r\nauthorization: a\r\n",
        ):
            status, _, body = await server.ask(request(b"{}", headers=headers))
            assert (status, b"bad_request" in body) == (400, True)


async def test_head_has_the_head_of_get(offline_settings: Settings) -> None:
    async def ready() -> tuple[bool, dict[str, object]]:
        return True, {}

    async with served(Pages(health(ready)), offline_settings) as server:
        got = await server.ask(request(method=b"GET", path=b"/livez"))
        reader, writer = await server.send(
            request(method=b"HEAD", path=b"/livez")
            + request(method=b"GET", path=b"/livez", headers=b"connection: close\r\n")
        )
        async with asyncio.timeout(SOON_S):
            both = await reader.read()
        writer.close()
        assert got[0] == 200
        assert both.count(b"HTTP/1.1 200") == 2
        assert both.count(got[2]) == 1, "only GET has the body"


async def test_a_trace_goes_to_the_log_alone(
    offline_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(Echo(), offline_settings) as server:
        status, _, body = await server.ask(request(path=b"/broken"))
    assert status == 500
    assert b"planted" not in body
    assert msgspec.json.decode(body)["code"] == "internal"
    assert "planted" in caplog.text


async def test_a_client_that_leaves_in_mid_body_is_no_error(
    offline_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    echo = Echo()
    async with served(echo, offline_settings) as server:
        half = request(b"x" * 500)[:-200]
        _, writer = await server.send(half)
        await eventually(lambda: echo.reading == 1)
        writer.close()
        await eventually(lambda: echo.ended == 1)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_what_is_under_way_at_the_end_is_answered_and_nothing_new_is_taken(
    offline_settings: Settings,
) -> None:
    echo = Echo()
    echo.gate.clear()
    async with served(echo, offline_settings) as server:
        asking = asyncio.create_task(server.ask(request(b"abc")))
        _, idle = await server.send(b"")
        await eventually(lambda: echo.reading == 1)
        server.stop.set()
        await eventually(lambda: _refuses(server.port))
        assert not server.serving.done()
        echo.gate.set()
        assert (await asking)[::2] == (200, b"abc")
        async with asyncio.timeout(SOON_S):
            await server.serving
        idle.close()


async def test_a_client_that_is_turned_away_keeps_its_connection(offline_settings: Settings) -> None:
    """Were it answered before its body has come, the server would cut it off."""
    edge = Edge(msgspec.structs.replace(offline_settings, produce_queue_max=1))
    await edge.publisher.connect()
    edge.producer.hold = True
    one = b'{"items":[{"product_id":"p","quantity":1}],"address_id":"home"}'
    whole = request(
        one, path=b"/v1/checkouts", headers=b"authorization: Bearer " + edge.token().encode() + b"\r\n"
    )
    async with served(edge.app, edge.settings) as server:
        _, first = await server.send(whole)
        await eventually(lambda: len(edge.producer.held) == 1)
        reader, writer = await server.send(whole[:-50])
        for rest in (whole[-50:], whole):
            writer.write(rest)
            async with asyncio.timeout(SOON_S):
                assert b" 503 " in await reader.readline()
                await reader.readuntil(b'"overloaded"}')
        edge.producer.acknowledge()
        first.close()
        writer.close()


async def leave(server: Served) -> None:
    """Ask it to stop, and wait until it tells that it is not ready."""
    server.stop.set()

    async def not_ready() -> bool:
        status, head, body = await server.ask(request(method=b"GET", path=b"/readyz"))
        return (status, b"connection: close" in head, b"not ready" in body) == (503, True, True)

    await eventually(not_ready)


@pytest.mark.parametrize("interface", list(Interface))
async def test_a_process_that_leaves_sends_its_clients_away_before_it_closes(
    offline_settings: Settings, interface: Interface, turn_on: Callable[[float], None]
) -> None:
    async def ready() -> tuple[bool, dict[str, object]]:
        return True, {}

    pages = Pages(health(ready)) if interface is Interface.RSGI else application([], ready)
    ask = request(method=b"GET", path=b"/livez")
    async with served(pages, offline_settings, interface, DRAIN_S) as server:
        reader, writer = await server.send(ask)
        async with asyncio.timeout(SOON_S):
            assert b"connection: close" not in (await reader.readuntil(b'"alive"}')).lower()
            await leave(server)
            writer.write(ask)
            last = (await reader.read()).lower()
        assert last.startswith(b"http/1.1 200")
        assert last.count(b"connection: close") == 1
        assert (await server.ask(ask))[0] == 200, "who comes now is answered too"
        writer.close()
        turn_on(DRAIN_S)


async def test_what_waits_for_an_answer_while_a_process_leaves_gets_it(
    offline_settings: Settings, turn_on: Callable[[float], None]
) -> None:
    echo = Echo()
    echo.gate.clear()
    async with served(echo, offline_settings, drain_s=DRAIN_S) as server:
        early = asyncio.create_task(server.ask(request(b"early")))
        await eventually(lambda: echo.reading == 1)
        await leave(server)
        late = asyncio.create_task(server.ask(request(b"late")))
        await eventually(lambda: echo.reading == 2)
        turn_on(DRAIN_S)
        await eventually(lambda: _refuses(server.port))
        echo.gate.set()
        assert [(await task)[::2] for task in (early, late)] == [(200, b"early"), (200, b"late")]


async def test_the_end_does_not_wait_for_ever(offline_settings: Settings) -> None:
    echo = Echo()
    echo.gate.clear()
    settings = msgspec.structs.replace(offline_settings, shutdown_grace_s=0.2, produce_ack_deadline_s=0.1)
    async with served(echo, settings) as server:
        _, writer = await server.send(request(b"abc"))
        await eventually(lambda: echo.reading == 1)
        server.stop.set()
        async with asyncio.timeout(SOON_S):
            await server.serving
        assert echo.ended == 0, "it did not wait for what is under way"
        writer.close()
        echo.gate.set()


async def test_a_port_that_is_taken_is_told(offline_settings: Settings) -> None:
    async with served(Echo(), offline_settings) as server:
        assert (await server.ask(request(b"abc")))[0] == 200
        with pytest.raises(SettingsError, match=f"cannot listen on .*{server.port}.*another port"):
            await serve(Echo(), Interface.RSGI, server.port, offline_settings, asyncio.Event())


async def test_starlette_is_served_too(offline_settings: Settings) -> None:
    async with served(Starlette(), offline_settings, Interface.ASGI) as server:
        assert (await server.ask(request(method=b"GET")))[0] == 404


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ((b"POST ", b"PUT "), b" 405 "),
        ((b"application/json", b"text/plain"), b" 415 "),
        ((b"content-type", b"content-encoding: gzip\r\ncontent-type"), b" 415 "),
        ((b"content-type", b"idempotency-key: a\r\nIdempotency-Key: b\r\ncontent-type"), b" 400 "),
    ],
)
async def test_what_is_refused_for_its_head_keeps_its_connection(
    offline_settings: Settings, change: tuple[bytes, bytes], status: bytes
) -> None:
    """Were it answered before its body has come, the server would cut the client off."""
    raw = request(b"x" * 500, path=b"/v1/checkouts")
    assert change[0] in raw
    wrong = raw.replace(*change)
    begun = asyncio.Event()
    app = Edge(offline_settings).app

    class Watched:
        async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
            begun.set()
            await app.__rsgi__(scope, exchange)

    async with served(Watched(), offline_settings) as server:
        reader, writer = await server.send(wrong[:-200])
        await begun.wait()
        for rest, told in ((wrong[-200:], status), (request(method=b"GET", path=b"/livez"), b" 200 ")):
            writer.write(rest)
            async with asyncio.timeout(SOON_S):
                head = await reader.readuntil(b"\r\n\r\n")
                assert told in head.split(b"\r\n", 1)[0]
                await reader.readexactly(
                    int(head.lower().split(b"content-length: ", 1)[1].split(b"\r", 1)[0])
                )
        writer.close()


async def test_a_body_reaches_the_read_side_whole_or_is_refused(offline_settings: Settings) -> None:
    async def echo(asked: Request) -> Response:
        return Json(await whole_body(asked, BODY_MAX))

    async def ready() -> tuple[bool, dict[str, object]]:
        return True, {}

    app = application([route("/", put=echo)], ready)
    async with served(app, offline_settings, Interface.ASGI) as server:
        assert (await server.ask(request(b"abc", method=b"PUT")))[::2] == (200, b"abc")
        assert (await server.ask(chunked(b"ab", b"c", method=b"PUT")))[::2] == (200, b"abc")
        for raw in (request(b"x" * 1001, method=b"PUT"), chunked(*[b"x" * 100] * 11, method=b"PUT")):
            status, head, _ = await server.ask(raw)
            assert status == 413
            assert b"connection: close" in head


async def test_a_body_of_another_type_is_refused_and_the_connection_kept(offline_settings: Settings) -> None:
    """Were it answered before its body has come, the server would cut the client off."""
    begun = asyncio.Event()

    async def echo(asked: Request) -> Response:
        begun.set()
        return Json(await whole_body(asked, BODY_MAX))

    async def ready() -> tuple[bool, dict[str, object]]:
        return True, {}

    app = application([route("/", put=echo)], ready)
    wrong = request(b"x" * 500, method=b"PUT").replace(b"application/json", b"text/plain")
    async with served(app, offline_settings, Interface.ASGI) as server:
        reader, writer = await server.send(wrong[:-200])
        await begun.wait()
        for rest, status in ((wrong[-200:], b" 415 "), (request(b"abc", method=b"PUT"), b" 200 ")):
            writer.write(rest)
            async with asyncio.timeout(SOON_S):
                head = await reader.readuntil(b"\r\n\r\n")
                assert status in head.split(b"\r\n", 1)[0]
                length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r", 1)[0])
                await reader.readexactly(length)
        writer.close()


async def test_the_read_side_sees_headers_that_are_double(offline_settings: Settings) -> None:
    async def echo(asked: Request) -> Response:
        return Json(await whole_body(asked, BODY_MAX))

    async def ready() -> tuple[bool, dict[str, object]]:
        return True, {}

    app = sent_once(application([route("/", put=echo)], ready), BODY_MAX)
    async with served(app, offline_settings, Interface.ASGI) as server:
        for headers in (
            b"idempotency-key: a\r\nIdempotency-Key: b\r\n",
            b"Authorization: a\r\nauthorization: a\r\n",
        ):
            status, _, body = await server.ask(request(b"{}", method=b"PUT", headers=headers))
            assert (status, b"bad_request" in body) == (400, True)
        one = b"idempotency-key: a\r\nauthorization: a\r\n"
        assert (await server.ask(request(b"{}", method=b"PUT", headers=one)))[0] == 200


async def test_a_large_answer_of_the_read_side_comes_whole(offline_settings: Settings) -> None:
    content = b"".join(b"%05d" % n * 1000 for n in range(100))

    async def file(_: Request) -> Response:
        return Response(content, media_type="text/plain")

    async def ready() -> tuple[bool, dict[str, object]]:
        return True, {}

    async with served(application([route("/", get=file)], ready), offline_settings, Interface.ASGI) as server:
        assert (await server.ask(request(method=b"GET")))[::2] == (200, content)


async def test_a_client_of_the_read_side_that_leaves_in_mid_body_is_no_error(
    offline_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def echo(asked: Request) -> Response:
        begun.set()
        try:
            return Json(await whole_body(asked, BODY_MAX))
        finally:
            ended.set()

    async def ready() -> tuple[bool, dict[str, object]]:
        return True, {}

    async with served(application([route("/", put=echo)], ready), offline_settings, Interface.ASGI) as server:
        _, writer = await server.send(request(b"x" * 500, method=b"PUT")[:-200])
        await begun.wait()
        writer.close()
        await eventually(ended.is_set)
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_a_request_that_is_not_http_is_400(offline_settings: Settings) -> None:
    async with served(Echo(), offline_settings) as server:
        reader, writer = await server.send(b"\x16\x03\x01garbage\r\n\r\n")
        async with asyncio.timeout(SOON_S):
            assert b" 400 " in await reader.readline()
        writer.close()


async def _listens(port: int, host: str = "127.0.0.1") -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except (ConnectionRefusedError, ConnectionResetError):  # the latter while it closes
        return False
    writer.close()
    return True


async def _refuses(port: int) -> bool:
    return not await _listens(port)
