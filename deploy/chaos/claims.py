"""Who claimed which partition when, as seen in Postgres from outside."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import asyncpg

from stock_ledger.pool import TRANSIENT

_LOOK_S = 0.05
_CLAIMS = "SELECT partition, epoch, owner, extract(epoch FROM claimed_at)::float8 AS claimed_at FROM partition_state"


class Claimed(NamedTuple):
    """A claim of a partition by a worker. Times are seconds since the epoch."""

    partition: int
    epoch: int
    owner: str
    at: float


class Watcher:
    """Looks again and again, past any proxy."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.claims: dict[int, list[Claimed]] = defaultdict(list)  # of each partition, oldest first

    def owned_by(self, process: int) -> dict[int, Claimed]:
        """The claims of a process that were the last of their partitions to be seen."""
        last = {p: claims[-1] for p, claims in self.claims.items()}
        return {p: claim for p, claim in last.items() if claim.owner.endswith(f"-{process}")}

    def taken_over(self, before: Iterable[Claimed]) -> dict[int, float]:
        """When the partitions of these claims were claimed again, of those that were."""
        found = {}
        for old in before:
            newer = [claim.at for claim in self.claims[old.partition] if claim.epoch > old.epoch]
            if newer:
                found[old.partition] = newer[0]
        return found

    async def run(self) -> None:
        """Look until cancelled, also through restarts of Postgres."""
        while True:
            with suppress(*TRANSIENT):
                connection = await asyncpg.connect(self._url, timeout=1.0, command_timeout=1.0)
                try:
                    while True:
                        self.take(await connection.fetch(_CLAIMS))
                        await asyncio.sleep(_LOOK_S)
                finally:
                    connection.terminate()
            await asyncio.sleep(_LOOK_S)

    def take(self, rows: Iterable[Any]) -> None:
        """Take in what Postgres holds now."""
        for row in rows:
            claims = self.claims[row["partition"]]
            if not claims or claims[-1].epoch != row["epoch"]:
                claims.append(Claimed(row["partition"], row["epoch"], row["owner"], row["claimed_at"]))
