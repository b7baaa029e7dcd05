"""Logs as one JSON object a line, on standard error."""

import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime

import orjson

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_REPEATED_EVERY_S = 10.0
_TEXTS_MAX = 1000


class JsonLines(logging.Formatter):
    """Time, level, logger, message, what `extra` gave, and the exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # what somebody else said may be no text, as half a surrogate pair is none
            return orjson.dumps({name: _escaped(value) for name, value in line.items()}).decode()


class Repeats(logging.Filter):
    """Lets a warning or an error through once in `every_s`, however often it comes: `repeated` of the next one tells.

    A client of a server that is away says the same many times a second, and nothing else would be seen.
    """

    def __init__(self, every_s: float, monotonic: Callable[[], float]) -> None:
        super().__init__()
        self._every_s = every_s
        self._monotonic = monotonic
        self._told: dict[str, tuple[float, int]] = {}  # when, and how often it was left out since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or record.exc_info:
            return True
        now, text = self._monotonic(), f"{record.name} {record.getMessage()} {_extra(record)}"
        told_at, left_out = self._told.get(text, (-math.inf, 0))
        if now - told_at < self._every_s:
            self._told[text] = (told_at, left_out + 1)
            return False
        if len(self._told) >= _TEXTS_MAX:
            self._told.clear()
        self._told[text] = (now, 0)
        if left_out:
            record.repeated = left_out
        return True


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


def _escaped(value: object) -> str:
    return str(value).encode(errors="backslashreplace").decode()


def set_up(level: str) -> None:
    """Send every logger's records of `level` and above to standard error, repeated ones now and then."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    handler.addFilter(Repeats(_REPEATED_EVERY_S, time.monotonic))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("aiokafka").setLevel(max(logging.WARNING, logging.getLogger().level))
