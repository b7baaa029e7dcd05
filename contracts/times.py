"""Unix milliseconds to UTC datetimes and back, exactly."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


@lru_cache(maxsize=4096)  # what comes in together comes in the same millisecond
def from_ms(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)


def to_ms(moment: datetime) -> int:
    return (moment - _EPOCH) // _MS


def to_ms_up(moment: datetime) -> int:
    """The first whole millisecond that is not before the moment."""
    return -((_EPOCH - moment) // _MS)
