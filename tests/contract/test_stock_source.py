"""What every second stock source must do, in memory and over HTTP."""

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
import pytest

from contracts.settings import Settings
from stock_ledger.upstream.agree import differences
from stock_ledger.upstream.fakes import MemoryStockSource, never
from stock_ledger.upstream.http import connect_stock_source
from stock_ledger.upstream.settle import make_good
from stock_ledger.upstream.source import (
    GiveBack,
    Granted,
    Outstanding,
    Reserve,
    StockSource,
    Unanswered,
    WhenDown,
    Why,
    granted_or_policy,
    outstanding,
)
from tests.stock_server import Shop, hangs_up, open_shop, says

STOCK = {"p": 5, "q": 3}


class World(Protocol):
    """A source, and the hand that loses requests on their way to it, or answers on their way back."""

    @property
    def source(self) -> StockSource: ...

    @property
    def stock(self) -> dict[str, int]: ...

    def lose(self, *, requests: str = "", answers: str = "") -> None:
        """Those about these products; what is not named gets through."""
        ...


class MemoryWorld:
    def __init__(self) -> None:
        self.source = MemoryStockSource(STOCK)
        self.stock = self.source.stock

    def lose(self, *, requests: str = "", answers: str = "") -> None:
        lost = Unanswered(Why.UNREACHABLE, "lost")
        self.source.lost_before = (lambda i: lost if i in requests.split() else None) if requests else never
        self.source.lost_after = (lambda i: lost if i in answers.split() else None) if answers else never


class HttpWorld:
    def __init__(self, shop: Shop, source: StockSource) -> None:
        self.source = source
        self.stock = shop.stock
        self._shop = shop

    def lose(self, *, requests: str = "", answers: str = "") -> None:
        self._shop.before = dict.fromkeys(requests.split(), says(503))
        self._shop.after = dict.fromkeys(answers.split(), hangs_up)


@pytest.fixture(params=["memory", "http"])
async def world(request: pytest.FixtureRequest, offline_settings: Settings) -> AsyncIterator[World]:
    if request.param == "memory":
        yield MemoryWorld()
        return
    async with open_shop(dict(STOCK)) as shop:
        settings = msgspec.structs.replace(
            offline_settings, stock_source_url=shop.url, stock_source_deadline_s=20.0
        )
        async with connect_stock_source(settings) as source:
            yield HttpWorld(shop, source)


async def test_it_grants_what_it_has(world: World) -> None:
    asked = [Reserve("p", "0-0", 2), Reserve("q", "0-0", 7)]
    assert await world.source.reserve(asked) == {"p": Granted(2), "q": Granted(3)}
    assert await world.source.available(["p", "q"]) == {"p": 3, "q": 0}
    assert await world.source.reserve([Reserve("q", "0-8", 1)]) == {"q": Granted(0)}
    assert await world.source.reserve([]) == {}


async def test_the_same_key_is_the_same_reservation(world: World) -> None:
    for _ in range(3):
        assert await world.source.reserve([Reserve("p", "0-0", 4)]) == {"p": Granted(4)}
    assert world.stock["p"] == 1
    assert await world.source.reserve([Reserve("p", "1-0", 4)]) == {"p": Granted(1)}


async def test_the_same_key_for_other_units_is_rejected(world: World) -> None:
    await world.source.reserve([Reserve("p", "0-0", 1)])
    answer = (await world.source.reserve([Reserve("p", "0-0", 2)]))["p"]
    assert isinstance(answer, Unanswered)
    assert (answer.why, answer.may_have_been_done()) == (Why.REJECTED, False)
    assert world.stock["p"] == 4


async def test_units_are_given_back_once(world: World) -> None:
    await world.source.reserve([Reserve("p", "0-0", 5)])
    back = GiveBack("p", "unused-0-0", 2)
    for _ in range(2):
        assert await world.source.give_back([back]) == {"return-unused-0-0-p": None}
    assert await world.source.available(["p"]) == {"p": 2}
    assert await world.source.give_back([GiveBack("p", "order-1", 3)]) == {"return-order-1-p": None}
    assert await world.source.available(["p"]) == {"p": 5}
    wrong = (await world.source.give_back([GiveBack("p", "order-1", 1)]))["return-order-1-p"]
    assert isinstance(wrong, Unanswered)
    assert wrong.why is Why.REJECTED
    assert world.stock["p"] == 5


async def test_a_product_that_it_does_not_have_is_rejected_and_others_are_answered(world: World) -> None:
    reserved = await world.source.reserve([Reserve("none", "0-0", 1), Reserve("p", "0-0", 1)])
    assert reserved["p"] == Granted(1)
    returned = await world.source.give_back([GiveBack("none", "x", 1), GiveBack("p", "x", 1)])
    assert returned["return-x-p"] is None
    told = await world.source.available(["none", "p"])
    assert told["p"] == 5
    for answer in (reserved["none"], returned["return-x-none"], told["none"]):
        assert isinstance(answer, Unanswered)
        assert answer.why is Why.REJECTED
        assert "none" in answer.detail


async def test_what_is_lost_on_the_way_there_has_no_effect_until_it_is_asked_again(world: World) -> None:
    world.lose(requests="p")
    answers = await world.source.reserve([Reserve("p", "0-0", 2), Reserve("q", "0-0", 2)])
    assert isinstance(answers["p"], Unanswered)
    assert (answers["q"], world.stock) == (Granted(2), {"p": 5, "q": 1})
    assert isinstance((await world.source.available(["p"]))["p"], Unanswered)
    world.lose()
    assert await world.source.reserve([Reserve("p", "0-0", 2)]) == {"p": Granted(2)}


async def test_an_answer_that_is_lost_is_given_again(world: World) -> None:
    world.lose(answers="p")
    lost = (await world.source.reserve([Reserve("p", "0-0", 2)]))["p"]
    assert isinstance(lost, Unanswered)
    assert lost.may_have_been_done()
    back = GiveBack("p", "order-1", 1)
    assert isinstance((await world.source.give_back([back]))[back.key()], Unanswered)
    assert world.stock["p"] == 4
    world.lose()
    assert await world.source.reserve([Reserve("p", "0-0", 2)]) == {"p": Granted(2)}
    assert await world.source.give_back([back]) == {back.key(): None}
    assert world.stock["p"] == 4


@pytest.mark.parametrize("lost", [{"requests": "p q"}, {"answers": "p q"}, {"requests": "p", "answers": "q"}])
async def test_a_batch_that_was_not_answered_is_made_good(world: World, lost: dict[str, str]) -> None:
    """One product is refused meanwhile, one sold; both sides agree afterwards, and before as far as can be known."""
    when_down = {"p": WhenDown.REFUSE, "q": WhenDown.TRUST_LOCAL}
    requests, sold = [Reserve("p", "0-0", 4), Reserve("q", "0-0", 3)], {"q": 2}
    world.lose(**lost)
    answers = await world.source.reserve(requests)
    allowance = granted_or_policy(requests, answers, when_down)
    assert (allowance.units, sorted(allowance.down)) == ({"p": 0, "q": 3}, ["p"])
    left = outstanding(requests, allowance, sold)
    assert left.give_back == []
    world.lose()
    local = {"p": 5, "q": 1}
    assert differences(local, await world.source.available(["p", "q"]), left.unsettled) == []
    made = await make_good(world.source, left)
    assert (made.outstanding, made.short) == (Outstanding([], []), [])
    assert differences(local, await world.source.available(["p", "q"])) == []
