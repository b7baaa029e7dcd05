"""What the proof came to, and whether it held."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from deploy.overload.load import Outcome

# Resident memory that no process may exceed, in MB, with the settings' defaults and the load of this proof.
MEMORY_MAX_MB = {"ingest": 300, "worker": 400, "api": 200, "streams": 400}
DRAIN_SHARE_MIN = 0.75  # of what a backlog without a burst before it drains at, for that of the burst
AGAIN_SHARE_MIN = 0.9  # of all who come again when they were told to must be taken in

_PATIENCE_MS = 1000.0  # sustained: 99 of 100 answered sooner, and no more waiting than comes in in that time


class Look(msgspec.Struct, frozen=True):
    """At a time of the monotonic clock: messages decided, and in the log without a decision."""

    at: float
    decided: int
    lag: int

    @property
    def end(self) -> int:
        """Of the log, in messages."""
        return self.decided + self.lag


class Result(msgspec.Struct):
    """What came out; `overload --json` writes it. Rates per second, None if not measured, memory in MB, times in
    milliseconds.
    """

    lag_max: int
    factor: float  # of what is sustained, that the burst is to be
    sustained_per_s: float = 0.0
    burst: Outcome = msgspec.field(default_factory=Outcome)
    decided_in_burst_per_s: float | None = None
    lag_peak: int = 0
    drain_before_per_s: float | None = None
    drain_after_per_s: float | None = None
    drain_later_per_s: float | None = None  # of a backlog made by hand when the burst's was gone
    coming_again: Outcome = msgspec.field(default_factory=Outcome)
    restarts: Outcome = msgspec.field(default_factory=Outcome)
    restarted: dict[str, int] = msgspec.field(default_factory=dict)
    told: int = 0  # lines of 202s, and those of them that are decided where they were told to lie
    kept: int = 0
    memory_mb: dict[str, float] = msgspec.field(default_factory=dict)  # the largest of each process
    audit_ok: bool = False
    looks: list[Look] = msgspec.field(default_factory=list)  # every half second of the whole proof
    failures: list[str] = msgspec.field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def reached(self) -> float:
        """Of the burst, what the edge has answered meanwhile: so many times what is sustained."""
        return self.burst.answered_per_s / self.sustained_per_s if self.sustained_per_s else 0.0


def decided_per_s(looks: Sequence[Look], seconds: float) -> float | None:
    """Messages decided per second while others came in: for so long from the look at which the log was first seen to have
    grown. None if not seen twice meanwhile.
    """
    grown = [look for look in looks if look.end > looks[0].end]
    meanwhile = [look for look in grown if look.at < grown[0].at + seconds]
    if len(meanwhile) < 2:
        return None
    first, last = meanwhile[0], meanwhile[-1]
    return (last.decided - first.decided) / (last.at - first.at)


def is_sustained(outcome: Outcome, lag: int, per_s: float) -> bool:
    """All taken in, 99 of 100 within a second, and never more waiting than come in a second."""
    return outcome.all_taken_in(_PATIENCE_MS) and lag < per_s * _PATIENCE_MS / 1000


def describe(outcome: Outcome) -> str:
    """What became of the requests, in a line."""
    told = [f"{count:,} × {status}" for status, count in sorted(outcome.statuses.items())]
    told += [
        f"{count:,} {name}"
        for name, count in (
            ("cut", outcome.cut),
            ("unanswered", outcome.unanswered),
            ("given up unsent", outcome.given_up),
        )
        if count
    ]
    p99 = outcome.since_due_ms.get("202", {}).get("p99", 0.0)
    return f"{', '.join(told)}; 202 within {p99:,.0f} ms (p99)"


def rate(per_s: float | None) -> str:
    return "not measured" if per_s is None else f"{per_s:,.0f}/s"


def judge(result: Result, members: Iterable[str]) -> list[str]:
    """What did not hold. `members` are the names of all processes that took part."""
    return [
        *_kept(result),
        *_answered("burst", result.burst),
        *_answered("coming again", result.coming_again),
        *_answered("restarts", result.restarts),
        *_overloaded(result),
        *_bounded(result, members),
    ]


def _kept(result: Result) -> Iterator[str]:
    if result.kept != result.told:
        yield f"{result.told - result.kept} of {result.told} accepted lines are not decided"
    if not result.audit_ok:
        yield "the audit does not hold"


def _answered(phase: str, outcome: Outcome) -> Iterator[str]:
    if outcome.cut or outcome.unanswered:
        yield f"{phase}: {outcome.cut} requests cut off, {outcome.unanswered} unanswered"
    if strange := {*outcome.statuses, *outcome.again} - {"202", "503"}:
        yield f"{phase}: answers with status {', '.join(sorted(strange))}"


def _overloaded(result: Result) -> Iterator[str]:
    if not result.burst.statuses.get("503"):
        yield "nobody was turned away in the burst: it was no overload"
    if result.reached <= 1:
        yield (
            f"the burst reached the edge with {result.burst.answered_per_s:,.0f}/s, {result.reached:.1f} times what is "
            f"sustained: {result.burst.given_up:,} requests were given up unsent, and it was no overload"
        )
    again, due_again = result.coming_again.again, result.coming_again.due_again
    if again.get("202", 0) < AGAIN_SHARE_MIN * due_again or not due_again:
        yield f"of {due_again} who came again when told to, too few were taken in: {again}"
    after, later = result.drain_after_per_s, result.drain_later_per_s
    if after is None or later is None or after < DRAIN_SHARE_MIN * later:
        yield f"drained {rate(after)} after the burst, {rate(later)} later"


def _bounded(result: Result, members: Iterable[str]) -> Iterator[str]:
    for name in members:
        role = name.rsplit("-", 1)[0]
        mb = result.memory_mb.get(name)
        if not mb:
            yield f"{name} was not weighed"
        elif mb > MEMORY_MAX_MB[role]:
            yield f"{name} took {mb:.0f} MB"
        if role in ("ingest", "worker") and name not in result.restarted:
            yield f"{name} was not restarted"
