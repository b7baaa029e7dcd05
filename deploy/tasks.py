"""Tasks that are given up."""

import asyncio
from collections.abc import Iterable
from typing import Any


async def give_up(tasks: Iterable["asyncio.Task[Any]"]) -> list[Any]:
    """Cancel the tasks and wait until all have ended; what each came to, errors and cancellations among it."""
    left = list(tasks)
    for task in left:
        task.cancel()
    return await asyncio.gather(*left, return_exceptions=True)
