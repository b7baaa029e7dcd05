"""How far each partition is decided, as far as this process has seen: what places in the queue are told from."""

import math
from collections.abc import Callable, Iterable, Mapping

import msgspec

from stock_ledger.reads import Position
from stock_ledger.view import Progress

CONFIRMED_FOR_S = 0.25  # a reading of Postgres serves every poll that comes this soon after
AWAY_FOR_S = 1.0  # and one that failed holds off the next


class _Mark(msgspec.Struct):
    next_offset: int = 0
    decided_per_s: int = 0
    beat: tuple[int, int] | None = None  # epoch and beat last seen in the view
    moved_at: float = 0.0  # when the beat was last seen to change
    asked_at: float = -math.inf  # when Postgres was asked for what it last told
    away_until: float = 0.0  # before that it is not asked again
    is_away: bool = False  # it did not answer when it was asked last
    in_doubt: bool = True  # Postgres has told nothing that it was asked since the view was last found gone


class Marks:
    """The highest next offset seen of each partition: it only rises, so no place in the queue ever grows, also when
    the view falls back to older data. Times are seconds of `monotonic`.

    The view alone is no ground to say that something waits: after a failover it may be behind what another replica
    has told. So Postgres is asked as well, once per CONFIRMED_FOR_S for all polls. While it is away nothing is
    decided, and a view that never was gone is right.
    """

    def __init__(self, stale_s: float, monotonic: Callable[[], float]) -> None:
        self._stale_s = stale_s
        self._monotonic = monotonic
        self._marks: dict[int, _Mark] = {}
        self._doubted_at = -math.inf  # when the view was last found gone

    def next_offset(self, partition: int) -> int:
        """Everything below it is decided; 0 while nothing is known."""
        return self._mark(partition).next_offset

    def decided_per_s(self, partition: int) -> int:
        """Messages per second as the writer measured; 0 while it is not known, or its view stands still."""
        mark = self._mark(partition)
        return mark.decided_per_s if self._monotonic() - mark.moved_at < self._stale_s else 0

    def shown(self, progress: Mapping[int, Progress]) -> None:
        """Take in what the view shows."""
        now = self._monotonic()
        for partition, told in progress.items():
            mark = self._mark(partition)
            mark.next_offset = max(mark.next_offset, told.next_offset)
            mark.decided_per_s = told.decided_per_s
            if mark.beat != (told.epoch, told.beat):
                mark.beat = (told.epoch, told.beat)
                mark.moved_at = now

    def decided(self, positions: Iterable[Position]) -> None:
        """Take in that these positions have their decision."""
        for partition, offset in positions:
            mark = self._mark(partition)
            mark.next_offset = max(mark.next_offset, offset + 1)

    def due(self, partitions: Iterable[int], since: float) -> set[int]:
        """Those of which Postgres is to be asked, for a poll that came at `since`."""
        now = self._monotonic()
        return {
            p
            for p in partitions
            if self._mark(p).asked_at < since - CONFIRMED_FOR_S and now >= self._mark(p).away_until
        }

    def asking(self, partitions: Iterable[int]) -> float:
        """Postgres is being asked, now. Where it was away, the other polls do not wait for the answer."""
        now = self._monotonic()
        for partition in partitions:
            mark = self._mark(partition)
            if mark.is_away:
                mark.away_until = now + AWAY_FOR_S
        return now

    def confirmed(self, partitions: Iterable[int], next_offsets: Mapping[int, int], asked_at: float) -> None:
        """Take in what Postgres, asked at this time, holds of `partitions`; one that is absent was never claimed."""
        for partition in partitions:
            mark = self._mark(partition)
            mark.next_offset = max(mark.next_offset, next_offsets.get(partition, 0))
            mark.asked_at, mark.away_until, mark.is_away = asked_at, 0.0, False
            mark.in_doubt = mark.in_doubt and asked_at < self._doubted_at

    def away(self, partitions: Iterable[int]) -> None:
        """Postgres did not answer."""
        until = self._monotonic() + AWAY_FOR_S
        for partition in partitions:
            mark = self._mark(partition)
            mark.away_until, mark.is_away = until, True

    def doubt(self) -> None:
        """The view was gone: when it is back it may be behind."""
        self._doubted_at = self._monotonic()
        for mark in self._marks.values():
            mark.in_doubt = True

    def untold(self, partitions: Iterable[int], progress: Mapping[int, Progress]) -> list[int]:
        """Those of which Postgres does not answer, and the view is not there or may be behind."""
        return [
            p for p in partitions if self._mark(p).is_away and (p not in progress or self._mark(p).in_doubt)
        ]

    def _mark(self, partition: int) -> _Mark:
        mark = self._marks.get(partition)
        if mark is None:
            mark = self._marks[partition] = _Mark()
        return mark
