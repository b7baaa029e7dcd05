"""What the buyers of a sale did and were told: the record that a history is checked by."""

from typing import Literal, NamedTuple

import msgspec

Outcome = Literal["ok", "fail", "unknown"]  # fail: it has had no effect; unknown: it may have


class Line(NamedTuple):
    """A line of a 202, and where it lies in the log."""

    product_id: str
    quantity: int
    partition: int
    offset: int


class Told(NamedTuple):
    """A line of a final answer. The place is where it was decided."""

    line: int
    status: str
    partition: int
    offset: int
    product_id: str
    reason: str
    order_id: str


class Submit(msgspec.Struct, frozen=True):
    """One POST. Tries of one operation share `operation`; a buyer's repeats are operations with the same key.

    `payload` numbers the different contents that were sent under the key. Times are seconds since the epoch.
    """

    operation: int
    key: str
    payload: int
    well_formed: bool
    at: float
    until: float
    outcome: Outcome
    status: int = 0  # of the HTTP answer; 0 without one
    code: str = ""
    checkout_id: str = ""
    receipt: str = ""
    products: list[str] = []  # of a 409: what is sold out
    lines: list[Line] = []  # of a 202


class Poll(msgspec.Struct, frozen=True):
    """One GET of a checkout's status, by the receipt of the operation if it has one. `told` is empty while it is queued."""

    operation: int
    checkout_id: str
    api: str
    at: float
    until: float
    outcome: Outcome
    code: int = 0
    status: str = ""
    ahead: int | None = None
    told: list[Told] = []

    @property
    def is_final(self) -> bool:
        return self.outcome == "ok" and self.status not in ("", "queued")


class History(msgspec.Struct):
    """All operations of a run. In `postgres_away` (from, until) two api processes may tell different places."""

    submits: list[Submit] = []
    polls: list[Poll] = []
    postgres_away: list[tuple[float, float]] = []
