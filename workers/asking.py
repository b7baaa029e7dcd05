"""Commands into the log, for those who ask by time."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from aiokafka.errors import KafkaError

from contracts.commands import Command, encode_command
from contracts.errors import NotAcknowledged
from contracts.settings import Settings

logger = logging.getLogger(__name__)

Send = Callable[[bytes, bytes, int], Awaitable[Awaitable[Any]]]  # key, value, partition -> its ack


async def ask_all(commands: Iterable[Command], settings: Settings, send: Send) -> bool:
    """Returns whether all are acknowledged: what is not is logged, and to be asked again.

    Each partition has `produce_ack_deadline_s` for its own, beside the others: one that takes nothing keeps none of them.
    """
    by_partition: dict[int, list[Command]] = defaultdict(list)
    for command in commands:
        by_partition[command.partition(settings.partitions)].append(command)
    deadline_s = settings.produce_ack_deadline_s
    return all(await asyncio.gather(*(_ask(p, of_p, deadline_s, send) for p, of_p in by_partition.items())))


async def _ask(partition: int, commands: Sequence[Command], deadline_s: float, send: Send) -> bool:
    try:
        async with asyncio.timeout(deadline_s):
            acks = [await send(c.subject().encode(), encode_command(c), partition) for c in commands]
            for ack in acks:
                await ack
    except (KafkaError, NotAcknowledged, TimeoutError) as error:
        logger.warning(
            "%d commands of partition %d were not all acknowledged: %r",
            len(commands),
            partition,
            error,
            extra={"action": "produce_failed"},
        )
        return False
    return True
