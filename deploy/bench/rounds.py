"""What the rounds of a suite come to: medians, ratios with their spread, and whether a goal is met. Pure."""

import statistics
from collections.abc import Iterable, Sequence

import msgspec

Pairs = Sequence[tuple[float, float]]  # of each round: measured, and what it is held against


class Goal(msgspec.Struct, frozen=True):
    """What a ratio is to be at least, or at most."""

    ratio: float
    at_most: bool = False

    def is_met(self, ratio: float) -> bool:
        return ratio <= self.ratio if self.at_most else ratio >= self.ratio

    def share(self, ratio: float) -> float:
        """How much of the goal is reached: 1 and more is met, whichever way it is to be passed."""
        if not self.at_most:
            return ratio / self.ratio
        return self.ratio / ratio if ratio else float("inf")

    def text(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {figure(self.ratio)}"


class Row(msgspec.Struct, frozen=True):
    """A figure beside another, medians of the rounds; `ratio` is the median of the rounds' ratios.

    `unit` is of both figures: "/s", "ms", "µs", "MB" or "B". A row without a goal is told for itself.
    """

    suite: str
    what: str
    unit: str
    measured: float
    beside: str
    other: float
    ratio: float
    ratio_min: float
    ratio_max: float
    rounds: int
    goal: Goal | None = None

    @property
    def met(self) -> bool | None:
        """None without a goal."""
        return None if self.goal is None else self.goal.is_met(self.ratio)


def row(suite: str, what: str, unit: str, beside: str, pairs: Pairs, goal: Goal | None = None) -> Row:
    """The medians of both sides, and of the ratios of each round with their spread."""
    ratios = [_ratio(measured, other) for measured, other in pairs]
    return Row(
        suite,
        what,
        unit,
        statistics.median(measured for measured, _ in pairs),
        beside,
        statistics.median(other for _, other in pairs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        len(pairs),
        goal,
    )


def at_least(suite: str, what: str, unit: str, values: Iterable[float], wanted: float) -> Row:
    """Held against a fixed figure that is to be reached."""
    return row(suite, what, unit, "wanted", [(value, wanted) for value in values], Goal(1.0))


WITHIN = Goal(1.0, at_most=True)


def at_most(
    suite: str,
    what: str,
    unit: str,
    values: Iterable[float],
    allowed: float,
    *,
    goal: Goal | None = WITHIN,
) -> Row:
    """Held against a fixed figure that is not to be exceeded."""
    return row(suite, what, unit, "allowed", [(value, allowed) for value in values], goal)


class Ramp:
    """Finds the highest rate that holds, in steps of a factor; `tries` failures at a rate end it.

    One bad moment of the machine is not the limit, so a rate is tried again before it counts as too much. Where not
    even the first holds, the ramp begins at half of it, as long as that is not below `lowest_per_s`.
    """

    def __init__(
        self, first_per_s: float, factor: float, tries: int = 2, lowest_per_s: float = float("inf")
    ) -> None:
        self.per_s = first_per_s
        self.best_per_s = 0.0  # 0 while none has held
        self._factor = factor
        self._tries = tries
        self._lowest_per_s = lowest_per_s
        self._failed = 0

    @property
    def is_over(self) -> bool:
        return self._failed >= self._tries

    def tell(self, *, held: bool) -> None:
        """How it went at `per_s`, which is the next to be tried afterwards."""
        if not held:
            self._failed += 1
            if self.is_over and not self.best_per_s and self.per_s / 2 >= self._lowest_per_s:
                self.per_s, self._failed = self.per_s / 2, 0
            return
        self._failed = 0
        self.best_per_s = self.per_s
        self.per_s *= self._factor


def figure(value: float) -> str:
    """Three significant digits and no more decimals than tell anything; thousands set apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _ratio(measured: float, other: float) -> float:
    return measured / other if other else 0.0
