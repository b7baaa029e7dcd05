"""A lane of a writer: one stream, decided by the same seven steps with a decision of its own."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import NamedTuple, Protocol

from contracts.topics import Stream
from stock_ledger.ledger import Claim
from workers.intake import Intake
from workers.log import Batch

Claims = MutableMapping[int, Claim]  # by partition


class Persisted(NamedTuple):
    """A batch that is committed: how many messages it had, and what is left to do, in the order of the batches.

    `finish` raises what `View`, `Log.publish` and `Log.commit` do; it can be repeated from Postgres.
    """

    messages: int
    finish: Callable[[], Awaitable[None]]


class Lane(Protocol):
    """What a writer needs of a lane."""

    stream: Stream
    intake: Intake

    async def step(self, batch: Batch, claims: Claims) -> Persisted | None:
        """Decide a batch under the claims, which are advanced with the commit. None if there was nothing to decide.

        The next batch may be decided before this one is finished.
        """
        ...

    async def publish_again(self, partition: int, start: int, end: int) -> None:
        """Show and publish what was told of the decisions at offsets start ≤ offset < end, word for word."""
        ...
