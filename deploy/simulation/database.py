"""Postgres in the simulation: a writer's transactions, over `MemoryLedger`, with the locks they hold meanwhile."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import msgspec

from contracts.errors import Unavailable
from contracts.settings import Settings
from deploy.simulation.network import After, Remote, Server
from deploy.simulation.node import Node
from stock_ledger.batch import Decided, Loaded
from stock_ledger.commands.book import Obeyed
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.fakes import MemoryLedger
from stock_ledger.ledger import Advance, Claim, Entry, Need

_LOOK_S = 0.005  # who waits for a lock looks again


class Transaction(msgspec.Struct):
    """What holds the rows of partitions until it ends, or the server loses patience or its connections."""

    generation: int  # of the server's connections
    until: float


class LedgerClient(Remote):
    """See `stock_ledger.ledger.Ledger`. As in Postgres (read committed):

    Persisting takes its partitions' rows first and commits a round trip later. Till then nobody sees any of it, and
    whoever claims a partition of it waits. When its node dies, the server restarts, or nothing is heard of it for too
    long, it is rolled back. What is loaded is read by several statements, between which others may commit.
    """

    def __init__(self, server: Server, ledger: MemoryLedger, after: After, settings: Settings) -> None:
        super().__init__(server, ledger, after)
        self._ledger = ledger
        self._idle_s = settings.session_timeout_ms / 1000
        self._patience_s = settings.postgres_timeout_s
        self._holders: dict[int, Transaction] = {}  # of partitions' rows

    async def persist(self, advances: Sequence[Advance], decided: Decided, loaded: Loaded) -> None:
        async def commit() -> None:
            await self._ledger.persist(advances, decided, loaded)

        await self.transact(advances, lambda: self._ledger.check(advances, decided, loaded), commit)
        await self.done("persist", (advances, decided, loaded), Unavailable)

    async def transact(
        self, advances: Sequence[Advance], check: Callable[[], None], commit: Callable[[], Awaitable[None]]
    ) -> None:
        """One transaction of a writer: its partitions' rows, what may refuse it, and a round trip later the commit."""
        node = await self.reach("persist", Unavailable)
        partitions = [a.partition for a in advances]
        await self._wait(node, partitions)
        transaction = Transaction(self.server.generation, node.loop.time() + self._idle_s)
        self._holders.update(dict.fromkeys(partitions, transaction))
        try:
            check()
            await self.server.set_out(node, "commit")
            await self.server.delay()
            self.server.answer(node, Unavailable)
            if any(self._holders[p] is not transaction for p in partitions) or not self.holder(partitions):
                raise Unavailable("the server had ended the transaction")
            await commit()
        finally:
            transaction.until = min(transaction.until, self.server.now())

    async def claim(self, partitions: Sequence[int], owner: str, now: datetime) -> dict[int, Claim]:
        node = await self.reach("claim", Unavailable)
        await self._wait(node, partitions)
        claims = await self._ledger.claim(partitions, owner, now)
        await self.done("claim", (partitions, owner, now), Unavailable)
        return claims

    async def load(self, need: Need, entries: dict[str, Entry]) -> Loaded:
        node = await self.reach("load", Unavailable)
        decided = await self._ledger.load(Need(need.checkouts, [], [], need.sliced), entries)
        await self.server.delay()
        self.server.answer(node, Unavailable)
        others = await self._ledger.load(Need([], need.limited, need.addresses), {})
        await self.server.delay()
        return msgspec.structs.replace(decided, bought=others.bought, addresses=others.addresses)

    def holder(self, partitions: Sequence[int]) -> Transaction | None:
        """Who holds rows of them, if any."""
        for p in partitions:
            holder = self._holders.get(p)
            if (
                holder is not None
                and holder.generation == self.server.generation
                and holder.until > self.server.now()
            ):
                return holder
        return None

    async def _wait(self, node: Node, partitions: Sequence[int]) -> None:
        """Until their rows are free. Raises Unavailable when that takes too long, or the server goes away."""
        patient_until = node.loop.time() + self._patience_s
        while (holder := self.holder(partitions)) is not None:
            since = node.loop.time()
            while self.holder(partitions) is holder:
                await node.loop.after(_LOOK_S)
                self.server.answer(node, Unavailable)
                if node.loop.time() > patient_until:
                    raise Unavailable("the rows of a partition stay locked")
            self._after("wait", (partitions, min(node.loop.time(), holder.until) - since))


class CommandClient(Remote):
    """See `stock_ledger.commands.ledger.CommandLedger`. Its transactions hold the same rows as those of the lines."""

    def __init__(self, ledger: LedgerClient, commands: MemoryCommandLedger, after: After) -> None:
        super().__init__(ledger.server, commands, after)
        self._ledger = ledger
        self._commands = commands

    async def persist(self, advances: Sequence[Advance], obeyed: Obeyed) -> None:
        async def commit() -> None:
            await self._commands.persist(advances, obeyed)

        await self._ledger.transact(advances, lambda: self._commands.check(advances, obeyed), commit)
        await self.done("persist", (advances, obeyed), Unavailable)
