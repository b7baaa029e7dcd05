"""Polls that come together are one read of the view, and fail together when it falls silent."""

import asyncio
from collections.abc import Sequence

import pytest

from api.gathered import CHECKOUTS_MAX, GatheredPolls
from contracts.errors import Unavailable
from stock_ledger.view import CheckoutsView, Progress
from tests.harness import eventually


class View:
    """Answers, or fails, once its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.reads: list[int] = []
        self.error: Exception | None = None

    async def progress(self, partitions: Sequence[int]) -> dict[int, Progress]:
        raise NotImplementedError

    async def checkouts(self, checkout_ids: Sequence[str], partitions: Sequence[int]) -> CheckoutsView:
        self.reads.append(len(checkout_ids))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return CheckoutsView([{"p": i.encode()} for i in checkout_ids], {})


async def polled(view: View, count: int) -> list[object]:
    """What becomes of so many at once: its document, or the type of an error."""
    polls = GatheredPolls(view)
    asking = asyncio.gather(*(polls.checkout(str(n), [0]) for n in range(count)), return_exceptions=True)
    await eventually(lambda: bool(view.reads))
    view.gate.set()
    return [type(one) if isinstance(one, BaseException) else one.results["p"] for one in await asking]


async def test_each_has_its_own_answer_and_a_read_has_only_so_many() -> None:
    view = View()
    count = 2 * CHECKOUTS_MAX + 5
    assert await polled(view, count) == [str(n).encode() for n in range(count)]
    assert view.reads == [CHECKOUTS_MAX, CHECKOUTS_MAX, 5]


async def test_all_that_wait_fail_with_the_read_that_found_the_cache_away() -> None:
    view = View()
    view.error = Unavailable("cache: silent")
    count = 20 * CHECKOUTS_MAX
    assert await polled(view, count) == [Unavailable] * count
    assert view.reads == [CHECKOUTS_MAX]


async def test_another_error_is_of_its_own_read_alone() -> None:
    view = View()
    view.error = ValueError("planted")
    count = CHECKOUTS_MAX + 1
    assert await polled(view, count) == [ValueError] * count
    assert view.reads == [CHECKOUTS_MAX, 1]


async def test_who_asks_after_a_failure_is_read_for_again() -> None:
    view = View()
    view.error = Unavailable("cache: silent")
    polls = GatheredPolls(view)
    view.gate.set()
    with pytest.raises(Unavailable):
        await polls.checkout("a", [0])
    view.error = None
    assert (await polls.checkout("b", [0])).results == {"p": b"b"}
