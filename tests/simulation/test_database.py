"""The simulated Postgres: transactions hold what they write, are rolled back whole, and may commit unheard."""

from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from contracts.errors import FenceLost, Unavailable
from deploy.simulation.database import LedgerClient
from deploy.simulation.loop import Loop
from deploy.simulation.network import Server
from deploy.simulation.node import Node
from deploy.simulation.world import SETTINGS, untold
from stock_ledger.batch import Received, Stock
from stock_ledger.decide import decide
from stock_ledger.fakes import MemoryLedger
from stock_ledger.ledger import Advance, Claim, Need, need_of
from tests.harness import NOON, line_of, product_of

IDLE_S = SETTINGS.session_timeout_ms / 1000


class Bench:
    """Two writers on nodes of their own, and a server whose every way takes time."""

    def __init__(self, seed: int = 7) -> None:
        random = Random(seed)  # noqa: S311 - for repeatable runs
        self.loop = Loop(random)  # type: ignore[abstract]  # it has what is used of a loop
        self.server = Server("postgres", self.loop, random)
        self.server.slow = 5.0
        self.ledger = MemoryLedger()
        self.ledger.put(product_of("limited", buyer_limit=5), Stock(5, 1), 0)
        self.client = LedgerClient(self.server, self.ledger, untold, SETTINGS)
        self.first = Node(self.loop, "first")
        self.second = Node(self.loop, "second")

    def run(self, work: Callable[["Bench"], Coroutine[Any, Any, None]]) -> None:
        self.loop.run(work(self))

    async def persist(self, claim: Claim, number: int = 1) -> None:
        batch = [Received(0, claim.next_offset, line_of(number, "limited"))]
        entries = await self.ledger.products(["limited"])
        loaded = await self.ledger.load(need_of(batch, {"limited": entries["limited"][0]}), entries)
        decided = decide(batch, loaded, NOON)
        await self.client.persist([Advance(0, claim, claim.next_offset + 1)], decided, loaded)

    async def under_way(self) -> Any:
        """A transaction of the first writer that has passed the fence."""
        claim = (await self.ledger.claim([0], "first", NOON))[0]
        task = self.first.start(self.persist(claim))
        while not self.client.holder([0]):
            await self.loop.after(0.001)
        return task

    async def claim(self) -> Claim:
        return (await self.client.claim([0], "second", NOON))[0]


def test_a_claim_waits_for_the_transaction_under_way() -> None:
    async def work(bench: Bench) -> None:
        task = await bench.under_way()
        assert await bench.second.start(bench.claim()) == Claim(2, 1)
        await task
        assert bench.ledger.stock["limited"] == Stock(4, 2)

    Bench().run(work)


def test_nobody_sees_what_is_not_committed() -> None:
    async def work(bench: Bench) -> None:
        task = await bench.under_way()
        assert await bench.ledger.state([0]) == {0: Claim(1, 0)}
        assert not bench.ledger.decided
        await task
        assert await bench.ledger.state([0]) == {0: Claim(1, 1)}

    Bench().run(work)


def test_a_node_that_dies_is_rolled_back_at_once() -> None:
    async def work(bench: Bench) -> None:
        await bench.under_way()
        before = bench.loop.time()
        bench.first.kill()
        assert await bench.second.start(bench.claim()) == Claim(2, 0)
        assert bench.loop.time() < before + IDLE_S
        assert not bench.ledger.decided

    Bench().run(work)


def test_a_node_that_is_silent_for_too_long_is_rolled_back_and_told_when_it_wakes_up() -> None:
    async def work(bench: Bench) -> None:
        task = await bench.under_way()
        before = bench.loop.time()
        bench.first.pause()
        assert await bench.second.start(bench.claim()) == Claim(2, 0)
        assert bench.loop.time() > before + IDLE_S / 2
        bench.first.resume()
        with pytest.raises(Unavailable):
            await task
        assert not bench.ledger.decided
        with pytest.raises(FenceLost):
            await bench.first.start(bench.persist(Claim(1, 0)))

    Bench().run(work)


def test_a_server_that_restarts_rolls_back() -> None:
    async def work(bench: Bench) -> None:
        task = await bench.under_way()
        bench.server.break_connections()
        with pytest.raises(Unavailable):
            await task
        assert not bench.ledger.decided
        assert await bench.second.start(bench.claim()) == Claim(2, 0)

    Bench().run(work)


def test_a_commit_may_be_unknown() -> None:
    async def work(bench: Bench) -> None:
        claim = (await bench.ledger.claim([0], "first", NOON))[0]
        bench.server.losing = 1.0
        with pytest.raises(Unavailable):
            await bench.first.start(bench.persist(claim))
        assert await bench.ledger.state([0]) == {0: Claim(1, 1)}

    Bench().run(work)


def test_others_may_commit_between_the_statements_of_a_load() -> None:
    """As under read committed: what is loaded need not be of one moment."""
    found: set[tuple[bool, bool]] = set()

    async def work(bench: Bench) -> None:
        claim = (await bench.ledger.claim([0], "second", NOON))[0]
        need = Need([line_of(1).checkout_id], [("limited", "buyer-1")], [])
        loading = bench.first.start(bench.client.load(need, {}))
        await bench.second.start(bench.persist(claim))
        loaded = await loading
        found.add((bool(loaded.decided), bool(loaded.bought)))

    for seed in range(50):
        Bench(seed).run(work)
    assert found == {(False, False), (False, True), (True, True)}
