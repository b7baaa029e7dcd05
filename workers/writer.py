"""The partition writer: seven steps from a batch of the log to its decisions, with a fence. See `Writer.step`."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from contracts.decisions import Decision
from contracts.errors import (
    FenceLost,
    LogTruncated,
    NotAcknowledged,
    StaleView,
    Unavailable,
    UndecodableMessage,
)
from contracts.events import Event, event_of
from contracts.keys import conflict_field
from contracts.messages import decode_checkout_line
from contracts.outcomes import Kind
from contracts.settings import Settings
from contracts.times import to_ms
from stock_ledger.decide import Decided, Loaded, Received, decide
from stock_ledger.ledger import Advance, Claim, Ledger, need_of
from workers.health import Health
from workers.log import Batch, Log, Message, pieces
from workers.shelf import Shelf

logger = logging.getLogger(__name__)

RETRY_S = (0.05, 0.1, 0.25, 0.5)  # waits between tries while a server is away
_READ_WAIT_MS = 250
_LETTER_BYTES_MAX = (
    256 * 1024
)  # of a key or value set aside: with its reason it must fit where the original did


class Writer:
    """Decides the partitions that the group assigns to this process, alone and in order.

    A partition is written only under a claim (epoch, next offset). Whatever goes wrong, doubt is resolved the same
    way: read the claim's true state from Postgres, publish again what may not have been, go on from there.
    """

    def __init__(
        self, log: Log, ledger: Ledger, shelf: Shelf, health: Health, settings: Settings, owner: str,
        clock: Callable[[], datetime],
    ) -> None:  # fmt: skip
        self._log = log
        self._ledger = ledger
        self._shelf = shelf
        self._health = health
        self._settings = settings
        self._owner = owner
        self._clock = clock
        self._claims: dict[int, Claim] = {}
        self._generation = 0
        self._in_doubt = False  # claims are to be compared with Postgres before anything else is read
        self._busy = asyncio.Lock()  # held while a batch is under way, so that a rebalance waits for it
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Decide until `stop`; then finish the batch under way and leave the group."""
        failures = 0
        joined = False
        try:
            while not self._stopping.is_set():
                try:
                    if not joined:
                        await self._log.start(self._revoked)
                        joined = True
                    async with self._busy:
                        await self._claim_assigned()
                    batch = await self._log.read(self._settings.batch_rows_max, _READ_WAIT_MS)
                    for piece in pieces(batch, self._settings.batch_bytes_max):
                        async with self._busy:
                            await self.step(piece)
                    await self._linger(batch)
                    failures = 0
                    if self._claims.keys() == self._log.assigned()[1]:
                        self._health.progressed(len(self._claims))
                except FenceLost as error:
                    self._in_doubt = True  # it may have been our own commit, whose answer was lost
                    self._health.failed(error)
                    logger.warning("fence lost: %s", error, extra={"action": "fence_lost"})
                    await self._pause(RETRY_S[0])
                except (Unavailable, StaleView, NotAcknowledged) as error:
                    failures += 1
                    self._in_doubt = True
                    self._health.failed(error)
                    logger.warning("batch not done, try %d: %s", failures, error, extra={"action": "retry"})
                    await self._pause(RETRY_S[min(failures, len(RETRY_S)) - 1])
        finally:
            await self._log.stop()

    def stop(self) -> None:
        self._stopping.set()

    async def step(self, batch: Batch) -> None:
        """1 read (by the caller) → 2 decode → 3 load → 4 decide → 5 persist → 6 show → 7 publish, then commit.

        Nothing before 5 has an effect but dead letters, which may be set aside twice. Everything after 5 can be
        repeated from Postgres.
        """
        now = self._clock()
        received, advances = await self._decode(batch, now)  # 2
        if not received:
            await self._shelf.beat(self._claims)
            return
        loaded = await self._load(received)  # 3
        decided = decide(received, loaded, now)  # 4
        await self._ledger.persist(advances, decided, loaded)  # 5
        for advance in advances:
            self._claims[advance.partition] = Claim(advance.claim.epoch, advance.next_offset)
        done = [a.partition for a in advances]
        await self._finish(decided, loaded, done)  # 6, 7
        self._health.decided(len(decided.decisions))
        await self._shelf.beat({p: claim for p, claim in self._claims.items() if p not in done})

    async def _decode(self, batch: Batch, now: datetime) -> tuple[list[Received], list[Advance]]:
        """What is next in each claimed partition, decoded; what cannot be is in the dead-letter topic."""
        received: list[Received] = []
        advances: list[Advance] = []
        dead: dict[int, list[tuple[Message, str]]] = defaultdict(list)
        for partition, messages in batch.items():
            claim = self._claims.get(partition)
            if claim is None:
                continue  # not claimed yet: read again after the claim
            expected = claim.next_offset
            for message in messages:
                if message.offset < expected:
                    continue
                if message.offset > expected:
                    await self._explain_gap(partition, expected, message.offset)
                try:
                    line = decode_checkout_line(
                        message.value, message.key, partition, self._settings.partitions
                    )
                    received.append(Received(partition, message.offset, line))
                except UndecodableMessage as error:
                    dead[partition].append((message, str(error)))
                    received.append(Received(partition, message.offset, None, str(error)))
                expected += 1
            if expected != claim.next_offset:
                advances.append(Advance(partition, claim, expected))
            elif messages:  # all decided before: the reader went back
                await self._check_log({partition: expected})
        if dead:
            letters = {p: [dead_letter(p, message, why) for message, why in of_p] for p, of_p in dead.items()}
            await self._log.set_aside(letters, to_ms(now))
        return received, advances

    async def _load(self, received: Sequence[Received]) -> Loaded:
        wanted: dict[int, set[str]] = defaultdict(set)
        others: set[str] = set()  # products of other partitions whose prices an expected total spans
        for message in received:
            if message.line is not None:
                wanted[message.partition].add(message.line.product_id)
                others.update(product_id for product_id, _ in message.line.basket or ())
        entries = await self._shelf.load(wanted, self._claims)
        others.difference_update(entries)
        if others:
            entries |= await self._ledger.products(sorted(others))
        products = {product_id: product for product_id, (product, _) in entries.items()}
        return await self._ledger.load(need_of(received, products), entries)

    async def _finish(self, decided: Decided, loaded: Loaded, partitions: list[int]) -> None:
        results, events = show_and_tell(decided.decisions)
        await self._shelf.show(decided, loaded, partitions, self._claims, results)  # 6
        await self._log.publish(events, to_ms(self._clock()))  # 7
        await self._log.commit({p: self._claims[p].next_offset for p in partitions})

    async def _claim_assigned(self) -> None:
        """Claim what is assigned and not ours yet; after a doubt, take up the claims again where Postgres says.

        Before it claims, a writer has the group confirm that it still counts: one that was paused for too long, and
        only now sends its claim, may have taken a partition from the one it was given to, which then claims it back.
        """
        generation, assigned = self._log.assigned()
        if generation == self._generation and not self._in_doubt:
            return
        self._in_doubt = True
        held = sorted(assigned & self._claims.keys())
        true = await self._ledger.state(held) if held else {}
        claims = {p: claim for p, claim in true.items() if claim.epoch == self._claims[p].epoch}
        if lost := sorted(set(held) - claims.keys()):
            logger.warning("partitions lost", extra={"action": "lost", "partitions": lost})
        self._claims = claims
        if fresh := sorted(assigned - claims.keys()):
            await self._log.commit(await self._log.committed(fresh))
            self._claims = claims | await self._ledger.claim(fresh, self._owner, self._clock())
        self._generation = generation
        await self._take_up(self._claims)
        self._in_doubt = False

    async def _take_up(self, claims: Mapping[int, Claim]) -> None:
        """Publish again from the committed to the decided offset, rebuild the view, seek."""
        partitions = sorted(claims)
        if not partitions:
            return
        await self._check_log({p: claim.next_offset for p, claim in claims.items()})
        committed = await self._log.committed(partitions)
        for p in partitions:
            await self._publish_again(p, committed[p], claims[p].next_offset)
            await self._shelf.rebuild(p, claims[p])
            self._log.seek(p, claims[p].next_offset)
        logger.info("partitions taken up", extra={"action": "claimed", "partitions": partitions})

    async def _publish_again(self, partition: int, committed: int, decided_to: int) -> None:
        """In pieces that are committed one by one: however long the gap, every try gets further."""
        done = committed
        while done < decided_to:
            end = min(done + self._settings.batch_rows_max, decided_to)
            results, events = show_and_tell(await self._ledger.decisions(partition, done, end))
            await self._shelf.show_results(results)
            await self._log.publish(events, to_ms(self._clock()))
            await self._log.commit({partition: end})
            done = end
        if done > decided_to:  # Postgres was set back
            await self._log.commit({partition: decided_to})

    async def _explain_gap(self, partition: int, expected: int, found: int) -> None:
        """A message is missing between what was decided and what was read: seek back, or the log has lost it."""
        await self._check_log({partition: expected})
        raise StaleView(f"partition {partition}: expected offset {expected}, read {found}")

    async def _check_log(self, next_offsets: Mapping[int, int]) -> None:
        """Raise LogTruncated unless the log goes on exactly where deciding does."""
        first = await self._log.first_offsets(list(next_offsets))
        end = await self._log.end_offsets(list(next_offsets))
        for p, decided_to in next_offsets.items():
            if first[p] > decided_to:
                raise LogTruncated(
                    f"partition {p}: the log begins at {first[p]}, but only offsets below {decided_to} are decided. "
                    "Raise the topic's retention; restore the log, or restore Postgres to match it."
                )
            if end[p] < decided_to:
                raise LogTruncated(
                    f"partition {p}: the log ends at {end[p]}, but offsets below {decided_to} are decided. New messages "
                    "would pass for decided ones. Restore the log, or restore Postgres to match it."
                )

    async def _revoked(self) -> None:
        async with self._busy:
            self._claims.clear()

    async def _linger(self, batch: Batch) -> None:
        """Let messages gather after a small batch: what a batch costs is mostly the same for one as for hundreds."""
        if batch and sum(map(len, batch.values())) < self._settings.batch_rows_max // 8:
            await self._pause(self._settings.batch_linger_ms / 1000)

    async def _pause(self, seconds: float) -> None:
        if not seconds:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def show_and_tell(
    decisions: Sequence[Decision],
) -> tuple[list[tuple[str, str, bytes]], dict[int, list[Event]]]:
    """Of each new decision its result (checkout_id, field, document) for the view, and its event by partition."""
    results: list[tuple[str, str, bytes]] = []
    events: dict[int, list[Event]] = defaultdict(list)
    for decision in decisions:
        if decision.checkout_id is None or decision.kind is Kind.REPEATED:
            continue
        document = decision.document()
        conflict = decision.kind is Kind.CONFLICT
        field = conflict_field(decision.partition, decision.offset) if conflict else decision.product_id
        results.append((decision.checkout_id, field, document))
        event = event_of(decision, document)
        if event is not None:
            events[decision.partition].append(event)
    return results, events


def dead_letter(
    partition: int, message: Message, why: str
) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
    """A message as it was, with why it was set aside and where it lay."""
    headers = [
        ("reason", why.encode()),
        ("partition", str(partition).encode()),
        ("offset", str(message.offset).encode()),
    ]
    key, value = message.key, message.value
    if len(key or b"") > _LETTER_BYTES_MAX or len(value or b"") > _LETTER_BYTES_MAX:
        headers.append(("truncated-to", str(_LETTER_BYTES_MAX).encode()))
    return key and key[:_LETTER_BYTES_MAX], value and value[:_LETTER_BYTES_MAX], headers
