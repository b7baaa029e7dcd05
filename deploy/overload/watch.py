"""What is seen of a deployment while it is under load: resident memory of every process, and what waits."""

import asyncio
import time
from collections import defaultdict
from typing import Any

from contracts.settings import Settings
from contracts.topics import Topics
from deploy.fleet import Fleet
from deploy.overload.verdict import Look
from deploy.progress import decided
from deploy.records import Records, reading
from stock_ledger.pool import connect_pool

_EVERY_S = 0.5


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
                    await self._weigh()
                    await asyncio.sleep(_EVERY_S)
        finally:
            await pool.close()

    def since(self, at: float) -> list[Look]:
        return [look for look in self.looks if look.at >= at]

    async def _look(self, log: Records, topic: str, pool: Any) -> None:
        count = await decided(pool)
        ends = await log.ends(topic)
        self.looks.append(Look(time.monotonic(), count, sum(ends.values()) - count))

    async def _weigh(self) -> None:
        """By ps, which Linux and macOS have."""
        names = {m.process.pid: m.name for m in self._fleet.members if m.process is not None}
        pids = ",".join(map(str, names))
        process = await asyncio.create_subprocess_exec("ps", "-o", "pid=,rss=", "-p", pids, stdout=-1)
        output, _ = await process.communicate()
        for line in output.decode().splitlines():
            pid, kib = line.split()
            name = names[int(pid)]
            self.peak_mb[name] = max(self.peak_mb[name], int(kib) / 1024)
