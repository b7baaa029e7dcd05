"""Whether a writer lives: its own account of progress, and a watchdog that ends a process that makes none."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from contracts.settings import Settings

logger = logging.getLogger(__name__)

STALLED_EXIT_CODE = 70  # EX_SOFTWARE: whoever runs the process starts it again


class Health:
    """Progress as the writer reports it. Read by /readyz and by the watchdog."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._progress_at = self._alive_at = monotonic()
        self._problem = "the group has not assigned partitions yet"
        self._decided = 0
        self._partitions = 0
        self._rounds: dict[object, float] = {}  # of chores, that go on, and when they should have ended

    def progressed(self, partitions: int) -> None:
        """A round of the loop went through, whether or not there was anything to decide."""
        self._progress_at = self._alive_at = self._monotonic()
        self._partitions = partitions
        self._problem = ""

    def heartbeat(self) -> None:
        """A part of a long round is done. It does not make the process ready, but the watchdog waits for the rest."""
        self._alive_at = self._monotonic()

    @contextmanager
    def round(self, within_s: float) -> Iterator[None]:
        """Around a round of a chore that is done by time. One that takes longer holds the process up."""
        going_on = object()
        self._rounds[going_on] = self._monotonic() + within_s
        try:
            yield
        finally:
            del self._rounds[going_on]

    def is_held_up(self) -> bool:
        return any(until < self._monotonic() for until in self._rounds.values())

    def decided(self, count: int) -> None:
        self._decided += count

    def failed(self, error: Exception) -> None:
        self._problem = str(error)

    def stalled_s(self) -> float:
        """For how long nothing went on: what the watchdog goes by."""
        return self._monotonic() - self._alive_at

    def report(self) -> tuple[bool, dict[str, object]]:
        """(ready, what to tell)."""
        stalled_s = self._monotonic() - self._progress_at
        ready = not self._problem and stalled_s < self._settings.not_ready_after_s
        told: dict[str, object] = {
            "partitions": self._partitions,
            "decided": self._decided,
            "last_progress_s": round(stalled_s, 1),
        }
        if self._problem:
            told["problem"] = self._problem
        return ready, told


@contextmanager
def ended_within(seconds: float, code: int) -> Iterator[None]:
    """Around a stop that may hang: a thread of its own ends the process with `code` then, and nothing else happens."""

    def end() -> None:
        logger.warning(
            "did not stop within %.0f s: what was under way is left", seconds, extra={"action": "shutdown"}
        )
        logging.shutdown()
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def start_watchdog(health: Health, settings: Settings, stop: threading.Event) -> threading.Thread:
    """A thread of its own, so that a blocked event loop cannot hold it up, ends the process after `stall_exit_s`."""

    def watch() -> None:
        while not stop.wait(1.0):
            if health.stalled_s() > settings.stall_exit_s:
                logger.critical(
                    "no progress for %.0f s: exiting so that another writer takes over",
                    health.stalled_s(),
                    extra={"action": "stalled"},
                )
                logging.shutdown()
                os._exit(STALLED_EXIT_CODE)

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    return thread
