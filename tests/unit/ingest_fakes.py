"""An ingest application on fakes, and its client."""

from typing import Any

import jwt
import orjson
from aiokafka.errors import KafkaConnectionError

from contracts.auth import BearerVerifier
from contracts.receipts import ReceiptSigner
from contracts.settings import Settings
from ingest.app import Ingest
from ingest.backpressure import Backpressure
from ingest.fakes import Answered, HeaderValue, MemoryExchange, MemoryHeaders, MemoryProducer, MemoryScope
from ingest.gate import PayloadMemory, SoldOutGate
from ingest.publisher import Publisher
from stock_ledger.view_fakes import MemoryView
from tests.harness import Clock

NOW_MS = 1_794_398_400_000  # tests.harness.NOON


class Edge:
    """An ingest application on fakes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = Clock()
        self.view = MemoryView()
        self.producers: list[MemoryProducer] = []
        self.log: dict[int, list[tuple[bytes | None, bytes | None]]] = {}
        self.make_broken = False
        self.away = False
        self.silent = False
        self.partitions = settings.partitions
        payloads = PayloadMemory(self.view, settings, self.clock.monotonic)
        backpressure = Backpressure(settings, self.clock.monotonic)
        self.publisher = Publisher(self._start, payloads, "checkouts", settings, lambda: NOW_MS, backpressure)
        self.gate = SoldOutGate(self.view, settings, self.clock.monotonic, backpressure)
        self.signer = ReceiptSigner(settings.receipt_secret)
        self.app = Ingest(
            settings,
            BearerVerifier(settings),
            self.signer,
            self.publisher,
            self.gate,
            backpressure,
            lambda: NOW_MS,
        )

    def _append(self, partition: int, key: bytes | None, value: bytes | None) -> int:
        of_partition = self.log.setdefault(partition, [])
        of_partition.append((key, value))
        return len(of_partition) - 1

    async def _start(self) -> MemoryProducer:
        if self.away:
            raise KafkaConnectionError("the broker is away")
        producer = MemoryProducer(self._append, partitions=self.partitions)
        producer.broken = self.make_broken
        producer.silent = self.silent
        self.producers.append(producer)
        return producer

    @property
    def producer(self) -> MemoryProducer:
        return self.producers[-1]

    def token(self, buyer: str = "buyer-1", **claims: Any) -> str:
        content = {"sub": buyer, "exp": NOW_MS // 1000 + 10**9} | claims
        return jwt.encode(content, self.settings.jwt_hs256_secret, "HS256")

    async def post(self, body: Any, **changes: Any) -> Answered:
        """POST a checkout.

        `changes`: method, path, buyer, chunked (no content-length), and headers that replace (None removes) the
        usual.
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
            MemoryHeaders(headers),
        )
        await self.app.__rsgi__(scope, exchange)
        return exchange.answered()
