"""A lane of a writer: one stream, decided by the same seven steps with a decision of its own; a batch on its way."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import NamedTuple, Protocol

from contracts.topics import Stream
from stock_ledger.batch import Decided
from stock_ledger.ledger import Claim
from stock_ledger.view import Shown
from workers.intake import Intake
from workers.log import Batch

Claims = MutableMapping[int, Claim]  # by partition


class Draft(Protocol):
    """What a batch comes to by now: until it is committed it may be decided again."""

    decided: Decided


class Ready(NamedTuple):
    """A batch that is decided: how many messages it has, where its partitions will be, and what is left to do.

    `persist` raises what the ledger does, and gives what is to be shown once it is committed. `finish` shows and
    publishes it; it raises what `Log.publish` and `Log.commit` do, and can be repeated from Postgres. `draft` is what
    the lane's next batch builds on, if it may be decided before this one is committed.
    """

    messages: int
    claims: Mapping[int, Claim]
    persist: Callable[[], Awaitable[Sequence[Shown]]]
    finish: Callable[[Sequence[Shown]], Awaitable[None]]
    draft: Draft | None = None


class UnderWay:
    """A batch that is persisted, then finished, in the order of the batches: the one `before` is finished first.

    `count` is told how many messages it has once they are committed.
    """

    def __init__(
        self, lane: "Lane", ready: Ready, before: "UnderWay | None", count: Callable[[int], None]
    ) -> None:
        self.lane = lane
        self.partitions = ready.claims.keys()
        self._draft = ready.draft
        self._committed = asyncio.create_task(_commit(ready, before, count))
        self._finished = asyncio.create_task(_finish(ready, self._committed))
        self._finished.add_done_callback(_heard)

    @property
    def decided(self) -> Decided | None:
        """What the next batch builds on. Another one than before is a reason to decide that again."""
        return None if self._draft is None else self._draft.decided

    @property
    def is_committed(self) -> bool:
        return self._committed.done()

    @property
    def is_over(self) -> bool:
        return self._finished.done()

    async def committed(self) -> None:
        """Wait for the commit, and for the batch before. Raises what kept them from it."""
        await self._committed

    async def finished(self) -> None:
        """Wait until it is shown and published. Raises what kept it from that."""
        await self._finished

    async def ended(self) -> None:
        """Wait until nothing of it goes on, whatever became of it."""
        await asyncio.wait([self._finished])


async def _commit(ready: Ready, before: UnderWay | None, count: Callable[[int], None]) -> Sequence[Shown]:
    shown = await ready.persist()
    count(ready.messages)
    if before is not None:
        await before.finished()
    return shown


async def both(showing: Awaitable[None], publishing: Awaitable[None]) -> None:
    """Show and publish, side by side. Raises the error of either, when neither goes on."""
    for error in await asyncio.gather(showing, publishing, return_exceptions=True):
        if error is not None:
            raise error


async def _finish(ready: Ready, committed: "asyncio.Future[Sequence[Shown]]") -> None:
    await ready.finish(await committed)


def _heard(finished: "asyncio.Future[None]") -> None:
    """Its error may find nobody waiting for it: where the writer is in doubt for another one, that does not matter."""
    if not finished.cancelled():
        finished.exception()


class Lane(Protocol):
    """What a writer needs of a lane."""

    stream: Stream
    intake: Intake

    async def decide(self, batch: Batch, claims: Claims, before: UnderWay | None) -> Ready | None:
        """Decide a batch under the claims, which are advanced to where they will be. None if there was nothing to decide.

        `before` is the lane's batch before, if that is `decided` to be built on and not committed yet: unless it will be,
        this one counts for nothing, and if it is decided again, so is this one.
        """
        ...

    async def publish_again(self, partition: int, start: int, end: int) -> None:
        """Show and publish what was told of the decisions at offsets start ≤ offset < end, word for word."""
        ...
