"""The partition writer: who it is that decides, and where it goes on. What is decided, and how: `lines`, `commands`."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from contracts.errors import FenceLost, NotAcknowledged, StaleView, Unavailable
from contracts.settings import Settings
from contracts.topics import Stream
from stock_ledger.commands.ledger import CommandLedger
from stock_ledger.ledger import Claim, Ledger
from stock_ledger.upstream.source import NoStockSource, StockSource
from workers.commands import CommandLane
from workers.health import Health
from workers.lane import Lane, UnderWay
from workers.lines import LineLane
from workers.log import Batch, Log, pieces
from workers.shelf import Shelf

logger = logging.getLogger(__name__)

RETRY_S = (0.05, 0.1, 0.25, 0.5)  # waits between tries while a server is away
_READ_WAIT_MS = 250


class Writer:
    """Decides the partitions that the group assigns to this process, alone and in order.

    A partition is written only under a claim (epoch, next offset). While a batch is persisted, the next one is read and
    decided on top of it; they are persisted, shown and published one after the other. Whatever goes wrong, doubt is resolved the
    same way: read the claim's true state from Postgres, publish again what may not have been, go on from there.
    """

    def __init__(
        self, log: Log, ledger: Ledger, commands: CommandLedger, shelf: Shelf, health: Health, settings: Settings,
        owner: str, clock: Callable[[], datetime], source: StockSource | None = None,
    ) -> None:  # fmt: skip
        """`source` is asked for products that have a second stock source; without one none of them has an answer."""
        # In this order, so that paying or stopping a sale never waits behind the flood.
        self._lanes: tuple[Lane, ...] = (
            CommandLane(log, commands, shelf, settings, clock),
            LineLane(log, ledger, shelf, settings, clock, source or NoStockSource()),
        )
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
        self._busy = asyncio.Lock()  # held while a batch is decided, so that a rebalance waits for it
        self._under_way: UnderWay | None = None  # the batch that was decided last
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
                        await self._hear()
                    batch = await self._log.read(self._settings.batch_rows_max, _READ_WAIT_MS)
                    await self.step(batch)
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
            if self._under_way is not None:
                await self._under_way.finished()
        except (FenceLost, StaleView, Unavailable, NotAcknowledged) as error:
            logger.warning("left to the next owner to tell: %s", error, extra={"action": "not_told"})
        finally:
            await self._log.stop()

    def stop(self) -> None:
        self._stopping.set()

    async def step(self, batch: Mapping[Stream, Batch]) -> None:
        """Decide what was read, in the order of the lanes; show that partitions without messages live."""
        for lane in self._lanes:
            if lane.stream not in batch:
                continue
            for piece in pieces(batch[lane.stream], self._settings.batch_bytes_max):
                async with self._busy:
                    await self._decide(lane, piece)
        async with self._busy:
            await self._hear()
            await self._shelf.beat(self._still())

    async def _hear(self) -> None:
        """Let go of a batch that is over. Raises what kept it from being persisted or told: its claims are not true then."""
        if self._under_way is not None and self._under_way.is_over:
            over, self._under_way = self._under_way, None
            await over.finished()

    def _still(self) -> Mapping[int, Claim]:
        """The claims of partitions of which nothing is under way."""
        if self._under_way is None:
            return self._claims
        return {p: c for p, c in self._claims.items() if p not in self._under_way.partitions}

    async def _decide(self, lane: Lane, batch: Batch) -> None:
        """On top of the batch before, while that is persisted, or after it; persisted after it in any case."""
        before = last = self._under_way
        if before is not None and (before.is_committed or before.lane is not lane or before.decided is None):
            await before.committed()
            before = None
        ready = await lane.decide(batch, self._claims, before)
        if ready is None:
            return
        if before is not None:
            await before.committed()
        self._under_way = UnderWay(lane, ready, last, self._health.decided)

    async def _claim_assigned(self) -> None:
        """Claim what is assigned and not ours yet; after a doubt, take up the claims again where Postgres says."""
        generation, assigned = self._log.assigned()
        if generation == self._generation and not self._in_doubt:
            return
        self._in_doubt = True
        await self._ended()
        held = sorted(assigned & self._claims.keys())
        true = await self._ledger.state(held) if held else {}
        claims = {p: claim for p, claim in true.items() if claim.epoch == self._claims[p].epoch}
        if lost := sorted(set(held) - claims.keys()):
            logger.warning("partitions lost", extra={"action": "lost", "partitions": lost})
        self._claims = claims
        if fresh := sorted(assigned - claims.keys()):
            self._claims = claims | await self._claim(fresh)
        self._generation = generation
        await self._take_up(self._claims)
        self._in_doubt = False

    async def _claim(self, partitions: Sequence[int]) -> dict[int, Claim]:
        """New claims. Before, the group confirms that this writer still counts: one that was paused for too long, and only
        now sends its claim, may have taken a partition from the one it was given to, which then claims it back.
        """
        stream = Stream.CHECKOUTS
        await self._log.commit(stream, await self._log.committed(stream, partitions))
        return await self._ledger.claim(partitions, self._owner, self._clock())

    async def _take_up(self, claims: Mapping[int, Claim]) -> None:
        """Publish again from the committed to the decided offsets, rebuild the view, seek.

        Lines before commands: what became of an order is told after it was made.
        """
        partitions = sorted(claims)
        if not partitions:
            return
        for lane in reversed(self._lanes):
            decided_to = {p: claims[p].next_of(lane.stream) for p in partitions}
            await lane.intake.check_log(decided_to)
            committed = await self._log.committed(lane.stream, partitions)
            for p in partitions:
                await self._publish_again(lane, p, committed[p], decided_to[p])
                self._log.seek(lane.stream, p, decided_to[p])
        for p in partitions:
            await self._shelf.rebuild(p, claims[p])
        logger.info("partitions taken up", extra={"action": "claimed", "partitions": partitions})

    async def _publish_again(self, lane: Lane, partition: int, committed: int, decided_to: int) -> None:
        """In pieces that are committed one by one: however long the gap, every try gets further."""
        done = committed
        while done < decided_to:
            end = min(done + self._settings.batch_rows_max, decided_to)
            await lane.publish_again(partition, done, end)
            await self._log.commit(lane.stream, {partition: end})
            self._health.heartbeat()
            done = end
        if done > decided_to:  # Postgres was set back
            await self._log.commit(lane.stream, {partition: decided_to})

    async def _ended(self) -> None:
        """Wait until no batch is under way, whatever became of it: what was not told is told again from Postgres."""
        if self._under_way is not None:
            await self._under_way.ended()
            self._under_way = None

    async def _revoked(self) -> None:
        async with self._busy:
            await self._ended()
            self._claims.clear()

    async def _linger(self, batch: Mapping[Stream, Batch]) -> None:
        """Let messages gather after a small batch: what a batch costs is mostly the same for one as for hundreds."""
        count = sum(len(messages) for of_stream in batch.values() for messages in of_stream.values())
        if 0 < count < self._settings.batch_rows_max // 8:
            await self._pause(self._settings.batch_linger_ms / 1000)

    async def _pause(self, seconds: float) -> None:
        if not seconds:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
