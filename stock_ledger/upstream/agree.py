"""Whether local stock and the second source agree: pure, over what both said and what is still on its way."""

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from stock_ledger.upstream.source import GiveBack, Unanswered, Unsettled


class Finding(StrEnum):
    """In which way they differ."""

    SOURCE_HAS_LESS = "source_has_less"
    SOURCE_HAS_MORE = "source_has_more"
    NOT_TOLD = "not_told"


_ADVICE = {
    Finding.SOURCE_HAS_LESS: "the source could not fill what is offered here: adjust the local stock down by the "
    "difference, and see what else took units from the source",
    Finding.SOURCE_HAS_MORE: "the source has units that are not offered here: restock by the difference, or book in the "
    "source what was taken without it",
    Finding.NOT_TOLD: "the source did not answer: compare again when it does",
}


class Difference(msgspec.Struct, frozen=True):
    """A product of which the two do not agree. `units` is how far the source is from what it should have.

    `expected` is the range that the source's stock should be in: one number, but for what is still on its way.
    """

    product_id: str
    finding: Finding
    local: int
    source: int | None
    expected: tuple[int, int]
    units: int
    advice: str
    detail: str = ""


def differences(
    local: Mapping[str, int],
    source: Mapping[str, int | Unanswered],
    unsettled: Iterable[Unsettled] = (),
    returning: Iterable[GiveBack] = (),
) -> list[Difference]:
    """Where the two differ, by product.

    `local` are units available here of every product that has a second source, `source` what it says it has,
    `unsettled` the requests whose outcome is not known, `returning` what is on its way back to it. All are to be of
    one moment: while a sale runs, look twice and act on what is found both times.
    """
    expected = {product_id: (units, units) for product_id, units in local.items()}
    for item in unsettled:
        _move(expected, item.request.product_id, item.sold - item.request.units, item.sold)
    for back in returning:
        _move(expected, back.product_id, -back.units, 0)
    found = []
    for product_id, units in sorted(local.items()):
        said, between = source[product_id], expected[product_id]
        if isinstance(said, Unanswered):
            why = f"{said.why}: {said.detail}"
            found.append(_difference(product_id, Finding.NOT_TOLD, units, None, between, detail=why))
        elif said < between[0]:
            found.append(_difference(product_id, Finding.SOURCE_HAS_LESS, units, said, between))
        elif said > between[1]:
            found.append(_difference(product_id, Finding.SOURCE_HAS_MORE, units, said, between))
    return found


def _move(expected: dict[str, tuple[int, int]], product_id: str, least: int, most: int) -> None:
    if product_id in expected:
        low, high = expected[product_id]
        expected[product_id] = (low + least, high + most)


def _difference(
    product_id: str,
    finding: Finding,
    local: int,
    source: int | None,
    expected: tuple[int, int],
    detail: str = "",
) -> Difference:
    low, high = expected
    units = 0 if source is None else max(low - source, source - high)
    return Difference(product_id, finding, local, source, expected, units, _ADVICE[finding], detail)
