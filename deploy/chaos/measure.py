"""How long a sale stood still, from what Postgres kept and the buyers recorded. Pure but for one query."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import msgspec

from deploy.chaos.claims import Watcher
from deploy.chaos.faults import Injected

_TIMES = """
SELECT partition, extract(epoch FROM accepted_at)::float8, extract(epoch FROM decided_at)::float8
FROM decisions WHERE accepted_at IS NOT NULL ORDER BY partition, "offset"
"""


class Times(NamedTuple):
    """When a message was accepted, and when the batch began that decided it; in seconds since the epoch."""

    partition: int
    accepted_at: float
    decided_at: float


class Stall(msgspec.Struct, frozen=True):
    """How long a partition stood still, and from when on, in seconds from the start."""

    seconds: float
    at_s: float
    partition: int


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


async def decision_times(connection: Any) -> list[Times]:
    """By partition and offset."""
    return [Times(*row) for row in await connection.fetch(_TIMES)]


def recoveries(
    injected: Sequence[Injected],
    watcher: Watcher,
    times: Sequence[Times],
    accepted: Sequence[float],
    started: float,
    ended: float,
) -> list[Recovery]:
    """From SIGKILL or SIGTERM of a worker, and from Postgres' return. `accepted` are the moments of the 202s.

    A fault after which nothing more was accepted is left out: there may be nothing that could be decided again.
    """
    found = []
    for fault in injected:
        stopped = set(watcher.claims) if fault.kind == "restart_postgres" else set(fault.owned)
        if not stopped or fault.kind not in ("kill_worker", "stop_worker", "restart_postgres"):
            continue
        if fault.kind == "restart_postgres":
            start, since = fault.healed_at, dict.fromkeys(stopped, fault.healed_at)
        else:
            start, since = fault.at, watcher.taken_over(fault.owned.values())
        end = decided_again_at(times, since) if since.keys() == stopped else None
        if end is None and not any(moment > start for moment in accepted):
            continue
        until = end or ended
        recovery = Recovery(
            kind=fault.kind,
            at_s=round(start - started, 2),
            seconds=None if end is None else round(end - start, 2),
            partitions=len(stopped),
            alone=not any(f is not fault and f.at < until and start < f.healed_at for f in injected),
            accepted_per_s=round(per_s(accepted, start, until), 1),
        )
        found.append(recovery)
    return sorted(found, key=lambda recovery: recovery.at_s)


def decided_again_at(times: Sequence[Times], since: Mapping[int, float]) -> float | None:
    """When each of these partitions had begun to be decided since its time; None if one has not."""
    first: dict[int, float] = {}
    for message in times:
        if message.decided_at >= since.get(message.partition, inf):
            first.setdefault(message.partition, message.decided_at)
    return max(first.values()) if first and first.keys() == since.keys() else None


def deciding_stall(times: Sequence[Times], started: float) -> Stall:
    """The longest time in which a partition decided nothing although something waited in it."""
    longest, decided_until = Stall(0.0, 0.0, 0), defaultdict[int, float](float)
    for message in times:
        waited_from = max(decided_until[message.partition], message.accepted_at)
        seconds = message.decided_at - waited_from
        if seconds > longest.seconds:
            longest = Stall(round(seconds, 2), round(waited_from - started, 2), message.partition)
        decided_until[message.partition] = max(decided_until[message.partition], message.decided_at)
    return longest


def accepting_stall_s(accepted: Sequence[float], start: float, end: float) -> float:
    """The longest time without a 202 from `start` to `end`."""
    inside = [start, *sorted(moment for moment in accepted if start < moment < end), end]
    return max(later - earlier for earlier, later in pairwise(inside))


def per_s(moments: Sequence[float], start: float, end: float) -> float:
    return sum(start <= moment <= end for moment in moments) / max(end - start, 1e-9)
