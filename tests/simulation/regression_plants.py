"""What the simulation found once, planted again: each undoes the mend. docs/reliability.md tells the causes."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from api.marks import Marks
from ingest import publisher as publishing
from tests.simulation.plants import Plant
from workers.writer import Writer


def view_believed_after_a_failover() -> AbstractContextManager[Any]:
    """Places are told from the view, the highest that was seen, and Postgres is not asked."""
    return patch.multiple(
        Marks, due=lambda self, partitions, since: set(), decided=lambda self, positions: None
    )


def view_that_was_gone_believed_while_postgres_is_away() -> AbstractContextManager[Any]:
    """A replica that has not looked lately, or that is new, takes the place from what the cache fell back to."""

    def untold(self: Marks, partitions: Iterable[int], progress: Mapping[int, Any]) -> list[int]:
        return [p for p in partitions if self._mark(p).is_away and p not in progress]

    return patch.object(Marks, "untold", untold)


def acks_awaited_without_end() -> AbstractContextManager[Any]:
    """A batch whose ack never comes keeps its partition of an ingest process."""

    class Patient:
        """asyncio without deadlines."""

        def __getattr__(self, name: str) -> Any:
            return getattr(asyncio, name)

        def timeout(self, _: float) -> asyncio.Timeout:
            return asyncio.timeout(None)

    return patch.object(publishing, "asyncio", Patient())


def late_claim_not_claimed_back() -> AbstractContextManager[Any]:
    """Whoever loses a partition to the late claim of a zombie waits for the group to assign anew."""

    async def claim_assigned(self: Writer) -> None:
        generation, assigned = self._log.assigned()
        if generation == self._generation and not self._in_doubt:
            return
        self._in_doubt = True
        held = sorted(assigned & self._claims.keys())
        true = await self._ledger.state(held) if held else {}
        self._claims = {p: claim for p, claim in true.items() if claim.epoch == self._claims[p].epoch}
        if generation != self._generation and (fresh := sorted(assigned - self._claims.keys())):
            self._claims |= await self._ledger.claim(fresh, self._owner, self._clock())
        self._generation = generation
        await self._take_up(self._claims)
        self._in_doubt = False

    return patch.object(Writer, "_claim_assigned", claim_assigned)


REGRESSION_PLANTS: tuple[Plant, ...] = (
    view_believed_after_a_failover,
    view_that_was_gone_believed_while_postgres_is_away,
    acks_awaited_without_end,
    late_claim_not_claimed_back,
)
