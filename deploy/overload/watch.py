"""What is seen of a deployment while it is under load: resident memory of every process, and what waits."""

import asyncio
import time
from collections import defaultdict
from typing import Any

import psutil

from contracts.settings import Settings
from contracts.topics import Topics
from deploy.fleet import Fleet
from deploy.overload.verdict import Look
from deploy.progress import decided
from deploy.records import Records, reading
from stock_ledger.pool import connect_pool

_EVERY_S = 0.5
_MB = 1024 * 1024


class Watch:
    """Looks every half second, until cancelled."""

    def __init__(self, settings: Settings, fleet: Fleet) -> None:
        self._settings = settings
        self._fleet = fleet
        self.looks: list[Look] = []
        self.peak_mb: dict[str, float] = defaultdict(float)  # resident memory, by member

    async def run(self) -> None:
        topic = Topics(self._settings).checkouts
        pool = await connect_pool(self._settings)
        try:
            async with reading(self._settings) as log:
                while True:
                    await self._look(log, topic, pool)
                    self._weigh()
                    await asyncio.sleep(_EVERY_S)
        finally:
            await pool.close()

    def since(self, at: float) -> list[Look]:
        return [look for look in self.looks if look.at >= at]

    async def _look(self, log: Records, topic: str, pool: Any) -> None:
        count = await decided(pool)
        ends = await log.ends(topic)
        self.looks.append(Look(time.monotonic(), count, sum(ends.values()) - count))

    def _weigh(self) -> None:
        for member in self._fleet.members:
            if member.process is None:
                continue
            try:
                mb = psutil.Process(member.process.pid).memory_info().rss / _MB
            except psutil.NoSuchProcess:
                continue  # it is being restarted
            self.peak_mb[member.name] = max(self.peak_mb[member.name], mb)
