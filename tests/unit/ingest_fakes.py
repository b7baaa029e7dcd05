"""A producer that acknowledges when it is told to, and a client of the RSGI application."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import jwt
import msgspec
import orjson
from aiokafka.errors import KafkaConnectionError

from contracts.auth import BearerVerifier
from contracts.receipts import ReceiptSigner
from contracts.settings import Settings
from ingest.app import Ingest
from ingest.gate import PayloadMemory, SoldOutGate
from ingest.publisher import Publisher
from stock_ledger.fakes import MemoryView
from tests.harness import Clock

NOW_MS = 1_794_398_400_000  # tests.harness.NOON


class Builder:
    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes]] = []

    def append(self, *, key: bytes, value: bytes, timestamp: int, headers: Any) -> object | None:
        self.records.append((key, value))
        return self

    def record_count(self) -> int:
        return len(self.records)

    def close(self) -> None:
        return


class Producer:
    """Keeps what is sent by partition. `hold` keeps acknowledgements back; `broken` fails every send."""

    def __init__(self) -> None:
        self.log: dict[int, list[tuple[bytes, bytes]]] = {}
        self.batches: list[tuple[int, int]] = []  # (partition, records)
        self.hold = False
        self.broken = False
        self.held: list[tuple[asyncio.Future[Any], int]] = []
        self.stopped = False

    def create_batch(self) -> Builder:
        return Builder()

    async def send_batch(self, builder: Builder, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        if self.broken:
            raise KafkaConnectionError("the broker is away")
        of_partition = self.log.setdefault(partition, [])
        base = len(of_partition)
        of_partition += builder.records
        self.batches.append((partition, len(builder.records)))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.hold:
            self.held.append((future, base))
        else:
            future.set_result(Metadata(base))
        return future

    def acknowledge(self) -> None:
        held, self.held = self.held, []
        for future, base in held:
            future.set_result(Metadata(base))

    async def stop(self) -> None:
        self.stopped = True


class Metadata(msgspec.Struct):
    offset: int


class Answered(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


HeaderValue = str | bytes | list[str] | None


class MemoryHeaders:
    """As granian's: a value that is not text is seen by `in` alone."""

    def __init__(self, given: dict[str, HeaderValue]) -> None:
        self._given = given

    def items(self) -> list[tuple[str, str]]:
        return [
            (name, one)
            for name, value in self._given.items()
            if not isinstance(value, bytes | None)
            for one in (value if isinstance(value, list) else [value])
        ]

    def __contains__(self, name: str) -> bool:
        return name in self._given


class MemoryScope(msgspec.Struct, frozen=True):
    method: str
    path: str
    headers: MemoryHeaders


class MemoryExchange:
    """One request's body, given whole or in chunks, and the response to it."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._answered: Answered | None = None
        self.chunks_read = 0

    async def __call__(self) -> bytes:
        return self._body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._body), 10_000):
            self.chunks_read += 1
            yield self._body[start : start + 10_000]

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert self._answered is None
        assert len(dict(headers)) == len(headers)
        self._answered = Answered(status, dict(headers), body)

    def answered(self) -> Answered:
        assert self._answered is not None
        return self._answered


class Edge:
    """An ingest application on fakes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = Clock()
        self.view = MemoryView()
        self.producers: list[Producer] = []
        self.make_broken = False
        payloads = PayloadMemory(self.view, settings, self.clock.monotonic)
        self.publisher = Publisher(self._start, payloads, "checkouts", settings, lambda: NOW_MS)
        self.gate = SoldOutGate(self.view, settings, self.clock.monotonic)
        self.signer = ReceiptSigner(settings.receipt_secret)
        self.app = Ingest(
            settings,
            BearerVerifier(settings),
            self.signer,
            self.publisher,
            self.gate,
            lambda: NOW_MS,
        )

    async def _start(self) -> Producer:
        producer = Producer()
        producer.broken = self.make_broken
        self.producers.append(producer)
        return producer

    @property
    def producer(self) -> Producer:
        return self.producers[-1]

    def token(self, buyer: str = "buyer-1", **claims: Any) -> str:
        content = {"sub": buyer, "exp": NOW_MS // 1000 + 10**9} | claims
        return jwt.encode(content, self.settings.jwt_hs256_secret, "HS256")

    async def post(self, body: Any, **changes: Any) -> Answered:
        """POST a checkout.

        `changes`: method, path, buyer, chunked (no content-length), and headers that replace (None removes) the
        usual. A header whose value is a list comes once for each, one of bytes is not text.
        """
        headers: dict[str, HeaderValue] = {
            "content-type": "application/json",
            "authorization": f"Bearer {self.token(changes.get('buyer', 'buyer-1'))}",
        }
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        if not changes.get("chunked"):
            headers["content-length"] = str(len(raw))
        headers |= changes.get("headers", {})
        self.exchange = exchange = MemoryExchange(raw)
        scope = MemoryScope(
            changes.get("method", "POST"),
            changes.get("path", "/v1/checkouts"),
            MemoryHeaders({k: v for k, v in headers.items() if v is not None}),
        )
        await self.app.__rsgi__(scope, exchange)
        return exchange.answered()
