"""What streams does while Postgres is away."""

import logging

import pytest

from contracts.errors import Unavailable
from workers.streams import Events, keep


async def test_figures_wait_until_postgres_is_back(caplog: pytest.LogCaptureFixture) -> None:
    """They do not end the process, which has timers and refunds to see to."""
    asked: list[Events] = []

    async def add(events: Events) -> None:
        asked.append(events)
        if len(asked) < 3:
            raise Unavailable("the server is away")

    events = {0: [(7, b"{}")]}
    with caplog.at_level(logging.WARNING):
        await keep(add, events, retry_s=0, patience_s=60)
    assert asked == [events] * 3
    assert [record.getMessage() for record in caplog.records] == ["figures wait: the server is away"] * 2


async def test_an_event_that_nobody_can_fold_is_not_tried_again() -> None:
    async def add(_: Events) -> None:
        raise ValueError("not JSON")

    with pytest.raises(ValueError, match="not JSON"):
        await keep(add, {0: [(7, b"")]}, retry_s=0, patience_s=60)


async def test_figures_do_not_wait_for_ever() -> None:
    async def add(_: Events) -> None:
        raise Unavailable("the server is away")

    with pytest.raises(Unavailable, match="the server is away"):
        await keep(add, {0: [(7, b"{}")]}, retry_s=0, patience_s=0)
