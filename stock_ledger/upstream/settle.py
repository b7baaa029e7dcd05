"""Making good with the second source what a batch has left open: returns first, then what became of requests."""

from collections import deque
from collections.abc import Iterable

import msgspec

from stock_ledger.upstream.source import (
    Answer,
    GiveBack,
    Granted,
    Outstanding,
    Reserve,
    StockSource,
    Unanswered,
    Unsettled,
    Why,
)

_MORE = "-more"  # ends the batch of a request for units that the first one did not bring


class Settled(msgspec.Struct, frozen=True):
    """How an unsettled request came out: what goes back, or how many units were sold beyond those that were granted."""

    give_back: GiveBack | None = None
    missing: int = 0


class Short(msgspec.Struct, frozen=True):
    """Units that were sold, and that the source does not have. Only people can make that good."""

    product_id: str
    batch: str
    units: int


class MadeGood(msgspec.Struct, frozen=True):
    """What is still open, to be tried again later, and what never can be made good."""

    outstanding: Outstanding
    short: list[Short]


def settle(unsettled: Unsettled, answer: Answer) -> Settled | None:
    """How it came out, by the answer to asking again with the same key; None if it has to be asked yet again."""
    if isinstance(answer, Unanswered):
        if answer.why is not Why.REJECTED:
            return None
        answer = Granted(0)  # it has done nothing, and will not
    request, surplus = unsettled.request, answer.units - unsettled.sold
    if surplus > 0:
        return Settled(GiveBack(request.product_id, f"unused-{request.batch}", surplus))
    return Settled(missing=-surplus)


async def make_good(source: StockSource, outstanding: Outstanding) -> MadeGood:
    """Do what is open, as far as the source answers. Doing the same again, after a crash, comes to the same end.

    Of each product in order: units that are not yet back could be the very ones that the next request needs. What a
    request did not bring for units that were sold is asked for once more when all else is done; only then they are short.
    """
    returning = list(outstanding.give_back)
    waiting: dict[str, deque[Unsettled]] = {}
    for item in outstanding.unsettled:
        waiting.setdefault(item.request.product_id, deque()).append(item)
    failed: list[GiveBack] = []
    silent: set[str] = set()
    short: list[Short] = []
    while True:
        answers = await source.give_back(returning) if returning else {}
        failed += [back for back in returning if answers[back.key()] is not None]
        returning = []
        blocked = silent | {back.product_id for back in failed}
        heads = [queue[0] for product_id, queue in waiting.items() if queue and product_id not in blocked]
        if not heads:
            return MadeGood(
                Outstanding(failed, [item for queue in waiting.values() for item in queue]), short
            )
        granted = await source.reserve([head.request for head in heads])
        for head in heads:
            product_id = head.request.product_id
            settled = settle(head, granted[product_id])
            if settled is None:
                silent.add(product_id)
                continue
            waiting[product_id].popleft()
            if settled.give_back is not None:
                returning.append(settled.give_back)
            elif settled.missing and head.request.batch.endswith(_MORE):
                short.append(Short(product_id, head.request.batch.removesuffix(_MORE), settled.missing))
            elif settled.missing:
                waiting[product_id].append(_more(head.request, settled.missing))


def against_short(returns: Iterable[GiveBack], short: Iterable[Short]) -> tuple[list[GiveBack], list[Short]]:
    """What goes back to the source of units that came back, and what is short from then on: units that were sold and never
    granted are not the source's.
    """
    left = list(short)
    going = []
    for back in returns:
        units = back.units
        for n, one in enumerate(left):
            if one.product_id == back.product_id:
                filled = min(units, one.units)
                units -= filled
                left[n] = msgspec.structs.replace(one, units=one.units - filled)
        if units:
            going.append(msgspec.structs.replace(back, units=units))
    return going, left


def _more(request: Reserve, missing: int) -> Unsettled:
    return Unsettled(Reserve(request.product_id, request.batch + _MORE, missing), missing)
