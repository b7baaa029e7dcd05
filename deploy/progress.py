"""How far a deployment has come with what lies in its log."""

import asyncio
import time
from typing import Any

from contracts.settings import Settings
from contracts.topics import Topics
from deploy.topics import end_offsets
from stock_ledger.pool import acquired, connect_pool

DECIDED = "SELECT coalesce(sum(next_offset), 0)::bigint FROM partition_state"
_LOOK_S = 0.01


async def decided(pool: Any) -> int:
    """How many messages are decided."""
    async with acquired(pool) as connection:
        return int(await connection.fetchval(DECIDED))


async def drained(settings: Settings) -> float | None:
    """Wait until everything in the log is decided; messages per second from the first progress seen to the last.

    None if no progress was seen before all was decided: then it was not measured.
    """
    end_of_log = sum((await end_offsets(settings, Topics(settings).checkouts)).values())
    pool = await connect_pool(settings)
    try:
        start = await decided(pool)
        first: tuple[float, int] | None = None
        while (count := await decided(pool)) < end_of_log:
            if first is None and count > start:
                first = (time.monotonic(), count)
            await asyncio.sleep(_LOOK_S)
        if first is None:
            return None
        return (count - first[1]) / max(time.monotonic() - first[0], 1e-9)
    finally:
        await pool.close()
