"""What an audit found: laws, their deviations, totals. No I/O."""

from typing import Any

import msgspec
import orjson

DEVIATIONS_KEPT_MAX = 1000  # per law; all are counted


class Deviation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as a law says, with whatever tells where it lies."""

    detail: str
    product_id: str = ""
    checkout_id: str = ""
    partition: int | None = None
    offset: int | None = None


class Law(msgspec.Struct):
    """A law, how many things were held against it, and those that break it.

    `not_checkable` things could not be judged; `note` says why. `deviations` holds the first 1000 of
    `deviation_count`.
    """

    code: str
    title: str
    checked: int = 0
    not_checkable: int = 0
    note: str = ""
    deviation_count: int = 0
    deviations: list[Deviation] = msgspec.field(default_factory=list)

    def deviate(
        self,
        detail: str,
        *,
        product_id: str = "",
        checkout_id: str | None = None,
        place: tuple[int, int | None] | None = None,
    ) -> None:
        self.deviation_count += 1
        if len(self.deviations) < DEVIATIONS_KEPT_MAX:
            partition, offset = place if place is not None else (None, None)
            self.deviations.append(Deviation(detail, product_id, checkout_id or "", partition, offset))

    def skip(self, count: int, why: str) -> None:
        """`count` things cannot be judged, because of `why`. The reasons given are all kept, each once."""
        self.not_checkable += count
        if count and why not in self.note:
            self.note = f"{self.note}; {why}" if self.note else why

    @property
    def ok(self) -> bool:
        return self.deviation_count == 0


class Totals(msgspec.Struct):
    """The sale in figures. `lost` messages were accepted but have no decision; `oversold` is in units; `commands` by outcome.

    `forwarded` lines were sent on between slices; `units_moving` are on their way between two.
    """

    messages: int = 0
    decided: int = 0
    created: int = 0
    refused: dict[str, int] = msgspec.field(default_factory=dict)
    repeated: int = 0
    conflicts: int = 0
    dead_lettered: int = 0
    lost: int = 0
    oversold: int = 0
    units_sold: int = 0
    products: int = 0
    orders: int = 0
    events: int = 0
    redelivered_events: int = 0
    results_shown: int = 0
    held: int = 0
    forwarded: int = 0
    units_moving: int = 0
    commands: dict[str, int] = msgspec.field(default_factory=dict)


class AuditReport(msgspec.Struct):
    """All laws in a fixed order. `ok`: none is broken."""

    ok: bool
    laws: list[Law]
    totals: Totals
    duration_s: float

    def law(self, code: str) -> Law:
        """The law with this code. Raises KeyError if there is none."""
        for law in self.laws:
            if law.code == code:
                return law
        raise KeyError(code)

    def broken(self) -> list[str]:
        """Codes of the laws that have deviations."""
        return [law.code for law in self.laws if not law.ok]

    def to_json(self) -> bytes:
        document: dict[str, Any] = msgspec.to_builtins(self)
        return orjson.dumps(document, option=orjson.OPT_INDENT_2)
