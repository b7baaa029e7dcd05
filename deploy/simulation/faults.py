"""What goes wrong in a run. Each fault mends itself after a while, as operators and supervisors would see to."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from contracts.topics import Stream, partition_of
from deploy.simulation.broker import EVENTS
from deploy.simulation.network import Server
from deploy.simulation.node import Node
from deploy.simulation.world import ApiProcess, IngestProcess, Worker, World

WORKERS_MAX = 4
_CAUGHT_WITHIN_S = 0.5
_POISON = (b"{", b"", b"[]", b"\xff\xfe", b'{"v":2}', b'{"v":1,"checkout_id":"x"}', b"null")

Fault = Callable[[World], Awaitable[None]]
P = TypeVar("P", IngestProcess, ApiProcess, Worker)


async def kill_worker(world: World) -> None:
    if not world.workers:
        return
    worker = world.workers.pop(world.random.randrange(len(world.workers)))
    worker.node.kill()
    await asyncio.sleep(world.random.uniform(0.01, 0.8))
    world.add_worker()


async def pause_worker(world: World) -> None:
    """For longer than the session lasts: it is a zombie when it wakes up. Sometimes for less."""
    if not world.workers:
        return
    node = world.random.choice(world.workers).node
    node.pause()
    await asyncio.sleep(world.random.uniform(0.1, 3 * world.settings.session_timeout_ms / 1000))
    node.resume()


async def pause_claim(world: World) -> None:
    """A worker is paused with a claim on its way, which takes effect when others have its partitions. Soon after it
    has woken up, and maybe before anybody has heard of it, it may be gone for good.
    """
    await worker_joins(world)  # so that partitions are claimed
    worker = await _pause_call(world, world.postgres, "claim")
    if worker is None or world.random.random() < 0.5:
        return
    await world.loop.after(world.random.uniform(0.0, 0.05))
    if worker in world.workers and len(world.workers) > 1:
        world.workers.remove(worker)
        worker.node.kill()


async def pause_batch(world: World) -> None:
    """A worker is paused in mid-batch: its next effect comes when others have its partitions."""
    if len(world.workers) < 2:
        world.add_worker()
    calls = (
        ("load", world.postgres),
        ("persist", world.postgres),
        ("show", world.cache),
        ("commit", world.kafka),
    )
    name, server = world.random.choices(calls, (1, 3, 3, 1))[0]
    await _pause_call(world, server, name)


async def pause_commit(world: World) -> None:
    """A worker is paused with its partitions' rows locked."""
    await worker_joins(world)
    await _pause_call(world, world.postgres, "commit")


async def worker_leaves(world: World) -> None:
    """In good order; another one comes later."""
    if not world.workers:
        return
    world.random.choice(world.workers).writer.stop()
    await asyncio.sleep(world.random.uniform(0.05, 0.5))
    world.add_worker()


async def worker_joins(world: World) -> None:
    if len(world.workers) < WORKERS_MAX:
        world.add_worker()


async def rebalance(world: World) -> None:
    """The group shares out anew, as after a change of its metadata."""
    world.group.rebalance_wanted = True


async def kill_ingest(world: World) -> None:
    """Sometimes with only some lines of a checkout in the log."""
    if world.random.random() < 0.5:
        ingest = await _caught(
            world, world.kafka, "send_batch", world.ingests, lambda ingest: ingest.node.pause()
        )
        if ingest is not None:
            await _replace(world, world.ingests, world.ingests.index(ingest), IngestProcess, 0.3)
        return
    await _replace_one(world, world.ingests, IngestProcess, 0.3)


async def pause_ingest(world: World) -> None:
    node = world.random.choice(world.ingests).node
    node.pause()
    await asyncio.sleep(world.random.uniform(0.1, 1.0))
    node.resume()


async def kill_api(world: World) -> None:
    await _replace_one(world, world.apis, ApiProcess, 0.2)


async def flush_cache(world: World) -> None:
    world.flush_cache()


async def fail_over_cache(world: World) -> None:
    """To a replica that had fallen behind."""
    behind, since = world.cached.snapshot(), world.loop.time()
    await asyncio.sleep(world.random.uniform(0.01, 1.0))
    world.fail_over_cache(behind, since)


async def cache_away(world: World) -> None:
    """Postgres answers everybody meanwhile, and may be slow for that."""
    world.postgres.slow = world.random.choice((1.0, 5.0, 20.0, 40.0))
    await _away(world, world.cache, 0.8)
    world.postgres.slow = 1.0
    if world.random.random() < 0.5:
        world.flush_cache()  # it had nothing on disk


async def postgres_away(world: World) -> None:
    await _away(world, world.postgres, 0.8)


async def host_away(world: World) -> None:
    """Of Postgres, the cache and an api process. The cache fails over to a replica that had fallen behind; Postgres is
    back after a while, and slow for another.
    """
    behind, since = world.cached.snapshot(), world.loop.time()
    await asyncio.sleep(world.random.uniform(0.01, 1.0))
    world.fail_over_cache(behind, since)
    await asyncio.gather(_away(world, world.postgres, 0.8), kill_api(world))
    await _slow(world, world.postgres)


async def kafka_away(world: World) -> None:
    await _away(world, world.kafka, 0.8)


async def out_of_sync(world: World) -> None:
    """A partition of a topic has too few replicas in sync: it takes nothing in, the others do."""
    topic = world.random.choice((*Stream, EVENTS))
    place = (topic, world.random.randrange(world.broker.partitions))
    world.arrivals.refused.add(place)
    await asyncio.sleep(world.random.uniform(0.1, 1.0))
    world.arrivals.refused.discard(place)


async def replies_lost(world: World) -> None:
    """Effects whose answers do not come: commits unknown, acks lost, writes repeated."""
    server = world.random.choice(world.servers)
    server.losing = world.random.uniform(0.1, 0.6)
    await asyncio.sleep(world.random.uniform(0.1, 0.6))
    server.losing = 0.0


async def slow(world: World) -> None:
    await _slow(world, world.random.choice(world.servers))


async def all_slow(world: World) -> None:
    for server in world.servers:
        server.slow = 20.0
    await asyncio.sleep(world.random.uniform(0.1, 0.4))
    for server in world.servers:
        server.slow = 1.0


async def poison(world: World) -> None:
    """Messages that cannot be decoded, among the others."""
    for _ in range(world.random.randint(1, 4)):
        good = world.random.choice(world.goods)
        partition = partition_of(good.product_id, world.settings.partitions)
        key = good.product_id.encode()
        world.write(partition, key, world.random.choice(_POISON), is_poison=True)
        if world.random.random() < 0.5:
            offset = world.append_command(partition, key, world.random.choice(_POISON))
            world.auditor.of_commands.poison.add((partition, offset))
        await asyncio.sleep(world.random.uniform(0.0, 0.2))


async def deliver_again(world: World) -> None:
    """A message comes twice, as from a client that writes to the log by itself and retries."""
    partition = world.random.randrange(world.broker.partitions)
    commands = world.broker.commands.messages[partition]
    if commands and world.random.random() < 0.5:
        command = world.random.choice(commands)
        offset = world.append_command(partition, command.key, command.value)
        if (partition, command.offset) in world.auditor.of_commands.poison:
            world.auditor.of_commands.poison.add((partition, offset))
    messages = world.broker.messages[partition]
    if messages:
        message = world.random.choice(messages)
        is_poison = (partition, message.offset) in world.auditor.model.poison
        world.write(partition, message.key, message.value, is_poison=is_poison)


async def _pause_call(world: World, server: Server, name: str) -> Worker | None:
    """Pause the next worker that makes this call, for longer than its session lasts, and let it go on. Gives it."""
    worker = await _caught(world, server, name, world.workers, lambda worker: worker.node.pause())
    if worker is not None:
        await world.loop.after(world.random.uniform(1.1, 3.0) * world.settings.session_timeout_ms / 1000)
        worker.node.resume()
    return worker


async def _caught(
    world: World, server: Server, name: str, processes: Iterable[P], seize: Callable[[P], None]
) -> P | None:
    """Seize the next of the processes that makes this call, with the call on its way. None if none makes it soon."""
    caught: asyncio.Future[P] = world.loop.create_future()

    def watch(node: Node, called: str) -> bool:
        process = next((process for process in processes if process.node is node), None)
        if called != name or process is None:
            return False
        seize(process)
        caught.set_result(process)
        return True

    server.watches.append(watch)
    try:
        async with asyncio.timeout(_CAUGHT_WITHIN_S):
            return await caught
    except TimeoutError:
        return None
    finally:
        if watch in server.watches:
            server.watches.remove(watch)


async def _replace_one(
    world: World, processes: list[P], start: Callable[[World], P], seconds_max: float
) -> None:
    await _replace(world, processes, world.random.randrange(len(processes)), start, seconds_max)


async def _replace(
    world: World, processes: list[P], at: int, start: Callable[[World], P], seconds_max: float
) -> None:
    processes[at].node.kill()
    await asyncio.sleep(world.random.uniform(0.01, seconds_max))
    processes[at] = start(world)


async def _away(world: World, server: Server, seconds_max: float) -> None:
    """In half of all cases it is slow before, so that it goes with calls on their way."""
    if world.random.random() < 0.5:
        server.slow = world.random.choice((5.0, 20.0, 80.0))
        await asyncio.sleep(world.random.uniform(0.01, 0.2))
        server.slow = 1.0
    server.up = False
    await asyncio.sleep(world.random.uniform(0.05, seconds_max))
    server.break_connections()
    server.up = True


async def _slow(world: World, server: Server) -> None:
    server.slow = world.random.choice((5.0, 20.0, 80.0))
    await asyncio.sleep(world.random.uniform(0.1, 0.6))
    server.slow = 1.0


FAULTS: tuple[Fault, ...] = (
    kill_worker,
    pause_worker,
    pause_claim,
    pause_batch,
    pause_commit,
    worker_leaves,
    worker_joins,
    rebalance,
    kill_ingest,
    pause_ingest,
    kill_api,
    flush_cache,
    fail_over_cache,
    cache_away,
    postgres_away,
    host_away,
    kafka_away,
    out_of_sync,
    replies_lost,
    slow,
    all_slow,
    poison,
    deliver_again,
)
