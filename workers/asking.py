"""Commands into the log, for those who ask by time."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from contracts.commands import Command, encode_command

Send = Callable[[bytes, bytes, int], Awaitable[Awaitable[Any]]]  # key, value, partition -> its ack


async def ask_all(commands: Iterable[Command], partitions: int, send: Send) -> None:
    """Returns when all are acknowledged. Raises what a send or its ack raises."""
    acks = [await send(c.subject().encode(), encode_command(c), c.partition(partitions)) for c in commands]
    for ack in acks:
        await ack
