"""GET /v1/checkouts/{checkout_id}: the place in the queue, then the decisions. The view first, Postgres else."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from api.gathered import GatheredPolls, Shown
from api.marks import Marks
from api.status import (
    Answer,
    answer_of,
    answers_of_view,
    are_complete,
    by_product,
    checkout_status,
    decided_line,
    followed,
    queued_line,
)
from api.whole import Whole, ended_line, read_whole, waits_for_the_whole
from contracts import problems
from contracts.decisions import Decision
from contracts.errors import Unavailable
from contracts.keys import WHOLE
from contracts.outcomes import Kind
from contracts.problems import Problem
from contracts.receipts import Receipt
from contracts.requests import CheckoutStatus
from contracts.settings import Settings
from stock_ledger.reads import Position
from stock_ledger.view import Progress

logger = logging.getLogger(__name__)


class Decisions(Protocol):
    """What is needed of `stock_ledger.reads.Reads`."""

    async def next_offsets(self, partitions: Sequence[int]) -> dict[int, int]: ...

    async def decisions_at(self, positions: Sequence[Position]) -> dict[Position, Decision]: ...

    async def decisions_of_checkout(self, checkout_id: str) -> list[Decision]: ...

    async def conflicts_of_checkout(self, checkout_id: str) -> list[Decision]: ...

    async def whole_answer(self, checkout_id: str) -> bytes | None: ...


class Checkouts:
    """Reads the status of checkouts.

    With a receipt, a line is decided exactly when its own position is: at that position lies its decision, the
    refusal of a conflicting payload, a repeat of an earlier decision, or a dead letter; or that it was forwarded, then it
    has the decision of the checkout's line of that product, if there is one already. Where the lines are of an
    all-or-nothing checkout, all of them being decided is not the end: only the one answer is. That it is not there yet
    is told by Postgres, never by the view alone, which may have lost it. A cache that does not answer is left alone
    for `cache_retry_s`.
    """

    def __init__(
        self, reads: Decisions, view: Shown, settings: Settings, monotonic: Callable[[], float]
    ) -> None:
        self._reads = reads
        self._polls = GatheredPolls(view)
        self._cache_retry_s = settings.cache_retry_s
        self._monotonic = monotonic
        self._away_until = 0.0
        self._gone_at: float | None = None  # when the cache failed last, until it answers again
        self._marks = Marks(settings.gate_stale_s, monotonic)
        self._asking = asyncio.Lock()

    async def of_receipt(self, checkout_id: str, buyer_id: str, receipt: Receipt) -> CheckoutStatus:
        """The status of a checkout whose receipt was verified for this buyer.

        Raises Unavailable if neither the cache nor Postgres can tell.
        """
        positions = receipt.positions
        partitions = sorted({partition for partition, _ in positions})
        answers, progress, whole = await self._shown(checkout_id, buyer_id, partitions)
        found = {(a.partition, a.offset): a for a in answers}
        self._marks.decided(found)
        self._marks.shown(progress)
        waiting = [position for position in positions if position not in found]
        if waiting:
            await self._advance(
                {p for p, offset in waiting if offset >= self._marks.next_offset(p)}, progress
            )
            passed = [(p, offset) for p, offset in waiting if offset < self._marks.next_offset(p)]
            if passed:
                found |= await self._decided(checkout_id, buyer_id, passed)
        if all(position in found for position in positions):
            own = list(enumerate(found[position] for position in positions))
            return await self._decided_status(checkout_id, buyer_id, own, len(positions), whole)
        lines = [
            decided_line(line, found[position])
            if position in found
            else queued_line(
                line,
                position,
                self._marks.next_offset(position[0]),
                self._marks.decided_per_s(position[0]),
            )
            for line, position in enumerate(positions)
        ]
        return checkout_status(checkout_id, lines, len(positions))

    async def of_buyer(self, checkout_id: str, buyer_id: str) -> CheckoutStatus | None:
        """What is decided of the buyer's checkout; None if nothing is, as far as can be known without a receipt.

        A message that no one could read is nobody's: a line that is dead-lettered counts as one that waits. An
        all-or-nothing checkout has its end all the same, once it is refused as a whole.

        Raises Unavailable if neither the cache nor Postgres can tell.
        """
        answers, _, whole = await self._shown(checkout_id, buyer_id, ())
        products = by_product(answers)
        if not are_complete(products):
            try:
                # Before the lines: of those that had their part in it none is missing then.
                if whole is None:
                    whole = read_whole(await self._reads.whole_answer(checkout_id), buyer_id)
                decisions = await self._reads.decisions_of_checkout(checkout_id)
            except Unavailable as error:
                if not products:
                    raise
                logger.warning("answering from the view alone: %s", error, extra={"action": "postgres_away"})
                whole = None  # lines may be missing that had their part in it
            else:
                products |= by_product(answer_of(d) for d in decisions if d.buyer_id == buyer_id)
        if not products:
            return None
        known = sorted(products.values(), key=lambda answer: (answer.line, answer.product_id))
        own = [(answer.line, answer) for answer in known]
        if are_complete(products):
            return await self._decided_status(checkout_id, buyer_id, own, known[0].lines, whole)
        if whole is not None and whole.order is None and waits_for_the_whole(known):
            return checkout_status(checkout_id, [ended_line(*one, whole) for one in own], len(own))
        return checkout_status(checkout_id, [decided_line(*one) for one in own], known[0].lines)

    async def _decided_status(
        self,
        checkout_id: str,
        buyer_id: str,
        own: Sequence[tuple[int, Answer]],
        count: int,
        whole: Whole | None,
    ) -> CheckoutStatus:
        """The status of a checkout all of whose lines are decided: final, unless it is all or nothing and has no
        answer as a whole. Before that the one answer counts for no line, so that none is told to be held again.
        """
        if not waits_for_the_whole(answer for _, answer in own):
            return checkout_status(checkout_id, [decided_line(*one) for one in own], count)
        if whole is None:
            whole = read_whole(await self._reads.whole_answer(checkout_id), buyer_id)
        if whole is None:
            lines = [decided_line(*one) for one in own]
            return checkout_status(checkout_id, lines, count, waits_for_the_whole=True)
        return checkout_status(checkout_id, [ended_line(*one, whole) for one in own], count)

    async def _shown(
        self, checkout_id: str, buyer_id: str, partitions: Sequence[int]
    ) -> tuple[list[Answer], dict[int, Progress], Whole | None]:
        """What the view holds; nothing if the cache is away. Once it is back it may be behind what it told others
        meanwhile.
        """
        asked_at = self._monotonic()
        if asked_at < self._away_until:
            return [], {}, None
        try:
            view = await self._polls.checkout(checkout_id, partitions)
        except Unavailable as error:
            self._gone_at = now = self._monotonic()
            self._away_until = now + self._cache_retry_s
            self._marks.doubt()
            logger.warning("answering from Postgres: %s", error, extra={"action": "cache_away"})
            return [], {}, None
        if self._gone_at is not None and asked_at >= self._gone_at:
            self._gone_at = None
            self._marks.doubt()
        whole = read_whole(view.results.get(WHOLE), buyer_id)
        return answers_of_view(view.results, buyer_id), view.progress, whole

    async def _advance(self, partitions: set[int], progress: dict[int, Progress]) -> None:
        """Hold the marks of `partitions` against Postgres. Raises Unavailable where nobody can tell."""
        since = self._monotonic()
        if self._marks.due(partitions, since):
            async with self._asking:
                due = self._marks.due(partitions, since)  # another poll may have asked meanwhile
                if due:
                    await self._confirm(sorted(due))
        if untold := self._marks.untold(partitions, progress):
            raise Unavailable(f"neither the cache nor Postgres tells how far partitions {untold} are decided")

    async def _confirm(self, partitions: list[int]) -> None:
        asked_at = self._marks.asking(partitions)
        try:
            next_offsets = await self._reads.next_offsets(partitions)
        except Unavailable as error:
            # With Postgres away nothing is decided: the view that stands still is right.
            logger.warning("answering from the view alone: %s", error, extra={"action": "postgres_away"})
            self._marks.away(partitions)
        else:
            self._marks.confirmed(partitions, next_offsets, asked_at)

    async def _decided(
        self, checkout_id: str, buyer_id: str, passed: Sequence[Position]
    ) -> dict[Position, Answer]:
        """The answers, from Postgres, at positions that were passed. A line that was forwarded may have none yet."""
        decisions = await self._reads.decisions_at(passed)
        own = {
            position: decision
            for position, decision in decisions.items()
            if decision.kind is Kind.DEAD
            or (decision.checkout_id == checkout_id and decision.buyer_id == buyer_id)
        }
        first_of = {
            position: (decision.partition, decision.first_offset)
            for position, decision in own.items()
            if decision.kind is Kind.REPEATED and decision.first_offset is not None
        }
        firsts = await self._reads.decisions_at(sorted(set(first_of.values()))) if first_of else {}
        final = {
            position: firsts[first_of[position]] if position in first_of else decision
            for position, decision in own.items()
            if position not in first_of or first_of[position] in firsts
        }
        missing = [position for position in passed if position not in final]
        if missing:
            await self._explain(checkout_id, missing)
        forwarded = {at: decision for at, decision in final.items() if decision.kind is Kind.FORWARDED}
        found = {at: answer_of(decision) for at, decision in final.items() if at not in forwarded}
        return found | await self._elsewhere(checkout_id, forwarded)

    async def _elsewhere(
        self, checkout_id: str, forwarded: Mapping[Position, Decision]
    ) -> dict[Position, Answer]:
        """The answers to forwarded lines, as far as they are decided."""
        found: dict[Position, Answer] = {}
        for ask in (self._reads.decisions_of_checkout, self._reads.conflicts_of_checkout):
            if waiting := {at: decision for at, decision in forwarded.items() if at not in found}:
                found |= followed(waiting, await ask(checkout_id))
        return found

    async def _explain(self, checkout_id: str, missing: Sequence[Position]) -> None:
        """A passed position without its decision waits again if Postgres was restored to an earlier state; else
        a decision is lost, which is nothing that asking again can mend.
        """
        next_offsets = await self._reads.next_offsets(sorted({partition for partition, _ in missing}))
        lost = [(p, offset) for p, offset in missing if offset < next_offsets.get(p, 0)]
        if lost:
            logger.error(
                "checkout %s has no decision at %s", checkout_id, lost, extra={"action": "decision_missing"}
            )
            raise Problem(
                problems.INTERNAL, "this checkout's decision cannot be found; the operators have been told"
            )
