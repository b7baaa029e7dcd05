"""The simulation's nodes: what becomes of them becomes of everything in them."""

import asyncio
from random import Random

from deploy.simulation.loop import Loop
from deploy.simulation.node import Node


async def hear_late() -> None:
    """A request is answered by an error while whoever sent it is still at something else."""
    answer = asyncio.get_running_loop().create_future()
    answer.set_exception(ValueError("nobody has heard of it"))
    await asyncio.sleep(1)
    await answer


def test_what_a_node_has_not_heard_of_as_it_is_killed_is_gone_with_it() -> None:
    """It is no violation: who is gone could not have handled it."""
    loop = Loop(Random(1))  # type: ignore[abstract]  # noqa: S311
    node = Node(loop, "node")

    async def world() -> None:
        node.start(hear_late())
        await asyncio.sleep(0.5)
        node.kill()
        await asyncio.sleep(1)

    loop.run(world())
    assert loop.errors == []
