"""When checkouts are turned away because their writer is behind, and when they are asked to come again."""

import math
from collections.abc import Callable, Iterable, Mapping

import msgspec

from contracts.errors import BacklogFull
from contracts.settings import Settings
from contracts.topics import partition_of
from stock_ledger.view import Progress

_FADE = 0.95  # of what came in lately, with every look at the view


class Policy(msgspec.Struct, frozen=True):
    """How far a writer may be behind, in messages (0 is without limit), and the longest wait that is told."""

    lag_max: int
    wait_max_s: float

    def is_behind(self, lag: int) -> bool:
        return 0 < self.lag_max < lag

    def turn_at(
        self, lag: int, decided_per_s: int, turns_per_s: float, now: float, last_turn_at: float
    ) -> float:
        """When the next one that is turned away may come again.

        By then, at the measured rate, the lag is down to the limit, and all who were turned away before have had
        their turn, so many per second: they come back one after the other, not all at once. `wait_max_s` from now if
        the rate is not known.
        """
        latest = now + self.wait_max_s
        if decided_per_s <= 0:
            return latest
        free_at = now + (lag - self.lag_max) / decided_per_s
        return min(max(free_at, last_turn_at) + 1 / turns_per_s, latest)


class _Partition(msgspec.Struct):
    end: int = 0  # after the newest message that is known to be in the log
    ours: float = 1.0  # messages of this process and of others that came in lately
    theirs: float = 0.0
    next_offset: int | None = None  # everything below it is decided; None is not known
    seen_offset: int = 0  # the last one that was known
    decided_per_s: int = 0
    last_turn_at: float = -math.inf

    def lag(self) -> int:
        return 0 if self.next_offset is None else self.end - self.next_offset

    def turns_per_s(self) -> float:
        """What is decided for the clients of this process, if they go on as they came."""
        return self.decided_per_s * self.ours / (self.ours + self.theirs)


class Backpressure:
    """Knows which partitions are behind: the log's end from this process's own acknowledgements, the rest from the
    view. Offsets count what every process wrote, so an own acknowledgement tells of all messages before it.

    Fails open: what no cache tells is not behind.
    """

    def __init__(self, settings: Settings, monotonic: Callable[[], float]) -> None:
        self._policy = Policy(settings.lag_max, settings.retry_after_max_s)
        self._monotonic = monotonic
        self._partitions = {p: _Partition() for p in range(settings.partitions)}
        self._behind: set[int] = set()

    def acknowledged(self, partition: int, base: int, count: int) -> None:
        """`count` messages of this process lie in the log, from offset `base` on; what lies before is there too."""
        known = self._partitions[partition]
        known.ours += count
        known.theirs += max(0, base - known.end) if known.end else 0
        known.end = max(known.end, base + count)
        if self._policy.is_behind(known.lag()):
            self._behind.add(partition)

    def shown(self, progress: Mapping[int, Progress], living: Iterable[int]) -> None:
        """Take in all that the view shows; the rate of a writer that is not seen to live is not known.

        A writer that goes back was set back, as the log may have been: the next acknowledgement tells its end. While all
        were turned away for the end of a log that is gone, none would come.
        """
        alive = set(living)
        for partition, known in self._partitions.items():
            known.ours, known.theirs = _FADE * known.ours, _FADE * known.theirs
            told = progress.get(partition)
            known.next_offset = None if told is None else told.next_offset
            if told is not None:
                if told.next_offset < known.seen_offset:
                    known.end = 0
                known.seen_offset = told.next_offset
            known.decided_per_s = told.decided_per_s if told is not None and partition in alive else 0
        self._behind = {p for p, known in self._partitions.items() if self._policy.is_behind(known.lag())}

    def check_any(self) -> None:
        """Raise BacklogFull if every partition is behind: whatever comes would be turned away."""
        if len(self._behind) == len(self._partitions):
            self._turn_away(self._behind)

    @property
    def is_on(self) -> bool:
        """Whether any partition is behind."""
        return bool(self._behind)

    def check(self, stock_ids: Iterable[str]) -> None:
        """Raise BacklogFull if the partition of one of these stock ids is behind."""
        if behind := self._behind.intersection(self._places(stock_ids)):
            self._turn_away(behind)

    def check_slices(self, stock_ids: Iterable[str]) -> None:
        """Raise BacklogFull if the partitions of all these slices are behind; the one whose turn comes first has it."""
        places = set(self._places(stock_ids))
        if places <= self._behind:
            self._turn_away([min(places, key=lambda p: self._partitions[p].last_turn_at)])

    def _places(self, stock_ids: Iterable[str]) -> Iterable[int]:
        count = len(self._partitions)
        return (partition_of(i, count) for i in stock_ids)

    def _turn_away(self, behind: Iterable[int]) -> None:
        now = self._monotonic()
        for p in behind:
            known = self._partitions[p]
            known.last_turn_at = self._policy.turn_at(
                known.lag(), known.decided_per_s, known.turns_per_s(), now, known.last_turn_at
            )
        wait_s = max(self._partitions[p].last_turn_at for p in behind) - now
        raise BacklogFull("more checkouts wait for their decision than may", max(1, math.ceil(wait_s)))
