"""What the simulation found once, planted again: each undoes the mend. docs/reliability.md tells the causes."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from api.checkouts import Checkouts
from api.marks import Marks
from ingest import publisher as publishing
from stock_ledger.ledger import Claim
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
    original = Writer._claim

    async def claim(self: Writer, partitions: Sequence[int]) -> dict[int, Claim]:
        if self._log.assigned()[0] == self._generation:
            return {}
        return await original(self, partitions)

    return patch.object(Writer, "_claim", claim)


def age_of_a_reading_counts_from_its_answer() -> AbstractContextManager[Any]:
    """A reading of Postgres counts as fresh when it comes, however long ago it was asked for."""
    original = Marks.confirmed

    def confirmed(
        self: Marks, partitions: Iterable[int], next_offsets: Mapping[int, int], asked_at: float
    ) -> None:
        original(self, partitions, next_offsets, self._monotonic())

    return patch.object(Marks, "confirmed", confirmed)


def answer_that_does_not_end_an_outage() -> AbstractContextManager[Any]:
    """After an outage Postgres is left alone for as long again as if it were still away."""
    original = Marks.confirmed

    def confirmed(
        self: Marks, partitions: Iterable[int], next_offsets: Mapping[int, int], asked_at: float
    ) -> None:
        before = {p: (self._mark(p).away_until, self._mark(p).is_away) for p in partitions}
        original(self, partitions, next_offsets, asked_at)
        for p, (away_until, is_away) in before.items():
            self._mark(p).away_until, self._mark(p).is_away = away_until, is_away

    return patch.object(Marks, "confirmed", confirmed)


@contextmanager
def answer_to_an_older_question_ends_a_doubt() -> Iterator[None]:
    """What Postgres was asked before the view was found gone, or was back, makes it believed."""
    original = Marks.confirmed

    def confirmed(
        self: Marks, partitions: Iterable[int], next_offsets: Mapping[int, int], asked_at: float
    ) -> None:
        original(self, partitions, next_offsets, asked_at)
        for p in partitions:
            self._mark(p).in_doubt = False

    never_gone = property(lambda _: None, lambda _, __: None)
    with (
        patch.object(Marks, "confirmed", confirmed),
        patch.object(Checkouts, "_gone_at", never_gone, create=True),
    ):
        yield


REGRESSION_PLANTS: tuple[Plant, ...] = (
    view_believed_after_a_failover,
    view_that_was_gone_believed_while_postgres_is_away,
    acks_awaited_without_end,
    late_claim_not_claimed_back,
    age_of_a_reading_counts_from_its_answer,
    answer_that_does_not_end_an_outage,
    answer_to_an_older_question_ends_a_doubt,
)

# Where to begin with those that only one seed of hundreds or thousands shows.
FIRST_SEEDS = {
    age_of_a_reading_counts_from_its_answer.__name__: 374,
    answer_that_does_not_end_an_outage.__name__: 112,
    answer_to_an_older_question_ends_a_doubt.__name__: 8006752,
}
