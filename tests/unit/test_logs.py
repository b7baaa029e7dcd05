"""What is written to the log, and what is not for having been written just now."""

import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from deploy.logs import JsonLines, Repeats
from tests.harness import Clock

AWAY = "Unable connect to node with id %s: %s"


class Written(logging.Handler):
    """Lines, as they would be on standard error."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.addFilter(Repeats(10.0, clock.monotonic))
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(orjson.loads(self.format(record)))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logger() -> logging.Logger:
    found = logging.getLogger("tests.unit.test_logs")
    found.setLevel(logging.INFO)
    found.propagate = False
    return found


@pytest.fixture
def written(clock: Clock, logger: logging.Logger) -> Iterator[Written]:
    handler = Written(clock)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def test_what_is_said_all_the_time_is_told_now_and_then(
    clock: Clock, logger: logging.Logger, written: Written
) -> None:
    for _ in range(1001):
        logger.error(AWAY, 1, "refused")
        clock.tick(0.01)
    logger.error(AWAY, 1, "refused")
    assert [line.get("repeated") for line in written.lines] == [None, 999]


def test_what_differs_in_anything_is_told_at_once(logger: logging.Logger, written: Written) -> None:
    logger.error(AWAY, 1, "refused")
    logger.error(AWAY, 2, "refused")
    logger.error(AWAY, 1, "timed out")
    logger.warning("partitions lost", extra={"partitions": [1]})
    logger.warning("partitions lost", extra={"partitions": [2]})
    assert len(written.lines) == 5


def test_news_and_traces_are_always_told(logger: logging.Logger, written: Written) -> None:
    for _ in range(2):
        logger.info("partitions assigned")
        logger.error("failed", exc_info=ValueError("no"))
    assert len(written.lines) == 4


def test_texts_that_never_come_again_are_forgotten(clock: Clock, logger: logging.Logger) -> None:
    repeats = Repeats(10.0, clock.monotonic)
    for number in range(5000):
        assert repeats.filter(logging.LogRecord("n", logging.ERROR, "", 0, str(number), (), None))
    assert len(repeats._told) <= 1000


def test_what_is_no_text_is_escaped() -> None:
    """It is somebody else's answer, and the line would be lost."""
    error = ValueError("\ud800")
    said = {"msg": "they said %s", "args": ("\ud800",), "action": "refund_failed", "levelname": "ERROR"}
    record = logging.makeLogRecord(said | {"exc_info": (ValueError, error, None)})
    line = orjson.loads(JsonLines().format(record))
    assert (line["message"], line["action"]) == ("they said \\ud800", "refund_failed")
    assert line["exception"] == "ValueError: \\ud800"
