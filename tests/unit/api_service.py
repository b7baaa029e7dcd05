"""The read side put together on stand-ins, and what its tests ask of answers."""

from typing import Any

from api.app import build
from contracts.auth import BearerVerifier
from contracts.problems import CONTENT_TYPE
from contracts.receipts import ReceiptSigner
from contracts.settings import Settings
from tests.unit.api_fakes import (
    BUYER,
    CHECKOUT,
    SECRET,
    Answered,
    Clock,
    FakeReads,
    FakeView,
    call,
    receipt,
)


class Service:
    def __init__(self) -> None:
        settings = Settings(jwt_hs256_secret=SECRET, receipt_secret=SECRET)
        self.reads = FakeReads()
        self.view = FakeView()
        self.signer = ReceiptSigner(SECRET)
        clock = Clock()
        self.app = build(
            settings,
            self.reads,
            self.view,
            BearerVerifier(settings),
            self.signer,
            clock.now,
            clock.monotonic,
        )

    async def get(self, path: str, **how: Any) -> Answered:
        return await call(self.app, path, **how)

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
