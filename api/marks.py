"""How far each partition is decided, as far as this process has seen: what places in the queue are told from."""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from stock_ledger.view import Progress

CONFIRMED_FOR_S = 0.25  # a reading of Postgres serves every poll that comes this soon after
RECHECK_S = 1.0  # while the view stands still, ask Postgres this often


class _Mark(msgspec.Struct):
    next_offset: int = 0
    decided_per_s: int = 0
    beat: tuple[int, int] | None = None  # epoch and beat last seen in the view
    moved_at: float = 0.0  # when the beat was last seen to change
    confirmed_until: float = 0.0
    recheck_at: float = 0.0


class Marks:
    """The highest next offset seen of each partition: it only rises, so no place in the queue ever grows, also when
    the view falls back to older data. Times are seconds of `monotonic`.
    """

    def __init__(self, stale_s: float, monotonic: Callable[[], float]) -> None:
        self._stale_s = stale_s
        self._monotonic = monotonic
        self._marks: dict[int, _Mark] = {}

    def next_offset(self, partition: int) -> int:
        """Everything below it is decided; 0 while nothing is known."""
        return self._mark(partition).next_offset

    def decided_per_s(self, partition: int) -> int:
        """Messages per second as the writer measured; 0 while it is not known."""
        return self._mark(partition).decided_per_s

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

    def confirmed(self, partitions: Iterable[int], next_offsets: Mapping[int, int]) -> None:
        """Take in what Postgres holds of `partitions`; one that is absent was never claimed."""
        until = self._monotonic() + CONFIRMED_FOR_S
        for partition in partitions:
            mark = self._mark(partition)
            mark.next_offset = max(mark.next_offset, next_offsets.get(partition, 0))
            mark.confirmed_until = until

    def unknown(self, partitions: Iterable[int], progress: Mapping[int, Progress]) -> set[int]:
        """Those that neither the view shows nor Postgres has just told: they must be asked for."""
        now = self._monotonic()
        lacking = {p for p in partitions if p not in progress}
        for partition in lacking:
            self._mark(partition).decided_per_s = 0
        return {p for p in lacking if now >= self._mark(p).confirmed_until}

    def standing(self, partitions: Iterable[int], progress: Mapping[int, Progress]) -> set[int]:
        """Those whose view has stood still for too long: its writer may not reach the cache, or decide nothing.

        Each is told once per RECHECK_S, as one reading of Postgres answers for all polls.
        """
        now = self._monotonic()
        due = set()
        for partition in partitions:
            mark = self._mark(partition)
            if partition in progress and now - mark.moved_at >= self._stale_s:
                mark.decided_per_s = 0
                if now >= mark.recheck_at:
                    mark.recheck_at = now + RECHECK_S
                    due.add(partition)
        return due

    def _mark(self, partition: int) -> _Mark:
        return self._marks.setdefault(partition, _Mark())
