"""The checkouts' lane: seven steps from a batch of lines to their decisions. See `LineLane.decide`."""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

import msgspec

from contracts.commands import encode_command
from contracts.decisions import Decision
from contracts.errors import SoldMeanwhile
from contracts.events import Event, event_of
from contracts.kafka import Record
from contracts.keys import conflict_field
from contracts.messages import CheckoutLine, decode_checkout_line, read_checkout_line
from contracts.outcomes import Kind
from contracts.settings import Settings
from contracts.slices import others as other_slices
from contracts.times import to_ms
from contracts.topics import Stream, partition_of
from stock_ledger.batch import Decided, Loaded, Received
from stock_ledger.commands.holds import answer_to
from stock_ledger.decide import decide
from stock_ledger.ledger import Advance, Claim, Ledger, advanced, need_of
from stock_ledger.upstream.source import StockSource
from stock_ledger.view import Shown
from workers.intake import Intake
from workers.lane import Claims, Ready, UnderWay, both
from workers.log import Batch, Log, Message
from workers.shelf import Results, Shelf
from workers.sourcing import Sourcing

logger = logging.getLogger(__name__)


class _Draft(msgspec.Struct):
    """A batch and what it comes to by now, if the one before it came to `base`, which is laid over what was loaded."""

    received: Sequence[Received]
    advances: Sequence[Advance]
    now: datetime
    base: Decided | None
    loaded: Loaded
    decided: Decided


class _Told(NamedTuple):
    """What new decisions come to: results for the view, events, and what other writers are sent, by partition: lines that
    are forwarded, answers to all-or-nothing checkouts.
    """

    results: Results
    events: Mapping[int, Sequence[Event]]
    sent: Mapping[Stream, Mapping[int, Sequence[Record]]]


class LineLane:
    """Decides what buyers submit. See `workers.lane.Lane`."""

    stream = Stream.CHECKOUTS

    def __init__(
        self,
        log: Log,
        ledger: Ledger,
        shelf: Shelf,
        settings: Settings,
        clock: Callable[[], datetime],
        source: StockSource,
    ) -> None:
        self.intake = Intake(log, self.stream)
        self._log = log
        self._ledger = ledger
        self._sourcing = Sourcing(source, ledger)
        self._shelf = shelf
        self._settings = settings
        self._clock = clock

    async def decide(self, batch: Batch, claims: Claims, before: UnderWay | None) -> Ready | None:
        """1 read (by the caller) → 2 decode → 3 load → 4 decide; then `_persist` 5, `_finish` 6 show, 7 publish, commit.

        Nothing before 5 has an effect but dead letters, which may be set aside twice, and what a second stock source
        is asked for, which a batch that is decided again asks for again. Everything after 5 can be repeated from Postgres.
        """
        now = self._clock()
        received, advances = await self.intake.take(batch, claims, self._decode, Received, now)  # 2
        if not received:
            return None
        draft = await self._decide(received, advances, now, claims, before)  # 3, 4
        after = advanced(advances, self.stream)
        claims.update(after)
        return Ready(
            len(received), after, partial(self._persist, draft, before), partial(self._finish, draft), draft
        )

    async def _decide(
        self,
        received: Sequence[Received],
        advances: Sequence[Advance],
        now: datetime,
        claims: Mapping[int, Claim],
        before: UnderWay | None,
    ) -> _Draft:
        base = None if before is None else before.decided
        loaded = await self._load(received, claims, before, base)  # 3
        sourced = await self._sourcing.ask(received, advances, loaded)
        decided = decide(received, loaded, now)  # 4
        if sourced is not None:
            decided = sourced.of(decided)
        return _Draft(received, advances, now, base, loaded, decided)

    async def _persist(self, draft: _Draft, before: UnderWay | None) -> Sequence[Shown]:
        """The batch before is committed by now: if it came to something else than this one was decided on top of, or
        another slice has sold to its buyers, it is decided again.
        """
        if before is not None and before.decided is not draft.base:
            await self._decide_again(draft)
        while True:
            try:
                await self._ledger.persist(draft.advances, draft.decided, draft.loaded)  # 5
                break
            except SoldMeanwhile as error:
                logger.info("decided again: %s", error, extra={"action": "decided_again"})
                await self._decide_again(draft)
        after, loaded = advanced(draft.advances, self.stream), draft.loaded
        touched: dict[int, set[str]] = {p: set() for p in after}
        for decision in draft.decided.decisions:
            if (stock_id := decision.stock_id) in loaded.stock:
                touched[decision.partition].add(stock_id)
        return self._shelf.take_in(touched, loaded.products, loaded.stock | draft.decided.stock, after)

    async def _decide_again(self, draft: _Draft) -> None:
        claims = {a.partition: a.claim for a in draft.advances}
        again = await self._decide(draft.received, draft.advances, draft.now, claims, None)
        draft.loaded, draft.decided = again.loaded, again.decided

    async def _finish(self, draft: _Draft, shown: Sequence[Shown]) -> None:
        told = self._tell(draft.decided.decisions)
        await both(self._shelf.show(shown, told.results), self._publish(told))  # 6, 7
        await self._log.commit(self.stream, {a.partition: a.next_offset for a in draft.advances})

    async def publish_again(self, partition: int, start: int, end: int) -> None:
        told = self._tell(await self._ledger.decisions(partition, start, end))
        await self._shelf.show((), told.results)
        await self._publish(told)

    def _decode(self, message: Message, partition: int) -> CheckoutLine:
        return decode_checkout_line(message.value, message.key, partition, self._settings.partitions)

    async def _load(
        self,
        received: Sequence[Received],
        claims: Mapping[int, Claim],
        before: UnderWay | None,
        base: Decided | None,
    ) -> Loaded:
        """From the view and Postgres, with `base`, what the batch `before` comes to, laid over it.

        Waits for its commit where that cannot be: what is read of a buyer's purchases may count it already, and a second
        stock source is asked under the fence.
        """
        wanted: dict[int, set[str]] = defaultdict(set)
        others: set[str] = set()  # products of other partitions whose prices an expected total spans
        for message in received:
            if message.line is not None:
                wanted[message.partition].add(message.line.stock_id)
                others.update(i for i, _ in message.line.basket or () if i != message.line.product_id)
        entries = await self._shelf.load(wanted, claims, before)
        others.difference_update(entries)
        if others:
            entries |= await self._ledger.products(sorted(others))
        products = {product_id: product for product_id, (product, _) in entries.items()}
        need = need_of(received, products)
        if before is None or base is None:
            loaded = await self._ledger.load(need, entries)
        else:
            is_sourced = any(product.stock_source for product in products.values())
            if is_sourced or not base.bought.keys().isdisjoint(need.limited):
                await before.committed()
            loaded = (await self._ledger.load(need, entries)).after(base)
        if need.sliced:
            loaded.elsewhere = await self._elsewhere(received, loaded)
        return loaded

    async def _elsewhere(self, received: Sequence[Received], loaded: Loaded) -> dict[str, int]:
        """What the other slices have of products of which the batch asks for more than is here."""
        asked: Counter[str] = Counter()
        for message in received:
            if message.line is not None:
                asked[message.line.stock_id] += message.line.quantity
        short = [i for i, units in asked.items() if i in loaded.stock and loaded.stock[i].available < units]
        wanted = {other for i in short for other in other_slices(i, loaded.products[i].slices)}
        found = await self._ledger.products(sorted(wanted)) if wanted else {}
        return {i: stock.available for i, (_, stock) in found.items()}

    async def _publish(self, told: _Told) -> None:
        at_ms = to_ms(self._clock())
        await self._log.publish(told.events, at_ms)
        for stream, messages in told.sent.items():
            await self._log.send(stream, messages, at_ms)

    def _tell(self, decisions: Sequence[Decision]) -> _Told:
        results: list[tuple[str, str, bytes]] = []
        events: dict[int, list[Event]] = defaultdict(list)
        sent: dict[Stream, dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
        for decision in decisions:
            if decision.checkout_id is None or decision.kind is Kind.REPEATED:
                continue
            if decision.kind is Kind.FORWARDED:
                onward = read_checkout_line(decision.detail)
                place = partition_of(onward.stock_id, self._settings.partitions)
                record: Record = (onward.partition_key(), decision.detail.encode(), [])
                sent[Stream.CHECKOUTS][place].append(record)
                continue
            document = decision.document()
            conflict = decision.kind is Kind.CONFLICT
            field = conflict_field(decision.partition, decision.offset) if conflict else decision.product_id
            results.append((decision.checkout_id, field, document))
            event = event_of(decision, document)
            if event is not None:
                events[decision.partition].append(event)
            elif answer := answer_to(decision):
                record = (answer.subject().encode(), encode_command(answer), [])
                place = answer.partition(self._settings.partitions)
                sent[Stream.COMMANDS][place].append(record)
        return _Told(results, events, sent)
