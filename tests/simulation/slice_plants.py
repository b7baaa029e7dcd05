"""Bugs planted one at a time in what slices do: each takes a guarantee away, and the simulation must find it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any
from unittest.mock import patch

import msgspec

from contracts.commands import Move, TakeIn, TakeOver
from contracts.decisions import Decision
from contracts.messages import CheckoutLine
from contracts.outcomes import Kind, Reason
from contracts.slices import slice_of
from ingest.gate import SoldOutGate
from stock_ledger import decide as deciding
from stock_ledger.batch import Decided, Loaded, Product, Received
from stock_ledger.commands import obey as obeying
from stock_ledger.commands.book import Told
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.commands.work import Work
from stock_ledger.fakes import MemoryLedger
from stock_ledger.view import Shown
from workers import lines as deciding_lines
from workers.lines import LineLane

Plant = Callable[[], AbstractContextManager[Any]]


def forwarded_not_sent_again_at_a_claim() -> AbstractContextManager[Any]:
    """What a writer that was killed had still to send on is lost."""

    async def publish_again(self: LineLane, partition: int, start: int, end: int) -> None:
        decisions = await self._ledger.decisions(partition, start, end)
        told = self._tell([d for d in decisions if d.kind is not Kind.FORWARDED])
        await self._shelf.show((), told.results)
        await self._publish(told)

    return patch.object(LineLane, "publish_again", publish_again)


def forwarded_sent_after_the_commit_of_its_offset() -> AbstractContextManager[Any]:
    original = LineLane._finish

    async def finish(self: LineLane, draft: Any, shown: Sequence[Any]) -> None:
        decisions = draft.decided.decisions
        others = [d for d in decisions if d.kind is not Kind.FORWARDED]
        without = msgspec.structs.replace(draft.decided, decisions=others)
        await original(self, msgspec.structs.replace(draft, decided=without), shown)
        await self._publish(self._tell([d for d in decisions if d.kind is Kind.FORWARDED]))

    return patch.object(LineLane, "_finish", finish)


def forwarded_again_and_again() -> AbstractContextManager[Any]:
    """A line that was forwarded is forwarded like any other."""
    original = deciding._onward

    def onward(
        line: CheckoutLine, product: Product, loaded: Loaded, reason: Reason | None
    ) -> CheckoutLine | None:
        return original(msgspec.structs.replace(line, forwarded=False), product, loaded, reason)

    return patch.object(deciding, "_onward", onward)


def decided_where_it_was_forwarded_too() -> AbstractContextManager[Any]:
    """What is forwarded for stock is refused here as well."""
    original = LineLane._tell

    def tell(self: LineLane, decisions: Sequence[Decision]) -> Any:
        told = original(self, decisions)
        refused = [
            msgspec.structs.replace(d, kind=Kind.REFUSED, reason=Reason.SOLD_OUT, detail="")
            for d in decisions
            if d.kind is Kind.FORWARDED and '"forwarded":true' in d.detail
        ]
        also = original(self, refused)
        return told._replace(results=[*told.results, *also.results])

    return patch.object(LineLane, "_tell", tell)


def repeats_of_what_was_sent_on_not_known() -> AbstractContextManager[Any]:
    original = MemoryLedger.load

    async def load(self: MemoryLedger, need: Any, entries: Any) -> Loaded:
        return msgspec.structs.replace(await original(self, need, entries), forwarded={})

    return patch.object(MemoryLedger, "load", load)


def settled_in_another_slice_not_known() -> AbstractContextManager[Any]:
    """A copy of a line that was decided before the product was split is decided once more, by its buyer's new slice."""
    return patch.object(deciding, "_other_that_decided", lambda line, product, loaded: None)


def limit_of_each_slice_for_itself() -> AbstractContextManager[Any]:
    """What another slice sold to the buyer since it was loaded does not matter."""

    def sold_meanwhile(
        self: Loaded, sums: Mapping[tuple[str, str], int], decided: Decided
    ) -> list[tuple[str, str]]:
        return []

    return patch.object(Loaded, "sold_meanwhile", sold_meanwhile)


def moved_out_and_never_in() -> AbstractContextManager[Any]:
    """The slice that takes units in forgets to."""
    return patch.dict(obeying.HANDLERS, {TakeIn: lambda work, command: None})


def moved_out_and_not_told() -> AbstractContextManager[Any]:
    original = obeying.HANDLERS[Move]

    def move(work: Work, command: Move) -> Any:
        with patch.object(Work, "ask", lambda self, asked: None):
            return original(work, command)

    return patch.dict(obeying.HANDLERS, {Move: move})


def entries_not_told_again() -> AbstractContextManager[Any]:
    """At a claim, the other slices are not told of the catalogue entry a second time."""
    original = MemoryCommandLedger.told

    async def told(self: MemoryCommandLedger, partition: int, start: int, end: int) -> list[Told]:
        found = await original(self, partition, start, end)
        return [
            msgspec.structs.replace(t, commands=[c for c in t.commands if b'"take_over"' not in c[2]])
            for t in found
        ]

    return patch.object(MemoryCommandLedger, "told", told)


def units_handed_on_as_well() -> AbstractContextManager[Any]:
    """Who takes over keeps the units that come to it, and hands them on just the same."""
    original = obeying.HANDLERS[TakeOver]

    def take_over(work: Work, command: TakeOver) -> Any:
        return original(work, msgspec.structs.replace(command, hand_on=True))

    return patch.dict(obeying.HANDLERS, {TakeOver: take_over})


def units_lost_with_an_entry_that_is_not_newer() -> AbstractContextManager[Any]:
    """An entry that the slice has already is left alone, with all that came with it."""
    original = obeying.HANDLERS[TakeOver]

    def take_over(work: Work, command: TakeOver) -> Any:
        known = work.book.products.get(command.product_id)
        return original(work, command) if known is None or known.version < command.version else None

    return patch.dict(obeying.HANDLERS, {TakeOver: take_over})


def slices_shown_before_they_open() -> AbstractContextManager[Any]:
    """The edge sends lines to slices that are not there yet."""

    def shown(self: Shown) -> dict[str, int]:
        return {i: p.slices for i, p in self.products.items() if p.slices > 1 and not slice_of(i)}

    return patch.object(Shown, "slices", shown)


def slices_open_before_they_are_there() -> AbstractContextManager[Any]:
    """The first slice passes lines on as soon as it knows of others."""
    original = deciding.decide

    def decide(batch: Iterable[Received], loaded: Loaded, now: datetime) -> Decided:
        products = {i: msgspec.structs.replace(p, slices_open=True) for i, p in loaded.products.items()}
        return original(batch, msgspec.structs.replace(loaded, products=products), now)

    return patch.object(deciding_lines, "decide", decide)


def gate_shuts_with_the_first_slice() -> AbstractContextManager[Any]:
    """A product is told to be sold out though other slices have some."""
    return patch.object(SoldOutGate, "_are_other_slices_sold_out", lambda self, product_id: True)


def lines_of_higher_slices_decided_here() -> AbstractContextManager[Any]:
    """A slice decides what comes to it, whoever its buyer is."""
    return patch.object(deciding, "slice_of_buyer", lambda buyer_id, slices: 0)


SLICE_PLANTS: tuple[Plant, ...] = (
    forwarded_not_sent_again_at_a_claim,
    forwarded_sent_after_the_commit_of_its_offset,
    forwarded_again_and_again,
    decided_where_it_was_forwarded_too,
    repeats_of_what_was_sent_on_not_known,
    settled_in_another_slice_not_known,
    limit_of_each_slice_for_itself,
    moved_out_and_never_in,
    moved_out_and_not_told,
    entries_not_told_again,
    units_handed_on_as_well,
    units_lost_with_an_entry_that_is_not_newer,
    slices_shown_before_they_open,
    slices_open_before_they_are_there,
    gate_shuts_with_the_first_slice,
    lines_of_higher_slices_decided_here,
)
