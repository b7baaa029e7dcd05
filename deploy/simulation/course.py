"""How far partitions were at what time: what a place in the queue that somebody is told is held against."""

import math
from bisect import bisect_right
from collections.abc import Iterable


class Course:
    """The highest next offset of each partition, by time: both only rise. Times are seconds."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self._steps = {p: [(-math.inf, 0)] for p in partitions}

    def reached(self, partition: int, next_offset: int, now: float) -> None:
        steps = self._steps[partition]
        if next_offset > steps[-1][1]:
            steps.append((now, next_offset))

    def at(self, partition: int, time: float) -> int:
        """How far it was then; 0 if it is not known to have got anywhere."""
        steps = self._steps[partition]
        return steps[bisect_right(steps, (time, math.inf)) - 1][1]

    def forget(self) -> None:
        """Nothing is known to have got anywhere."""
        for steps in self._steps.values():
            del steps[1:]
