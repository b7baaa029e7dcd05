"""The local stack: real servers that start, answer, crash, come back and never outlive their starter."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from asyncpg.connect_utils import SessionAttribute
from redis.asyncio import Redis

from deploy.stack import LocalStack, Reaper, Server, StackError, end, spawn
from deploy.stack.account import unprivileged
from deploy.stack.reaper import started

_CHILD = """
import json, sys, time
from pathlib import Path
from deploy.stack import LocalStack
stack = LocalStack(Path(sys.argv[1]), redis_url="redis://elsewhere", say=lambda line: None)
stack.start()
print(json.dumps([stack.kafka.pid, stack.postgres.pid, stack.reaper.pid]), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """In a folder, and with variables, that have made trouble."""
    found = LocalStack(tmp_path_factory.mktemp("a stack, größer 文"), say=print)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("LC_ALL", "C"),
            ("PGSSLMODE", "require"),
            ("PGTARGETSESSIONATTRS", "standby"),
        ):
            patch.setenv(name, value)
        with found:
            yield found
    found.delete()


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    pause = socket.socketpair()
    try:
        pause[0].settimeout(0.02)
        while not condition():
            if time.monotonic() > deadline:
                return False
            try:
                pause[0].recv(1)
            except TimeoutError:
                continue
    finally:
        for one in pause:
            one.close()
    return True


async def _topics(stack: LocalStack, *, create: str = "") -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.urls.kafka)
    await admin.start()
    try:
        if create:
            await admin.create_topics([NewTopic(create, num_partitions=3, replication_factor=1)])
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def _sql(stack: LocalStack, *statements: str) -> object:
    connection = await asyncpg.connect(stack.urls.postgres, target_session_attrs=SessionAttribute.any)
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


async def _ping(stack: LocalStack) -> bool:
    async with Redis.from_url(stack.urls.redis) as client:
        await client.set("key", "value")
        return bool(await client.get("key") == b"value")


async def test_each_server_answers(stack: LocalStack) -> None:
    assert await _ping(stack)
    assert await _sql(stack, "SELECT current_database()") == "sluiceway"
    assert await _sql(stack, "SHOW unix_socket_directories") == ""
    assert await _sql(stack, "SHOW fsync") == "on"
    assert "answers" in await _topics(stack, create="answers")


async def test_starting_again_is_no_second_stack(stack: LocalStack) -> None:
    pids = [server.pid for server in (stack.kafka, stack.postgres, stack.cache)]
    assert stack.start() == stack.urls
    assert [server.pid for server in (stack.kafka, stack.postgres, stack.cache)] == pids


def test_describe_tells_what_runs(stack: LocalStack) -> None:
    told = stack.describe()
    assert told["kafka"]["version"] == "4.4.0"
    assert str(told["postgres"]["version"]).startswith("18.")
    assert told["redis"]["pid"] == stack.cache.pid
    assert all(Path(str(one["log"])).is_file() for one in told.values())


@pytest.mark.parametrize("stop", [Server.stop, Server.kill])
async def test_postgres_keeps_committed_rows(stack: LocalStack, stop: Callable[[Server], None]) -> None:
    await _sql(stack, "CREATE TABLE IF NOT EXISTS kept (n int)", "DELETE FROM kept", "SELECT 1")
    await _sql(stack, "INSERT INTO kept VALUES (7)", "SELECT 1")
    url, pid = stack.urls.postgres, stack.postgres.pid
    stop(stack.postgres)
    assert stack.postgres.pid is None
    stack.postgres.restart()
    assert stack.postgres.pid not in {None, pid}
    assert stack.urls.postgres == url
    assert await _sql(stack, "SELECT n FROM kept") == 7


async def test_postgres_starts_though_its_number_is_somebody_elses(stack: LocalStack, tmp_path: Path) -> None:
    """Of the same account: its lock cannot be told from that of a server that runs."""
    stack.postgres.kill()
    lock = stack.postgres.data_path / "postmaster.pid"
    other = spawn(
        ["sleep", "60"], log_path=tmp_path / "log", env=None, reaper=stack.reaper, user=unprivileged()
    )
    lines = lock.read_text().split("\n", 1)
    lock.write_text(f"{other.pid}\n{lines[1]}")
    stack.postgres.start()
    assert await _sql(stack, "SELECT 1") == 1
    assert other.poll() is None
    end(other, stack.reaper, grace_s=5)


async def test_kafka_keeps_topics_over_a_crash(stack: LocalStack) -> None:
    await _topics(stack, create="kept")
    url = stack.urls.kafka
    stack.kafka.kill()
    stack.kafka.restart()
    assert stack.urls.kafka == url
    assert "kept" in await _topics(stack)


async def test_the_cache_comes_back_empty_on_its_port(stack: LocalStack) -> None:
    assert await _ping(stack)
    url = stack.urls.redis
    stack.cache.kill()
    stack.cache.start()
    assert stack.urls.redis == url
    async with Redis.from_url(url) as client:
        assert await client.dbsize() == 0


async def test_two_stacks_run_side_by_side(stack: LocalStack, tmp_path: Path) -> None:
    with LocalStack(tmp_path / "second", kafka_url=stack.urls.kafka, say=print) as second:
        assert second.urls.kafka == stack.urls.kafka
        assert second.urls.postgres != stack.urls.postgres
        assert second.urls.redis != stack.urls.redis
        assert all(await asyncio.gather(_ping(stack), _ping(second)))
        with pytest.raises(StackError, match="a URL was given"):
            _ = second.kafka
    second.delete()
    assert not (tmp_path / "second" / "postgres").exists()


async def test_a_data_folder_has_one_owner(stack: LocalStack) -> None:
    intruder = LocalStack(stack.data_dir, say=print)
    with pytest.raises(StackError, match=f"in use by process {os.getpid()}"):
        intruder.start()
    assert await _ping(stack)


def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    broken = LocalStack(tmp_path, kafka_url="elsewhere:1", say=print)
    (tmp_path / "cache").write_text("a file where a folder has to be")
    with pytest.raises(StackError, match="Valkey cannot be started"):
        broken.start()
    assert broken.postgres.pid is None
    (tmp_path / "cache").unlink()
    broken.delete()


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    LocalStack(tmp_path, say=print).delete()


def test_nothing_outlives_a_killed_starter(killed: Path) -> None:
    command = [sys.executable, "-c", _CHILD, str(killed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pids = json.loads(child.stdout.readline())
        assert all(started(pid) is not None for pid in pids)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert _until(lambda: all(started(pid) is None for pid in pids), 20), "a server outlived its starter"


def test_a_process_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    reaper = Reaper()
    log = tmp_path / "a log"
    stubborn = spawn(
        ["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"],
        log_path=log,
        env=None,
        reaper=reaper,
    )
    assert _until(lambda: "ready" in log.read_text(), 5)
    assert not end(stubborn, reaper, grace_s=0.1)
    assert stubborn.returncode == -signal.SIGKILL
    reaper.close()


def test_what_was_ended_before_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another's by now."""
    reaper = Reaper()
    process = spawn(["sleep", "60"], log_path=tmp_path / "log", env=None, reaper=reaper)
    assert end(process, reaper, grace_s=5)
    signals: list[object] = []
    monkeypatch.setattr("deploy.stack.reaper.send", lambda *sent, **_: signals.append(sent))
    assert end(process, reaper, grace_s=5)
    reaper.close()
    assert not signals


def test_a_dead_reaper_is_replaced_and_knows_everything(tmp_path: Path) -> None:
    reaper = Reaper()
    first = spawn(["sleep", "60"], log_path=tmp_path / "log", env=None, reaper=reaper)
    old = reaper.pid
    os.kill(old, signal.SIGKILL)
    assert _until(lambda: started(old) is None, 5)
    second = spawn(["sleep", "60"], log_path=tmp_path / "log", env=None, reaper=reaper)
    assert reaper.pid != old
    reaper.close()
    assert first.wait(5) == -signal.SIGTERM
    assert second.wait(5) == -signal.SIGTERM
