"""What was done in a sale and what was told of it: the record that a history is checked by."""

from typing import Literal, NamedTuple

import msgspec

Outcome = Literal["ok", "fail", "unknown"]  # fail: it has had no effect; unknown: it may have


class Violation(msgspec.Struct, frozen=True):
    """One thing that must not be. `kind` is lost, duplicated, contradicted, out of order, never answered or never ended."""

    kind: str
    detail: str
    checkout_id: str = ""


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

    `payload` numbers the different contents that were sent under the key. `asked` is units by product, empty of what is
    malformed. `derived_id` is the checkout id that buyer and key give, told or not. Times are seconds since the epoch.
    """

    operation: int
    key: str
    payload: int
    well_formed: bool
    derived_id: str
    asked: dict[str, int]
    policy: str
    at: float
    until: float
    outcome: Outcome
    status: int = 0  # of the HTTP answer; 0 without one
    code: str = ""
    checkout_id: str = ""
    receipt: str = ""
    products: list[str] = []  # of a 409: what is sold out
    lines: list[Line] = []  # of a 202
    unread: str = ""  # the answer's body, if it cannot be understood; so for all operations

    @property
    def is_whole(self) -> bool:
        """Whether all or nothing of it is bought; of one product that is the same."""
        return self.policy == "all_or_nothing" and len(self.asked) > 1


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
    unread: str = ""

    @property
    def is_final(self) -> bool:
        return self.outcome == "ok" and self.status not in ("", "queued")


class Ask(msgspec.Struct, frozen=True):
    """One POST of a command, about an order or a product. Tries of one operation share `operation` and `key`: the
    Idempotency-Key, or the id of the provider's event. A buyer's repeats are operations with the same key.

    `event` of a payment is what it tells: "paid", "failed", or "wrong" for paid with a wrong amount.
    """

    operation: int
    actor: str
    action: str
    subject: str
    key: str
    at: float
    until: float
    outcome: Outcome
    status: int = 0  # of the HTTP answer; 0 without one
    code: str = ""
    event: str = ""
    order_status: str = ""  # of a 409: what the order is
    command_id: str = ""
    url: str = ""  # of a 202: where its end is told
    place: tuple[int, int] | None = None  # of a 202: partition and offset in the log of commands
    unread: str = ""


class AskPoll(msgspec.Struct, frozen=True):
    """One GET of what became of a command. `status` is empty without an answer."""

    operation: int
    command_id: str
    at: float
    until: float
    outcome: Outcome
    code: int = 0
    status: str = ""
    reason: str = ""
    unread: str = ""

    @property
    def is_final(self) -> bool:
        return self.outcome == "ok" and self.status not in ("", "queued")


class Look(msgspec.Struct, frozen=True):
    """One GET of an order by its buyer."""

    order_id: str
    at: float
    until: float
    outcome: Outcome
    code: int = 0
    status: str = ""
    payment: str = ""
    sequence: int = 0
    unread: str = ""


class History(msgspec.Struct):
    """All operations of a run. In `postgres_away` (from, until) two api processes may tell different places. For
    `sold_out_for_s` after stock has returned an ingest process may not have seen it.
    """

    submits: list[Submit] = []
    polls: list[Poll] = []
    asks: list[Ask] = []
    ask_polls: list[AskPoll] = []
    looks: list[Look] = []
    postgres_away: list[tuple[float, float]] = []
    sold_out_for_s: float = 0.0
