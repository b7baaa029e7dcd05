"""Both ledgers that a writer persists to, over the same orders and stock, in memory and in Postgres."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

import pytest

from contracts.commands import Command
from contracts.decisions import Order
from contracts.messages import CheckoutLine
from contracts.settings import Settings
from contracts.topics import partition_of
from stock_ledger.batch import Received, Stock
from stock_ledger.commands.book import Given, LedgerEntry, Need, Obeyed
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.commands.ledger import CommandLedger
from stock_ledger.commands.obey import need_of, obey
from stock_ledger.commands.postgres import PostgresCommandLedger
from stock_ledger.decide import decide
from stock_ledger.ledger import Advance, Claim, Ledger
from stock_ledger.ledger import Need as LineNeed
from stock_ledger.ledger import need_of as needed_by_lines
from tests.contract.adapters import memory_or
from tests.contract.test_ledger import MemoryWorld, PostgresWorld, postgres_world
from tests.desk import HOLD_TTL_S, PARTITIONS, answer_of
from tests.harness import NOON, product_in, product_of, uuid_of

A, B, NEW = (product_in(0, PARTITIONS, n) for n in range(3))
CHECKOUT = next(n for n in range(1000, 2000) if partition_of(uuid_of(n), PARTITIONS) == 0)


class World:
    """Both lanes' ledgers over the same tables, and what a writer does with them."""

    def __init__(self, base: MemoryWorld | PostgresWorld) -> None:
        self.base = base
        self.ledger: Ledger = base.ledger
        self.commands: CommandLedger = (
            MemoryCommandLedger(base.ledger)
            if isinstance(base, MemoryWorld)
            else PostgresCommandLedger(base.pool, PARTITIONS)
        )

    async def open(self) -> Claim:
        """Two products with 10 units, the first with a limit, in a partition that is claimed."""
        await self.base.put(product_of(A, buyer_limit=9), Stock(10, 1), 0)
        await self.base.put(product_of(B), Stock(10, 1), 0)
        return (await self.ledger.claim([0], "a", NOON))[0]

    async def sell(self, claim: Claim, *lines: CheckoutLine) -> list[Order]:
        batch = [Received(0, claim.next_offset + n, line) for n, line in enumerate(lines)]
        entries = await self.ledger.products([line.product_id for line in lines])
        need = needed_by_lines(batch, {i: product for i, (product, _) in entries.items()})
        loaded = await self.ledger.load(need, entries)
        decided = decide(batch, loaded, NOON)
        await self.ledger.persist([Advance(0, claim, claim.next_offset + len(batch))], decided, loaded)
        return [d.order for d in decided.decisions if d.order is not None]

    async def decide(
        self, claim: Claim, *commands: Command | None, now: datetime = NOON, partition: int = 0
    ) -> tuple[list[Advance], Obeyed]:
        """What a writer would decide on these commands, which begin at the claim's next one."""
        batch = [
            Given(partition, claim.next_command + n, c, "" if c else "broken") for n, c in enumerate(commands)
        ]
        book = await self.commands.load(need_of(batch))
        advance = Advance(partition, claim, claim.next_command + len(batch))
        return [advance], obey(batch, book, now, PARTITIONS, HOLD_TTL_S)

    async def obey(self, claim: Claim, *commands: Command | None, now: datetime = NOON) -> Obeyed:
        advances, obeyed = await self.decide(claim, *commands, now=now)
        await self.commands.persist(advances, obeyed)
        return obeyed

    async def claim(self) -> Claim:
        return (await self.ledger.state([0]))[0]

    async def entries(self) -> list[LedgerEntry]:
        """What commands did to stock."""
        if isinstance(self.commands, MemoryCommandLedger):
            found = self.commands.entries
        else:
            assert isinstance(self.base, PostgresWorld)
            rows = await self.base.pool.fetch(
                "SELECT * FROM ledger WHERE kind NOT IN ('order', 'hold') AND partition IS NOT NULL"
            )
            found = [
                LedgerEntry(**(dict(r) | {"order_id": r["order_id"] and str(r["order_id"])})) for r in rows
            ]
        return sorted(found, key=lambda e: (e.product_id, e.seq))

    async def everything(self, need: Need) -> tuple[Any, ...]:
        """All that persist may change of what is needed."""
        return (
            await self.commands.load(need),
            await self.ledger.state(range(PARTITIONS)),
            await self.ledger.partition_products(0),
            await self.commands.told(0, 0, 1000),
            await self.entries(),
            (await self.ledger.load(LineNeed([], [(A, f"buyer-{n}") for n in range(9)], []), {})).bought,
        )


world_settings = memory_or("postgres", "database_settings")


@pytest.fixture
async def world(world_settings: Settings | None) -> AsyncIterator[World]:
    if world_settings is None:
        yield World(MemoryWorld())
        return
    async with postgres_world(world_settings) as made:
        yield World(made)


def need(
    *, orders: Sequence[str] = (), commands: Sequence[str] = (), products: Sequence[str] = (A, B, NEW)
) -> Need:
    holds = [(uuid_of(CHECKOUT), A), (uuid_of(CHECKOUT), B)]
    return Need(list(commands), list(orders), holds, [uuid_of(CHECKOUT)], list(products))


def answers(**fields: Any) -> list[Command]:
    return [answer_of(CHECKOUT, n, 2, i, quantity=n + 1, **fields) for n, i in enumerate((A, B))]
