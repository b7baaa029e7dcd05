"""What the simulation found once, planted again: each undoes a mend. docs/reliability.md tells the causes."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

from api.checkouts import Checkouts
from api.marks import Marks
from contracts.topics import Stream, partition_of
from ingest import publisher as publishing
from ingest.gate import SoldOutGate
from stock_ledger.ledger import Claim
from stock_ledger.view import Progress
from tests.simulation.plants import Plant
from workers import writer as writing
from workers.log import Batch, pieces
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


def gate_of_a_new_process_believes_what_stands_still() -> AbstractContextManager[Any]:
    """What an ingest process finds at its first look counts as if the writer had just been seen to live."""
    original = SoldOutGate.refresh

    async def refresh(self: SoldOutGate) -> None:
        now = self._monotonic()

        class Believing(dict[int, tuple[Progress, float]]):
            def get(self, partition: int, default: Any = None) -> Any:
                return super().get(partition, (default[0], now))

        self._seen = Believing(self._seen)
        await original(self)

    return patch.object(SoldOutGate, "refresh", refresh)


def gate_of_a_stopped_process_is_as_it_was() -> AbstractContextManager[Any]:
    """What a look tells counts until the next one, whenever that is."""

    def is_sold_out(self: SoldOutGate, stock_id: str) -> bool:
        sold_out, _ = self._sold_out.get(partition_of(stock_id, self._settings.partitions), ((), 0.0))
        return stock_id in sold_out

    return patch.object(SoldOutGate, "_is_sold_out", is_sold_out)


def look_at_the_gates_counts_from_its_answer() -> AbstractContextManager[Any]:
    """However long it was on its way."""
    original = SoldOutGate.refresh

    async def refresh(self: SoldOutGate) -> None:
        view = self._view
        [answer] = await asyncio.gather(view.gates(range(self._settings.partitions)), return_exceptions=True)
        self._view = Mock(gates=AsyncMock(side_effect=[answer]))
        await original(self)
        self._view = view

    return patch.object(SoldOutGate, "refresh", refresh)


def beat_before_what_became_of_the_batch_is_heard() -> AbstractContextManager[Any]:
    """It shows the claims as they would be with a batch that has failed."""

    async def step(self: Writer, batch: Mapping[Stream, Batch]) -> None:
        for lane in (lane for lane in self._lanes if lane.stream in batch):
            for piece in pieces(batch[lane.stream], self._settings.batch_bytes_max):
                async with self._busy:
                    await self._decide(lane, piece)
        async with self._busy:
            await self._shelf.beat(self._still())

    def still(self: Writer) -> Mapping[int, Claim]:
        if self._under_way is None or self._under_way.is_over:
            return self._claims
        return {p: c for p, c in self._claims.items() if p not in self._under_way.partitions}

    return patch.multiple(Writer, step=step, _still=still)


def commands_told_again_before_lines() -> AbstractContextManager[Any]:
    """What became of an order, before it was made: if both were decided when telling the first failed."""
    return patch.object(writing, "reversed", lambda lanes: lanes, create=True)


# With the seed of the run that shows it. Whatever changes the course of a run makes another seed show it.
REGRESSIONS: dict[Plant, int] = {
    view_believed_after_a_failover: 0,
    view_that_was_gone_believed_while_postgres_is_away: 3,
    age_of_a_reading_counts_from_its_answer: 10,
    acks_awaited_without_end: 94,
    late_claim_not_claimed_back: 27,
    gate_of_a_new_process_believes_what_stands_still: 1,
    answer_that_does_not_end_an_outage: 688,
    beat_before_what_became_of_the_batch_is_heard: 7237,
    gate_of_a_stopped_process_is_as_it_was: 11,
    look_at_the_gates_counts_from_its_answer: 28,
    answer_to_an_older_question_ends_a_doubt: 2462,
    commands_told_again_before_lines: 13,
}
