"""How long a sale stood still: measured from what Postgres kept, what a watcher saw, and what the buyers recorded."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

import asyncpg
import msgspec

from stock_ledger.postgres import TRANSIENT

_LOOK_S = 0.05
_CLAIMS = "SELECT partition, epoch, owner, extract(epoch FROM claimed_at)::float8 AS claimed_at FROM partition_state"
_TIMES = """
SELECT partition, extract(epoch FROM accepted_at)::float8, extract(epoch FROM decided_at)::float8
FROM decisions WHERE accepted_at IS NOT NULL ORDER BY partition, "offset"
"""


class Claimed(NamedTuple):
    """A claim of a partition by a worker. Times are seconds since the epoch."""

    partition: int
    epoch: int
    owner: str
    at: float


class Times(NamedTuple):
    """When a message was accepted, and when the batch began that decided it."""

    partition: int
    accepted_at: float
    decided_at: float


class Recovery(msgspec.Struct, frozen=True):
    """From a fault until all partitions that it had stopped were decided again.

    `alone`: no other fault was at work meanwhile. `seconds` is None if they were not seen to be.
    """

    kind: str
    at_s: float
    seconds: float | None
    partitions: int
    alone: bool
    accepted_per_s: float


class Watcher:
    """Looks at Postgres, past any proxy, for who claims which partition."""

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
                        self._take(await connection.fetch(_CLAIMS))
                        await asyncio.sleep(_LOOK_S)
                finally:
                    connection.terminate()
            await asyncio.sleep(_LOOK_S)

    def _take(self, rows: Iterable[Any]) -> None:
        for row in rows:
            claims = self.claims[row["partition"]]
            if not claims or claims[-1].epoch != row["epoch"]:
                claims.append(Claimed(row["partition"], row["epoch"], row["owner"], row["claimed_at"]))


async def decision_times(connection: Any) -> list[Times]:
    """By partition and offset."""
    return [Times(*row) for row in await connection.fetch(_TIMES)]


def decided_again_at(times: Sequence[Times], since: Mapping[int, float]) -> float | None:
    """When each of these partitions had begun to be decided since its time; None if one has not."""
    first: dict[int, float] = {}
    for message in times:
        if message.decided_at >= since.get(message.partition, inf):
            first.setdefault(message.partition, message.decided_at)
    return max(first.values()) if first and first.keys() == since.keys() else None


def deciding_stall_s(times: Sequence[Times]) -> float:
    """The longest time in which a partition decided nothing although something waited in it."""
    longest, decided_until = 0.0, defaultdict[int, float](float)
    for message in times:
        waited_from = max(decided_until[message.partition], message.accepted_at)
        longest = max(longest, message.decided_at - waited_from)
        decided_until[message.partition] = max(decided_until[message.partition], message.decided_at)
    return longest


def longest_gap_s(moments: Sequence[float], start: float, end: float) -> float:
    """The longest time between two moments from `start` to `end`."""
    inside = [start, *sorted(m for m in moments if start < m < end), end]
    return max(later - earlier for earlier, later in zip(inside, inside[1:], strict=False))


def per_s(moments: Sequence[float], start: float, end: float) -> float:
    return sum(start <= m <= end for m in moments) / max(end - start, 1e-9)
