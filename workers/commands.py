"""The commands' lane: the same seven steps for what is asked about products, orders and holds. See `CommandLane.decide`."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial

from contracts.commands import Command, decode_command
from contracts.events import Event
from contracts.kafka import Record
from contracts.settings import Settings
from contracts.times import to_ms
from contracts.topics import Stream, partition_of
from stock_ledger.commands.book import Book, Given, Obeyed, Told
from stock_ledger.commands.ledger import CommandLedger
from stock_ledger.commands.obey import need_of, obey
from stock_ledger.ledger import Advance, Claim, advanced
from stock_ledger.view import Shown
from workers.intake import Intake
from workers.lane import Claims, Ready, UnderWay, both
from workers.log import Batch, Log, Message
from workers.shelf import Shelf


class CommandLane:
    """Decides commands. See `workers.lane.Lane`."""

    stream = Stream.COMMANDS

    def __init__(
        self, log: Log, ledger: CommandLedger, shelf: Shelf, settings: Settings, clock: Callable[[], datetime]
    ) -> None:
        self.intake = Intake(log, self.stream)
        self._log = log
        self._ledger = ledger
        self._shelf = shelf
        self._settings = settings
        self._clock = clock

    async def decide(self, batch: Batch, claims: Claims, _: UnderWay | None) -> Ready | None:
        """1 read (by the caller) → 2 decode → 3 load → 4 decide; then `_persist` 5, `_finish` 6 show, 7 publish, commit.

        As for checkouts, with one difference: what is told is kept with each decision, to be told again from there.
        """
        now = self._clock()
        given, advances = await self.intake.take(batch, claims, self._decode, Given, now)  # 2
        if not given:
            return None
        book = await self._ledger.load(need_of(given))  # 3
        obeyed = obey(given, book, now, self._settings.partitions, self._settings.hold_ttl_s)  # 4
        after = advanced(advances, self.stream)
        claims.update(after)
        told = [(d.partition, d.told) for d in obeyed.decisions]
        return Ready(
            len(given),
            after,
            partial(self._persist, advances, obeyed, book, after),
            partial(self._finish, told, advances),
        )

    async def _persist(
        self, advances: Sequence[Advance], obeyed: Obeyed, book: Book, after: Mapping[int, Claim]
    ) -> Sequence[Shown]:
        await self._ledger.persist(advances, obeyed)  # 5
        return self._shelf.take_in(self._touched(obeyed, after), book.products, book.stock, after)

    async def _finish(
        self, told: Sequence[tuple[int, Told]], advances: Sequence[Advance], shown: Sequence[Shown]
    ) -> None:
        results = [result for _, one in told for result in one.results]
        await both(self._shelf.show(shown, results), self._publish(told))  # 6, 7
        await self._log.commit(self.stream, {a.partition: a.next_offset for a in advances})

    async def publish_again(self, partition: int, start: int, end: int) -> None:
        told = [(partition, one) for one in await self._ledger.told(partition, start, end)]
        await self._shelf.show((), [result for _, one in told for result in one.results])
        await self._publish(told)

    def _decode(self, message: Message, partition: int) -> Command:
        return decode_command(message.value, message.key, partition, self._settings.partitions)

    def _touched(self, obeyed: Obeyed, partitions: Iterable[int]) -> dict[int, set[str]]:
        """The products whose stock or catalogue entry changed, by partition."""
        touched: dict[int, set[str]] = {p: set() for p in partitions}
        for product_id in {*obeyed.stock, *obeyed.products}:
            touched[partition_of(product_id, self._settings.partitions)].add(product_id)
        return touched

    async def _publish(self, told: Iterable[tuple[int, Told]]) -> None:
        events: dict[int, list[Event]] = defaultdict(list)
        asked: dict[int, list[Record]] = defaultdict(list)
        for partition, one in told:
            events[partition] += one.events
            for target, key, value in one.commands:
                asked[target].append((key, value, []))
        at_ms = to_ms(self._clock())
        if any(events.values()):
            await self._log.publish(events, at_ms)
        if asked:
            await self._log.send(Stream.COMMANDS, asked, at_ms)
