"""A writer and a second stock source, that may be slow, wrong, down or flapping: nothing is sold twice, nothing leaks."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from contracts.outcomes import Reason
from stock_ledger.upstream.agree import differences
from stock_ledger.upstream.fakes import MemoryOpen, MemoryStockSource, never
from stock_ledger.upstream.http import connect_stock_source
from stock_ledger.upstream.source import Outstanding, Reserve, Unanswered, Why
from tests.harness import failing, line_of, product_of, running
from tests.stock_server import Fault, Shop, hangs_up, open_shop, says
from tests.unit.writer_world import A, B, Crash, World, dies
from workers.making_good import MakingGood

DEADLINE_S = 4.0  # passes by turning the clock


class Sourced(World):
    """A has a second source; B has none. Both have 10 units here."""

    def policy(self, when_down: str) -> None:
        stock = self.ledger.stock[A]
        self.ledger.put(product_of(A, stock_source=when_down), stock, 0)

    async def decide(self) -> None:
        writer, log = self.writer()
        async with running(writer):
            await self.share_out(log)
            await self.all_done()

    async def make_good(self) -> None:
        assert self.source is not None
        await MakingGood(self.source, MemoryOpen(self.ledger), self.settings).round()

    def reasons(self) -> list[Reason | None]:
        decided = sorted((o, d.reason) for (p, o), d in self.ledger.decided.items() if p == 0)
        return [reason for _, reason in decided]

    async def agrees(self, told: dict[str, int]) -> bool:
        open_ = MemoryOpen(self.ledger)
        left = await open_.open(99)
        return not differences(await open_.local(), told, left.unsettled, left.give_back)


@pytest.fixture
def sourced(world: World) -> Sourced:
    made = Sourced(world.settings, world.clock)
    made.policy("refuse")
    return made


async def crash_before_it_persists(sourced: Sourced, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source was asked by then."""
    left = [True]
    with monkeypatch.context() as patch:
        dies(patch, sourced.ledger, "persist", after=False, once=lambda: left.pop() if left else False)
        writer, log = sourced.writer()
        async with failing(writer) as task:
            await sourced.share_out(log)
            with pytest.raises(Crash):
                await task


async def test_a_plain_batch_asks_nobody(sourced: Sourced) -> None:
    sourced.source = None
    sourced.send(line_of(1, B), partition=1)
    await sourced.decide()
    assert len(sourced.ledger.orders) == 1


async def test_as_much_is_sold_as_the_source_grants_and_the_rest_goes_back(sourced: Sourced) -> None:
    source = sourced.source = MemoryStockSource({A: 3})
    sourced.send(line_of(1, A, 2), line_of(2, A, 2), line_of(3, A), line_of(4, A), line_of(5, B))
    await sourced.decide()
    assert sourced.reasons() == [None, Reason.INSUFFICIENT_STOCK, None, Reason.SOLD_OUT, None]
    assert (source.stock[A], sourced.ledger.stock[A].available, sourced.ledger.open) == (0, 7, [])
    source.stock[A] = 9
    sourced.send(line_of(6, A, 2), line_of(7, A, 9))
    await sourced.decide()
    assert sourced.reasons()[5:] == [None, Reason.INSUFFICIENT_STOCK]
    assert source.stock[A] == 2
    await sourced.make_good()
    assert (source.stock[A], sourced.ledger.open) == (7, [])


@pytest.mark.parametrize("name", ["intend", "persist"])
@pytest.mark.parametrize("after", [False, True])
async def test_a_writer_that_dies_leaks_nothing(
    sourced: Sourced, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    """The next one asks for the same with the same key, though it finds more in the log."""
    source = sourced.source = MemoryStockSource({A: 10})
    sourced.send(line_of(1, A, 2), line_of(2, A, 20))
    left = [True]
    with monkeypatch.context() as patch:
        dies(patch, sourced.ledger, name, after=after, once=lambda: left.pop() if left else False)
        writer, log = sourced.writer()
        async with failing(writer) as task:
            await sourced.share_out(log)
            with pytest.raises(Crash):
                await task
    await sourced.make_good()  # if the batch was decided, the other eight are to be had again
    sourced.send(line_of(3, A))
    await sourced.decide()
    assert sourced.reasons() == [None, Reason.INSUFFICIENT_STOCK, None]
    await sourced.make_good()
    assert (source.stock[A], sourced.ledger.stock[A].available) == (7, 7)
    assert (sourced.ledger.open, sourced.ledger.intended) == ([], {})


async def test_what_came_after_a_crash_is_not_refused_as_sold_out(
    sourced: Sourced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch was to be of one line, and the source is asked for that again: there is more of it."""
    source = sourced.source = MemoryStockSource({A: 10})
    sourced.send(line_of(1, A, 2))
    await crash_before_it_persists(sourced, monkeypatch)
    sourced.send(line_of(2, A), line_of(3, A, 20))
    await sourced.decide()
    assert sourced.reasons() == [None, Reason.STOCK_SOURCE_DOWN, Reason.INSUFFICIENT_STOCK]
    await sourced.make_good()
    assert (source.stock[A], sourced.ledger.stock[A].available) == (8, 8)


async def test_an_open_circuit_after_a_crash_does_not_forget_what_was_granted_before(
    sourced: Sourced, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sourced.source = MemoryStockSource({A: 10})
    sourced.send(line_of(1, A, 2))
    await crash_before_it_persists(sourced, monkeypatch)
    assert source.stock[A] == 8
    source.lost_before = lambda _: Unanswered(Why.CIRCUIT_OPEN)
    await sourced.decide()
    assert sourced.reasons() == [Reason.STOCK_SOURCE_DOWN]
    source.lost_before = never
    await sourced.make_good()
    assert source.stock[A] == 10


async def test_without_a_source_configured_its_products_are_refused_or_trusted(sourced: Sourced) -> None:
    sourced.send(line_of(1, A))
    await sourced.decide()
    sourced.policy("trust_local")
    sourced.view.flush()
    sourced.send(line_of(2, A))
    await sourced.decide()
    assert sourced.reasons() == [Reason.STOCK_SOURCE_DOWN, None]
    source = sourced.source = MemoryStockSource({A: 10})
    await sourced.make_good()
    assert source.stock[A] == 9


async def test_what_was_sold_and_is_not_there_is_told_as_short(
    sourced: Sourced, caplog: pytest.LogCaptureFixture
) -> None:
    sourced.policy("trust_local")
    source = sourced.source = MemoryStockSource({A: 1})
    source.lost_before = lambda _: Unanswered(Why.UNREACHABLE)
    sourced.send(line_of(1, A, 3))
    await sourced.decide()
    await sourced.make_good()
    assert [row[0] for row in sourced.ledger.open] == ["request"]
    source.lost_before = never
    for _ in range(2):
        await sourced.make_good()
    assert source.stock[A] == 0
    assert [(row[0], row[3]) for row in sourced.ledger.open] == [("short", 2)]
    assert [getattr(r, "action", "") for r in caplog.records].count("stock_source_short") == 1


async def test_while_postgres_is_away_nothing_is_made_good(sourced: Sourced) -> None:
    sourced.source = MemoryStockSource({A: 1})
    sourced.ledger.intended[0, 0, A] = Reserve(A, "0-0", 1)
    sourced.ledger.available = False
    await sourced.make_good()
    sourced.ledger.available = True
    assert len(sourced.ledger.intended) == 1


async def never_answers(_: object) -> None:
    """Turns the event loop's clock on by more than the deadline."""
    loop = asyncio.get_running_loop()
    time = loop.time
    loop.time = lambda: time() + DEADLINE_S + 0.5  # type: ignore[method-assign]
    await asyncio.Event().wait()


@pytest.fixture
async def shop(sourced: Sourced) -> AsyncIterator[Shop]:
    async with open_shop({A: 10}) as opened:
        settings = msgspec.structs.replace(
            sourced.settings,
            stock_source_url=opened.url,
            stock_source_deadline_s=DEADLINE_S,
            stock_source_failures_max=99,
        )
        sourced.settings = settings
        async with connect_stock_source(settings) as source:
            sourced.source = source
            yield opened


@pytest.mark.parametrize("when_down", ["refuse", "trust_local"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "fault",
    [says(503), says(200, b"oops"), hangs_up, never_answers],
    ids=["down", "wrong", "hangs up", "slow"],
)
async def test_a_shop_in_trouble(
    sourced: Sourced, shop: Shop, fault: Fault, moment: str, when_down: str
) -> None:
    """Every second batch meets the trouble, whether the shop has done what it was asked or not."""
    sourced.policy(when_down)
    faults: dict[str | None, Fault] = getattr(shop, moment)
    for number in range(4):
        if number % 2:
            faults[None] = fault
        else:
            faults.clear()
        sourced.send(line_of(number, A, 2))
        await sourced.decide()
    expected = Reason.STOCK_SOURCE_DOWN if when_down == "refuse" else None
    assert sourced.reasons() == [None, expected, None, expected]
    assert await sourced.agrees(shop.stock)
    faults.clear()
    await sourced.make_good()
    assert shop.stock[A] == sourced.ledger.stock[A].available == (6 if when_down == "refuse" else 2)
    assert await MemoryOpen(sourced.ledger).open(9) == Outstanding([], [])
