"""The read side put together on stand-ins, and what its tests ask of answers."""

from itertools import count
from typing import Any

import orjson

from api.app import Asked, Kept, build
from api.payments.providers import build as build_providers
from api.publisher import MemoryCommands
from contracts.auth import BearerVerifier
from contracts.problems import CONTENT_TYPE
from contracts.receipts import ReceiptSigner
from contracts.settings import Settings
from stock_ledger.buyer_fakes import MemoryAddressBook, MemoryCarts
from tests.unit.api_fakes import (
    BUYER,
    CHECKOUT,
    SECRET,
    Answered,
    Clock,
    FakeCommandReads,
    FakeReads,
    FakeView,
    call,
    receipt,
)


class Service:
    def __init__(self) -> None:
        settings = Settings(
            jwt_hs256_secret=SECRET,
            receipt_secret=SECRET,
            addresses_max=3,
            cart_lines_max=2,
            body_bytes_max=1000,
            sandbox_secrets=SECRET,
            imports_max=2,
        )
        self.reads = FakeReads()
        self.view = FakeView()
        self.signer = ReceiptSigner(SECRET)
        self.book = MemoryAddressBook()
        self.carts = MemoryCarts()
        self.commands = MemoryCommands(settings.partitions)
        self.command_reads = FakeCommandReads()
        self.providers = build_providers(settings)
        clock = self.clock = Clock()
        new_ids = map(str, count(1))
        self.app = build(
            settings,
            self.reads,
            self.view,
            BearerVerifier(settings),
            self.signer,
            clock.now,
            clock.monotonic,
            Kept(self.book, self.carts, lambda: f"made-{next(new_ids)}"),
            Asked(self.commands, self.command_reads, self.providers),
        )

    async def get(self, path: str, **how: Any) -> Answered:
        return await call(self.app, path, **how)

    async def send(self, method: str, path: str, content: Any = None, **how: Any) -> Answered:
        """A request with a JSON body, if there is one; text and bytes are sent as they are."""
        body = content.encode() if isinstance(content, str) else content
        if body is not None and not isinstance(body, bytes):
            body = orjson.dumps(content)
        return await call(self.app, path, method=method, body=body, **how)

    def location(self, *positions: tuple[int, int]) -> str:
        signed = receipt(*positions)
        text = self.signer.sign(CHECKOUT, BUYER, signed.accepted_at_ms, signed.positions)
        return f"/v1/checkouts/{CHECKOUT}?receipt={text}"


def is_problem(answered: Answered, status: int, code: str) -> bool:
    return (
        answered.status == answered.json["status"] == status
        and answered.headers["content-type"] == CONTENT_TYPE
        and answered.json["code"] == code
    )
