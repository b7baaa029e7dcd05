"""What every log must do, in memory and in Kafka."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol
from unittest import mock

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from contracts.errors import FenceLost, NotAcknowledged, Unavailable
from contracts.kafka import Record, producer_options, tp
from contracts.kafka_clients import start_producer
from contracts.settings import Settings
from contracts.topics import Stream, Topics
from deploy.stack import LocalStack
from tests.contract.adapters import memory_or
from tests.harness import Traces, eventually, records_of, stalled
from workers import kafka_log
from workers.fakes import MemoryBroker, MemoryLog
from workers.kafka_log import KafkaLog
from workers.log import Log, Revoked

PARTITIONS = 4


class World(Protocol):
    """A group of logs, what it reads, and what it publishes."""

    async def append(self, partition: int, *values: bytes) -> None:
        """Messages with the key "k", in order."""
        ...

    async def join(self, revoked: Revoked) -> Log:
        """Another member; the group shares the partitions out anew."""
        ...

    async def lose_before(self, partition: int, offset: int) -> None:
        """Retention has removed the oldest messages."""
        ...

    async def silence(self, log: Log) -> None:
        """The member is not heard any more, and does not notice: the group puts it out when it shares out anew."""
        ...

    async def leave(self, log: Log) -> None: ...
    async def published(self, partition: int) -> list[Record]: ...
    async def letters(self, partition: int) -> list[Record]: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.broker = MemoryBroker(PARTITIONS)
        self.silent: list[MemoryLog] = []

    async def append(self, partition: int, *values: bytes) -> None:
        for value in values:
            self.broker.append(partition, b"k", value)

    async def lose_before(self, partition: int, offset: int) -> None:
        self.broker.delete_before(partition, offset)

    async def join(self, revoked: Revoked) -> Log:
        log = MemoryLog(self.broker)
        await log.start(revoked)
        await self._share_out()
        return log

    async def silence(self, log: Log) -> None:
        self.silent = [member for member in self.broker.members if member is log]

    async def leave(self, log: Log) -> None:
        await log.stop()
        await self._share_out()

    async def published(self, partition: int) -> list[Record]:
        return self.broker.events[partition]

    async def letters(self, partition: int) -> list[Record]:
        return self.broker.dead_letters[partition]

    async def _share_out(self) -> None:
        members = [member for member in self.broker.members if member not in self.silent]
        assignment = {m: range(n, PARTITIONS, len(members)) for n, m in enumerate(members)}
        await self.broker.assign(assignment, silent=self.silent)


class KafkaWorld:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.topics = Topics(settings)
        self.logs: list[KafkaLog] = []

    async def append(self, partition: int, *values: bytes) -> None:
        producer = AIOKafkaProducer(**producer_options(self.settings))
        await producer.start()
        try:
            for value in values:
                await producer.send_and_wait(self.topics.checkouts, value, b"k", partition)
        finally:
            await producer.stop()

    async def lose_before(self, partition: int, offset: int) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.kafka_url.split(","))
        await admin.start()
        try:
            await admin.delete_records({tp(self.topics.checkouts, partition): RecordsToDelete(offset)})
        finally:
            await admin.close()

    async def join(self, revoked: Revoked) -> Log:
        log = KafkaLog(self.settings, f"member-{len(self.logs)}")
        self.logs.append(log)
        await log.start(revoked)
        return log

    async def silence(self, log: Log) -> None:
        for member in self.logs:
            if member is log:
                member._reader._coordinator._do_heartbeat = asyncio.Event().wait

    async def leave(self, log: Log) -> None:
        await log.stop()

    async def published(self, partition: int) -> list[Record]:
        return await self._all_of(self.topics.events, partition)

    async def letters(self, partition: int) -> list[Record]:
        return await self._all_of(self.topics.dead_letters, partition)

    async def _all_of(self, topic: str, partition: int) -> list[Record]:
        records = await records_of(self.settings, topic, partition)
        return [(r.key, r.value, list(r.headers)) for r in records]


world_settings = memory_or("kafka", "topic_settings")


@pytest.fixture
async def world(world_settings: Settings | None) -> AsyncIterator[World]:
    if world_settings is None:
        yield MemoryWorld()
        return
    made = KafkaWorld(world_settings)
    yield made
    for log in made.logs:
        await log.stop()


class Member:
    """A log with an account of its revocations, that reads all the time, as a writer does."""

    def __init__(self) -> None:
        self.revocations = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def revoked(self) -> None:
        self.revocations += 1
        await self.gate.wait()


async def sole_member(world: World) -> Log:
    log = await world.join(Member().revoked)
    await eventually(lambda: log.assigned()[1] == frozenset(range(PARTITIONS)))
    return log


async def read_values(log: Log, count: int) -> dict[int, list[tuple[int, bytes | None]]]:
    """Offsets and values, by partition, until there are so many of them."""
    found: dict[int, list[tuple[int, bytes | None]]] = {}

    async def enough() -> bool:
        batch = (await log.read(100, 100)).get(Stream.CHECKOUTS, {})
        for partition, messages in batch.items():
            found.setdefault(partition, []).extend((m.offset, m.value) for m in messages)
        return sum(map(len, found.values())) >= count

    await eventually(enough)
    return found


async def test_every_message_is_read_once_in_order(world: World) -> None:
    await world.append(0, b"a", b"b", b"c")
    await world.append(3, b"x")
    log = await sole_member(world)
    found = await read_values(log, 4)
    assert found == {0: [(0, b"a"), (1, b"b"), (2, b"c")], 3: [(0, b"x")]}
    assert await log.read(100, 10) == {}
    await world.append(0, b"d")
    assert await read_values(log, 1) == {0: [(3, b"d")]}


async def test_no_more_than_asked_for(world: World) -> None:
    await world.append(1, b"a", b"b", b"c")
    log = await sole_member(world)
    sizes: list[int] = []

    async def all_read() -> bool:
        batch = (await log.read(2, 100)).get(Stream.CHECKOUTS, {})
        sizes.append(sum(map(len, batch.values())))
        return sum(sizes) == 3

    await eventually(all_read)
    assert max(sizes) <= 2


async def test_seek_reads_again(world: World) -> None:
    await world.append(2, b"a", b"b", b"c")
    log = await sole_member(world)
    await read_values(log, 3)
    log.seek(Stream.CHECKOUTS, 2, 1)
    assert await read_values(log, 2) == {2: [(1, b"b"), (2, b"c")]}


async def test_offsets(world: World) -> None:
    await world.append(2, b"a", b"b", b"c")
    log = await sole_member(world)
    assert await log.first_offsets(Stream.CHECKOUTS, [0, 2]) == {0: 0, 2: 0}
    assert await log.end_offsets(Stream.CHECKOUTS, [0, 2]) == {0: 0, 2: 3}
    assert await log.committed(Stream.CHECKOUTS, [0, 2]) == {0: 0, 2: 0}
    await log.commit(Stream.CHECKOUTS, {2: 2})
    assert await log.committed(Stream.CHECKOUTS, [0, 2]) == {0: 0, 2: 2}


async def test_a_group_without_a_commit_begins_where_the_log_does(world: World) -> None:
    """But a commit stays what it is: what comes after it may not be told yet, even if it is not in the log any more."""
    await world.append(1, b"a", b"b", b"c")
    await world.append(2, b"a", b"b", b"c")
    log = await sole_member(world)
    await log.commit(Stream.CHECKOUTS, {2: 1})
    await world.lose_before(1, 2)
    await world.lose_before(2, 2)
    assert await log.committed(Stream.CHECKOUTS, [0, 1, 2]) == {0: 0, 1: 2, 2: 1}


async def test_the_next_member_goes_on_from_the_commit(world: World) -> None:
    await world.append(0, b"a", b"b", b"c")
    first = await sole_member(world)
    await read_values(first, 3)
    await first.commit(Stream.CHECKOUTS, {0: 1})
    await world.leave(first)
    second = await sole_member(world)
    assert await second.committed(Stream.CHECKOUTS, [0]) == {0: 1}
    assert await read_values(second, 2) == {0: [(1, b"b"), (2, b"c")]}


async def test_what_is_published_arrives_as_it_was(world: World) -> None:
    log = await sole_member(world)
    one: Record = (b"key", b"value", [("ce_id", b"0-1"), ("empty", b"")])
    two: Record = (b"key", b"second", [])
    await log.publish({0: [one, two], 3: [one]}, 1_794_394_800_000)
    assert await world.published(0) == [one, two]
    assert await world.published(3) == [one]
    assert await world.published(1) == []
    assert await world.letters(0) == []


async def test_dead_letters_arrive_in_their_topic_even_empty_ones(world: World) -> None:
    log = await sole_member(world)
    letter: Record = (None, None, [("reason", b"the message has no value")])
    await log.set_aside({1: [letter]}, 1_794_394_800_000)
    assert await world.letters(1) == [letter]
    assert await world.published(1) == []


async def test_nothing_to_publish_is_fine(world: World) -> None:
    log = await sole_member(world)
    await log.publish({}, 1_794_394_800_000)
    await log.publish({0: []}, 1_794_394_800_000)
    assert await world.published(0) == []


async def test_more_than_fits_in_one_batch(world: World) -> None:
    log = await sole_member(world)
    records: list[Record] = [(b"k", bytes([n]) * 100_000, []) for n in range(12)]
    await log.publish({2: records}, 1_794_394_800_000)
    assert await world.published(2) == records


async def test_revoked_is_awaited_before_another_gets_the_partitions(world: World) -> None:
    first_member = Member()
    first = await world.join(first_member.revoked)
    await eventually(lambda: len(first.assigned()[1]) == PARTITIONS)
    generation, revocations = first.assigned()[0], first_member.revocations
    first_member.gate.clear()
    joining = asyncio.create_task(_joined(world))
    await eventually(lambda: first_member.revocations == revocations + 1)
    assert first.assigned()[1] == frozenset()
    assert not joining.done()
    await first.commit(Stream.CHECKOUTS, {0: 0})  # what is under way may be finished
    first_member.gate.set()
    second = await joining
    await eventually(lambda: bool(first.assigned()[1]) and bool(second.assigned()[1]))
    assert first.assigned()[0] > generation
    assert first.assigned()[1] | second.assigned()[1] == frozenset(range(PARTITIONS))
    assert not first.assigned()[1] & second.assigned()[1]


async def _joined(world: World) -> Log:
    log = await world.join(Member().revoked)
    await eventually(lambda: bool(log.assigned()[1]))
    return log


async def test_foreign_partitions_are_fenced(world: World) -> None:
    first = await sole_member(world)
    second = await _joined(world)
    await eventually(lambda: len(first.assigned()[1]) == PARTITIONS // 2)
    foreign = min(second.assigned()[1])
    with pytest.raises(FenceLost):
        first.seek(Stream.CHECKOUTS, foreign, 0)
    with pytest.raises(FenceLost):
        await first.commit(Stream.CHECKOUTS, {foreign: 0})


async def test_committed_offsets_of_all_partitions_are_one_request(topic_settings: Settings) -> None:
    """Else a writer of thousands of partitions could not claim them within the deadline."""
    log = KafkaLog(topic_settings, "member")
    await log.start(Member().revoked)
    try:
        await eventually(lambda: len(log.assigned()[1]) == PARTITIONS)
        coordinator = log._reader._coordinator
        ask = coordinator.fetch_committed_offsets
        with mock.patch.object(coordinator, "fetch_committed_offsets", wraps=ask) as asked:
            await log.committed(Stream.CHECKOUTS, range(PARTITIONS))
        asked.assert_called_once()
    finally:
        await log.stop()


async def test_what_is_sent_at_once_has_one_producer(topic_settings: Settings) -> None:
    """Dead letters are set aside while the events of the batch before are published: another one would never be stopped."""
    log = KafkaLog(topic_settings, "member")
    with mock.patch.object(kafka_log, "start_producer", wraps=start_producer) as starting:
        await asyncio.gather(
            log.publish({0: [(b"k", b"v", [])]}, 1_794_394_800_000),
            log.set_aside({1: [(b"k", b"v", [])]}, 1_794_394_800_000),
        )
        starting.assert_called_once()
    await log.stop()


async def test_a_member_that_was_put_out_may_not_commit(world: World) -> None:
    """Though it has not noticed: a writer that was paused learns so before it claims."""
    first = await sole_member(world)
    await world.silence(first)
    second = await _joined(world)
    everything = frozenset(range(PARTITIONS))
    await eventually(lambda: second.assigned()[1] == everything)
    assert first.assigned()[1] == everything
    with pytest.raises(FenceLost):
        await first.commit(Stream.CHECKOUTS, {0: 0})


async def test_memory_is_unavailable_when_switched_off() -> None:
    log = MemoryLog(MemoryBroker(PARTITIONS))
    log.available = False
    with pytest.raises(Unavailable):
        await log.start(Member().revoked)
    await assert_unavailable(log)


async def test_kafka_cannot_be_joined_when_nothing_listens(offline_settings: Settings) -> None:
    log = KafkaLog(offline_settings, "nobody")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await log.start(Member().revoked)
    with pytest.raises(NotAcknowledged):
        await log.publish({0: [(b"k", b"v", [])]}, 0)
    await log.stop()


async def test_kafka_that_does_not_answer_is_unavailable(topic_settings: Settings, stack: LocalStack) -> None:
    settings = msgspec.structs.replace(topic_settings, produce_ack_deadline_s=0.3, session_timeout_ms=20_000)
    log = KafkaLog(settings, "patient")
    await log.start(Member().revoked)
    await eventually(lambda: len(log.assigned()[1]) == PARTITIONS)
    async with stalled(stack, settings):
        # Its threads stop one after the other, and may answer meanwhile.
        await eventually(lambda: _fails(log.first_offsets(Stream.CHECKOUTS, [0])))
        await assert_unavailable(log)
    await eventually(_answers(log.commit, Stream.CHECKOUTS, {0: 0}))
    await eventually(_answers(log.publish, {0: [(b"k", b"v", [])]}, 0))
    await log.stop()


async def test_a_group_that_does_not_answer_is_left_all_the_same_and_nothing_of_it_remains(
    topic_settings: Settings, stack: LocalStack
) -> None:
    traces = Traces()
    log = KafkaLog(topic_settings, "leaving")
    await log.start(Member().revoked)
    await eventually(lambda: len(log.assigned()[1]) == PARTITIONS)
    async with stalled(stack, topic_settings), asyncio.timeout(20):
        await log.stop()
        await traces.are_gone()


async def _fails(call: Coroutine[Any, Any, object]) -> bool:
    try:
        await call
    except Unavailable:
        return True
    return False


def _answers(
    call: Callable[..., Coroutine[Any, Any, None]], *arguments: object
) -> Callable[[], Coroutine[Any, Any, bool]]:
    async def answers() -> bool:
        try:
            await call(*arguments)
        except (Unavailable, NotAcknowledged):
            return False
        return True

    return answers


async def assert_unavailable(log: Log) -> None:
    with pytest.raises(Unavailable):
        await log.first_offsets(Stream.CHECKOUTS, [0])
    with pytest.raises(Unavailable):
        await log.end_offsets(Stream.CHECKOUTS, [0])
    with pytest.raises(Unavailable):
        await log.committed(Stream.CHECKOUTS, [0])
    with pytest.raises(Unavailable):
        await log.commit(Stream.CHECKOUTS, {0: 0})
    with pytest.raises(NotAcknowledged):
        await log.publish({0: [(b"k", b"v", [])]}, 0)
    with pytest.raises(NotAcknowledged):
        await log.set_aside({0: [(b"k", b"v", [])]}, 0)
