"""Bugs planted in how a writer's transactions use Postgres: as if SQL or settings of the real adapter lacked something."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from contracts.errors import Unavailable
from deploy.simulation.database import LedgerClient
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.fakes import MemoryLedger
from stock_ledger.ledger import Advance, Claim
from tests.simulation.plants import Plant


def fence_read_without_a_lock() -> AbstractContextManager[Any]:
    """The claim is compared, and a round trip later the batch is written, whoever has claimed in between."""

    async def transact(
        self: LedgerClient,
        advances: Sequence[Advance],
        check: Callable[[], None],
        commit: Callable[[], Awaitable[None]],
    ) -> None:
        node = await self.reach("persist", Unavailable)
        check()
        await self.server.set_out(node, "commit")
        self.server.answer(node, Unavailable)
        await _past_the_fence(commit)

    return patch.object(LedgerClient, "transact", transact)


def transactions_left_idle_for_ever() -> AbstractContextManager[Any]:
    """Nothing ends the transaction of a writer that was stopped in it: its partitions stay locked."""
    original = LedgerClient.__init__

    def init(self: LedgerClient, *arguments: Any) -> None:
        original(self, *arguments)
        self._idle_s = float("inf")

    return patch.object(LedgerClient, "__init__", init)


def batch_written_in_two_transactions() -> AbstractContextManager[Any]:
    """First what was decided, then how far: a writer may be gone in between."""

    async def transact(
        self: LedgerClient,
        advances: Sequence[Advance],
        check: Callable[[], None],
        commit: Callable[[], Awaitable[None]],
    ) -> None:
        node = await self.reach("persist", Unavailable)
        claims = self._ledger.claims
        before = {a.partition: claims.get(a.partition, Claim(0, 0)) for a in advances}
        await commit()
        after = {p: claims[p] for p in before}
        claims.update(before)
        await self.server.set_out(node, "commit")
        self.server.answer(node, Unavailable)
        claims.update(after)

    return patch.object(LedgerClient, "transact", transact)


def commit_without_an_answer_written_again() -> AbstractContextManager[Any]:
    """A commit that is not known counts as none: the batch is written once more, without a look at what is there."""
    original = LedgerClient.transact

    async def transact(
        self: LedgerClient,
        advances: Sequence[Advance],
        check: Callable[[], None],
        commit: Callable[[], Awaitable[None]],
    ) -> None:
        await original(self, advances, check, commit)
        try:
            self.server.maybe_lose(Unavailable)
        except Unavailable:
            await _past_the_fence(commit)

    return patch.object(LedgerClient, "transact", transact)


async def _past_the_fence(commit: Callable[[], Awaitable[None]]) -> None:
    with (
        patch.object(MemoryLedger, "check", lambda *_: None),
        patch.object(MemoryCommandLedger, "check", lambda *_: None),
    ):
        await commit()


POSTGRES_PLANTS: tuple[Plant, ...] = (
    fence_read_without_a_lock,
    transactions_left_idle_for_ever,
    batch_written_in_two_transactions,
    commit_without_an_answer_written_again,
)
