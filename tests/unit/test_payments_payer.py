"""The payer of the demo, over real HTTP to a server that reads callbacks as the service does."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import aiohttp
import pytest

from api.payments.behaviour import Behaviour, Shares
from api.payments.sandbox import SandboxProvider
from contracts.payments import PaymentNotice
from deploy.demo.payer import SandboxPayer
from tests.harness import NOON, Clock
from tests.unit.payment_senders import CHARGE, SANDBOX_SECRET
from tests.unit.payment_servers import Answer, Asked, playing


class Shop:
    """Reads callbacks at the clock's time; refuses to acknowledge the first few."""

    def __init__(self, clock: Clock, failing: int = 0) -> None:
        self._clock = clock
        self._failing = failing
        self._provider = SandboxProvider([SANDBOX_SECRET], 60)
        self.notices: list[PaymentNotice] = []

    def __call__(self, asked: Asked) -> Answer:
        notice = self._provider.read_callback(asked.headers, asked.body, self._clock.now())
        assert notice is not None
        self.notices.append(notice)
        self._failing -= 1
        return Answer(503 if self._failing >= 0 else 204, b"")


@asynccontextmanager
async def payer_to(
    answer: Callable[[Asked], Answer], clock: Clock, **shares: float
) -> AsyncIterator[SandboxPayer]:
    async with playing(answer) as played, aiohttp.ClientSession() as http:
        yield payer(http, f"{played.url}/v1/payments/callbacks/sandbox", clock, Shares(**shares))


def payer(http: aiohttp.ClientSession, url: str, clock: Clock, shares: Shares) -> SandboxPayer:
    async def sleep(seconds: float) -> None:
        clock.tick(seconds)

    return SandboxPayer(http, url, SANDBOX_SECRET, shares, 1, clock.now, sleep=sleep)


async def test_a_payment_comes_when_it_is_due(clock: Clock) -> None:
    shop = Shop(clock)
    async with payer_to(shop, clock) as buyers:
        assert await buyers.pay(CHARGE) is Behaviour.PAYS
    (notice,) = shop.notices
    assert notice.occurred_at == clock.now() > NOON
    assert buyers.tally.orders == {Behaviour.PAYS: 1}
    assert buyers.tally.answers == {204: 1}
    assert buyers.tally.lost == []


@pytest.mark.parametrize(
    ("share", "outcomes"),
    [
        ("declines", ["failed"]),
        ("pays_twice", ["paid", "paid", "paid"]),
        ("pays_late", ["paid"]),
        ("pays_wrong_amount", ["paid"]),
        ("never_pays", []),
    ],
)
async def test_each_behaviour(clock: Clock, share: str, outcomes: list[str]) -> None:
    shop = Shop(clock)
    async with payer_to(shop, clock, **{share: 1.0}) as buyers:
        assert await buyers.pay(CHARGE) is Behaviour(share)
    assert [notice.outcome for notice in shop.notices] == outcomes


async def test_late_is_after_the_expiry(clock: Clock) -> None:
    async with payer_to(Shop(clock), clock, pays_late=1.0) as buyers:
        await buyers.pay(CHARGE)
    assert clock.now() > CHARGE.expires_at + timedelta(seconds=1)


async def test_what_is_not_acknowledged_comes_again_signed_anew(clock: Clock) -> None:
    shop = Shop(clock, failing=9)  # by the last try the first signature would be too old
    async with payer_to(shop, clock) as buyers:
        await buyers.pay(CHARGE)
    assert len(shop.notices) == 10
    assert len({notice.event_id for notice in shop.notices}) == 1
    assert buyers.tally.answers == {503: 9, 204: 1}
    assert buyers.tally.lost == []


async def test_what_is_never_acknowledged_is_lost(clock: Clock) -> None:
    async with payer_to(lambda _: Answer(401), clock) as buyers:
        await buyers.pay(CHARGE)
    assert [event.order_id for event in buyers.tally.lost] == [CHARGE.order_id]
    assert set(buyers.tally.answers) == {401}


async def test_a_shop_that_is_away_counts_as_no_answer(clock: Clock) -> None:
    async with aiohttp.ClientSession() as http:
        away = payer(http, "http://127.0.0.1:1/", clock, Shares())
        await away.pay(CHARGE)
    assert set(away.tally.answers) == {0}
    assert len(away.tally.lost) == 1
