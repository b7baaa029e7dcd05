"""Timers: what is due becomes commands, which the partitions' writers decide. Any number of processes may ask."""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime

from contracts.commands import Command
from contracts.errors import Unavailable
from contracts.settings import Settings
from stock_ledger.commands.due import Due, DueReads, Position, abandon, expire
from workers.asking import Send, ask_all

logger = logging.getLogger(__name__)


class Timers:
    """Payments and all-or-nothing checkouts that are late, asked to be ended."""

    def __init__(self, due: DueReads, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        self._clock = clock
        self._kinds: list[tuple[Position, Callable[..., Awaitable[list[Due]]], Callable[..., Command]]] = [
            (Position(settings.timer_again_s), due.payments, expire),
            (Position(settings.timer_again_s), due.gatherings, abandon),
        ]

    async def ask(self, send: Send) -> None:
        """Ask for everything that is due now and was not asked for lately. Returns when it is in the log, or to be asked
        again.
        """
        now = self._clock()
        for position, read, command_of in self._kinds:
            try:
                found = await read(now, position.start(now), self._settings.timer_rows_max)
            except Unavailable as error:
                logger.warning("timers wait: %s", error, extra={"action": "timers"})
                return
            asked = await ask_all([command_of(due, now) for due in found], self._settings, send)
            position.moved(found, is_end=len(found) < self._settings.timer_rows_max, missed=not asked)
