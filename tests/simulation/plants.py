"""Planted bugs: each takes one guarantee away by a small patch. A simulation that is worth anything finds them all."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any
from unittest.mock import patch

import msgspec

from api import checkouts as telling
from api import status
from api.marks import Marks
from api.status import Answer
from contracts.decisions import Decision
from contracts.errors import FenceLost
from contracts.messages import CheckoutLine
from contracts.outcomes import Kind, Reason
from contracts.requests import CheckoutRequest, CreatedLine, Line, RefusedLine
from contracts.settings import Settings
from contracts.topics import partition_of
from ingest import admission as admitting
from ingest.gate import SoldOutGate
from ingest.publisher import Publisher, Submission
from stock_ledger import decide as deciding
from stock_ledger.batch import Decided, Loaded, Received, Stock
from stock_ledger.fakes import MemoryLedger
from stock_ledger.ledger import Advance, Claim, advanced
from stock_ledger.view import Shown, View
from stock_ledger.view_fakes import MemoryView
from workers import lines as deciding_lines
from workers.lane import Claims, Lane, Ready, UnderWay
from workers.lines import LineLane
from workers.log import Batch
from workers.shelf import Shelf
from workers.writer import Writer

Plant = Callable[[], AbstractContextManager[Any]]


def no_fence() -> AbstractContextManager[Any]:
    """Postgres takes a batch from a writer that no longer owns its partition."""
    original = MemoryLedger.check

    def check(self: MemoryLedger, advances: Sequence[Advance], decided: Decided, loaded: Loaded) -> None:
        try:
            original(self, advances, decided, loaded)
        except FenceLost:
            return

    return patch.object(MemoryLedger, "check", check)


def claim_without_a_new_epoch() -> AbstractContextManager[Any]:
    """Two writers hold the same claim."""

    async def claim(self: MemoryLedger, partitions: Sequence[int], owner: str, now: Any) -> dict[int, Claim]:
        self._answer()
        for p in partitions:
            self.claims.setdefault(p, Claim(1, 0))
        return {p: self.claims[p] for p in partitions}

    return patch.object(MemoryLedger, "claim", claim)


def _step_in_order(*order: str) -> AbstractContextManager[Any]:
    """The writer's effects in another order: persist, show, publish, commit."""

    async def decide(self: LineLane, batch: Batch, claims: Claims, before: UnderWay | None) -> Ready | None:
        now = self._clock()
        received, advances = await self.intake.take(batch, claims, self._decode, Received, now)
        if not received:
            return None
        draft = await self._decide(received, advances, now, claims, before)
        loaded, decided = draft.loaded, draft.decided
        results, events, _ = self._tell(decided.decisions)
        after = advanced(advances, self.stream)
        claims.update(after)
        touched = {
            p: {d.product_id for d in decided.decisions if d.partition == p and d.product_id in loaded.stock}
            for p in after
        }

        async def persist() -> Sequence[Shown]:
            for name in order:
                if name == "persist":
                    await self._ledger.persist(advances, decided, loaded)
                elif name == "show":
                    stock = loaded.stock | decided.stock
                    await self._shelf.show(
                        self._shelf.take_in(touched, loaded.products, stock, after), results
                    )
                elif name == "publish":
                    await self._log.publish(events, 0)
                elif name == "commit":
                    await self._log.commit(self.stream, {p: claim.next_offset for p, claim in after.items()})
            return ()

        async def finish(_: Sequence[Shown]) -> None:
            return

        return Ready(len(received), after, persist, finish, draft)

    return patch.object(LineLane, "decide", decide)


def cache_written_before_the_commit() -> AbstractContextManager[Any]:
    return _step_in_order("show", "persist", "publish", "commit")


def published_before_persisted() -> AbstractContextManager[Any]:
    return _step_in_order("publish", "persist", "show", "commit")


def offset_committed_first() -> AbstractContextManager[Any]:
    return _step_in_order("commit", "persist", "show", "publish")


def offset_committed_before_the_events() -> AbstractContextManager[Any]:
    return _step_in_order("persist", "show", "commit", "publish")


def nothing_published_again_at_a_claim() -> AbstractContextManager[Any]:
    async def publish_again(self: Writer, lane: Lane, partition: int, start: int, end: int) -> None:
        return

    return patch.object(Writer, "_publish_again", publish_again)


def results_not_shown_again_at_a_claim_but_trusted() -> AbstractContextManager[Any]:
    """A writer believes a view whatever its version, and does not rebuild it."""

    async def rebuild(self: Shelf, partition: int, claim: Claim) -> None:
        progress = (await self._view.progress([partition])).get(partition)
        if progress is not None:
            self._shown[partition] = progress

    return patch.object(Shelf, "rebuild", rebuild)


def stock_counted_down_in_the_view() -> AbstractContextManager[Any]:
    """The view gets what was sold, not what is left: a write that comes twice counts twice."""
    original = MemoryView._show

    def show(self: MemoryView, part: Shown) -> None:
        if part.whole:
            original(self, part)
            return
        stock = {}
        for product_id, true in part.stock.items():
            value = self.data.values.get(self.keys.stock(part.partition, product_id))
            if value is None:
                stock[product_id] = true
                continue
            _, seq, left = map(int, value.split(b":"))
            stock[product_id] = Stock(left - (true.seq - seq or 1), true.seq)
        original(self, msgspec.structs.replace(part, stock=stock))

    return patch.object(MemoryView, "_show", show)


def older_writes_win_in_the_view() -> AbstractContextManager[Any]:
    """No version is compared: a zombie's late write replaces what its successor showed."""

    def show(self: MemoryView, part: Shown) -> None:
        p, epoch = part.partition, part.progress.epoch
        gate = self.data.gates.setdefault(self.keys.gate(p), set())
        for product_id, stock in part.stock.items():
            key = self.keys.stock(p, product_id)
            self.data.values[key] = f"{epoch}:{stock.seq}:{stock.available}".encode()
            (gate.add if stock.available <= 0 else gate.discard)(product_id.encode())
        self.data.values[self.keys.progress(p)] = part.progress.text().encode()

    return patch.object(MemoryView, "_show", show)


def stock_checked_before_repeats() -> AbstractContextManager[Any]:
    """A retry of a line that was sold is refused, since there is less now."""
    original = deciding.decide

    def decide(batch: Iterable[Received], loaded: Loaded, now: Any) -> Decided:
        found = original(batch, loaded, now)
        decisions = [
            msgspec.structs.replace(d, kind=Kind.REFUSED, reason=Reason.SOLD_OUT, first_offset=None)
            if d.kind is Kind.REPEATED and _left(found, loaded, d) <= 0
            else d
            for d in found.decisions
        ]
        return msgspec.structs.replace(found, decisions=decisions)

    return patch.object(deciding_lines, "decide", decide)


def _left(decided: Decided, loaded: Loaded, decision: Decision) -> int:
    stock = decided.stock.get(decision.product_id) or loaded.stock.get(decision.product_id)
    return 1 if stock is None else stock.available


def repeats_sold_again() -> AbstractContextManager[Any]:
    """Idempotency is asked of nobody."""
    original = MemoryLedger.load

    async def load(self: MemoryLedger, need: Any, entries: Any) -> Loaded:
        loaded = await original(self, need, entries)
        return msgspec.structs.replace(loaded, decided={}, hashes={})

    return patch.object(MemoryLedger, "load", load)


def limit_forgets_the_same_batch() -> AbstractContextManager[Any]:
    """What a buyer gets in a batch does not count against the limit in that batch."""
    original = deciding.refusal

    def refusal(
        line: CheckoutLine, loaded: Loaded, stock: Mapping[str, Stock], _: Any, now: datetime
    ) -> Reason | None:
        return original(line, loaded, stock, {}, now)

    return patch.object(deciding, "refusal", refusal)


def doubt_ignored() -> AbstractContextManager[Any]:
    """After a commit whose answer was lost, the writer goes on as if nothing had been written."""
    original = Writer._claim_assigned

    async def claim_assigned(self: Writer) -> None:
        if self._generation == self._log.assigned()[0]:
            self._in_doubt = False
        await original(self)

    return patch.object(Writer, "_claim_assigned", claim_assigned)


def poison_dropped() -> AbstractContextManager[Any]:
    """What cannot be decoded is decided, but kept nowhere."""

    async def set_aside(*_: Any) -> None:
        return

    return patch("deploy.simulation.broker.WriterLog.set_aside", set_aside)


def event_ids_made_anew() -> AbstractContextManager[Any]:
    """An event that is published again has another id."""
    original, original_tell = LineLane.publish_again, LineLane._tell

    async def publish_again(self: LineLane, partition: int, start: int, end: int) -> None:
        def anew(self: LineLane, decisions: Sequence[Decision]) -> Any:
            told = original_tell(self, decisions)
            return told._replace(
                events={p: [_renumbered(e) for e in of_p] for p, of_p in told.events.items()}
            )

        with patch.object(LineLane, "_tell", anew):
            await original(self, partition, start, end)

    return patch.object(LineLane, "publish_again", publish_again)


def _renumbered(event: Any) -> Any:
    key, value, headers = event
    return key, value, [(n, v + b"0" if n == "ce_id" else v) for n, v in headers]


def accepted_before_the_ack() -> AbstractContextManager[Any]:
    """The 202 is given when the batch is handed over, with the offsets it will probably get."""
    original = Publisher._send_waiting

    def send_waiting(self: Publisher, partition: int) -> None:
        for offset, (_, submission, index) in enumerate(self._waiting[partition]):
            submission.landed(index, (partition, offset))
        original(self, partition)

    return patch.object(Publisher, "_send_waiting", send_waiting)


def first_line_is_enough() -> AbstractContextManager[Any]:
    """A checkout of several products is accepted once one of its lines is in the log."""

    def landed(self: Submission, index: int, position: tuple[int, int]) -> None:
        self.positions = [position if at == (-1, -1) else at for at in self.positions]
        if not self.acknowledged.done():
            self.acknowledged.set_result(self.positions)

    return patch.object(Submission, "landed", landed)


def last_of_many_products_is_dropped() -> AbstractContextManager[Any]:
    """A checkout of four products is taken in as one of three."""
    original = admitting.merge

    def merge(request: CheckoutRequest) -> dict[str, int]:
        return dict(list(original(request).items())[:3])

    return patch.object(admitting, "merge", merge)


def answers_name_the_wrong_product() -> AbstractContextManager[Any]:
    """What became of the second product of a checkout is told of the first."""
    original = status.decided_line

    def decided_line(line: int, answer: Answer) -> Line:
        told = original(line, answer)
        if line and isinstance(told, CreatedLine | RefusedLine):
            return msgspec.structs.replace(told, product_id="the-one-before")
        return told

    return patch.object(telling, "decided_line", decided_line)


def retries_are_new_checkouts() -> AbstractContextManager[Any]:
    """The checkout id is not derived from the idempotency key."""
    made = iter(range(10**9))

    def checkout_id_of(buyer_id: str, key: str) -> str:
        return str(uuid.UUID(int=next(made)))

    return patch("ingest.admission.checkout_id_of", checkout_id_of)


def gate_shuts_for_low_stock() -> AbstractContextManager[Any]:
    """The edge refuses what its partition has run out of, whichever the product."""

    def hopeless(self: SoldOutGate, product_ids: Sequence[str], _policy: str) -> Sequence[str]:
        partitions = {partition_of(i, self._settings.partitions) for i in product_ids}
        return product_ids if any(self._sold_out.get(p) for p in partitions) else ()

    return patch.object(SoldOutGate, "hopeless", hopeless)


def gate_believes_for_ever() -> AbstractContextManager[Any]:
    """The edge goes by what a writer showed that was seen to live once."""
    original = SoldOutGate.__init__

    def init(self: SoldOutGate, view: View, settings: Settings, *rest: Any) -> None:
        original(self, view, msgspec.structs.replace(settings, gate_stale_s=3600.0), *rest)

    return patch.object(SoldOutGate, "__init__", init)


def places_follow_the_view() -> AbstractContextManager[Any]:
    """A place in the queue is told from what the view shows now, though it may have fallen behind."""

    def shown(self: Marks, progress: Mapping[int, Any]) -> None:
        for partition, told in progress.items():
            self._mark(partition).next_offset = told.next_offset

    return patch.multiple(Marks, shown=shown, due=lambda self, partitions, since: set())


PLANTS: tuple[Plant, ...] = (
    no_fence,
    claim_without_a_new_epoch,
    cache_written_before_the_commit,
    published_before_persisted,
    offset_committed_first,
    offset_committed_before_the_events,
    nothing_published_again_at_a_claim,
    results_not_shown_again_at_a_claim_but_trusted,
    stock_counted_down_in_the_view,
    older_writes_win_in_the_view,
    stock_checked_before_repeats,
    repeats_sold_again,
    limit_forgets_the_same_batch,
    doubt_ignored,
    poison_dropped,
    event_ids_made_anew,
    accepted_before_the_ack,
    first_line_is_enough,
    last_of_many_products_is_dropped,
    answers_name_the_wrong_product,
    retries_are_new_checkouts,
    gate_shuts_for_low_stock,
    gate_believes_for_ever,
    places_follow_the_view,
)
