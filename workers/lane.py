"""A lane of a writer: one stream, decided by the same seven steps with a decision of its own."""

from collections.abc import MutableMapping
from typing import Protocol

from contracts.topics import Stream
from stock_ledger.ledger import Claim
from workers.intake import Intake
from workers.log import Batch

Claims = MutableMapping[int, Claim]  # by partition


class Lane(Protocol):
    """What a writer needs of a lane."""

    stream: Stream
    intake: Intake

    async def step(self, batch: Batch, claims: Claims) -> int:
        """Decide a batch under the claims, which are advanced with the commit; gives how many messages that were."""
        ...

    async def publish_again(self, partition: int, start: int, end: int) -> None:
        """Show and publish what was told of the decisions at offsets start ≤ offset < end, word for word."""
        ...
