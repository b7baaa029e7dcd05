"""Every fault on real servers and processes: what it does to its victim, and that healing brings it back."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil
import pytest

from contracts.settings import Settings
from deploy.chaos.faults import FAULTS, Site
from deploy.chaos.proxy import Proxy, serving
from deploy.fleet import Fleet, Member
from deploy.local import local_settings
from deploy.stack import LocalStack, Server
from stock_ledger.redis_view import connect_redis
from tests.harness import eventually

SERVERS = ["restart_postgres", "kill_cache", "restart_cache", "kill_broker", "restart_broker"]


@pytest.fixture
async def site(stack: LocalStack, settings: Settings, tmp_path: Path) -> AsyncIterator[Site]:
    """With a worker and an ingest process, and a worker that may join."""
    fleet = Fleet(stack, tmp_path, lambda _: None)
    own = msgspec.structs.replace(local_settings(stack, settings), postgres_url=settings.postgres_url)
    try:
        fleet.add("worker", own)
        fleet.add("ingest", own)
        fleet.enlist("worker", own)
        await fleet.wait_ready()
        yield Site(stack, fleet, [])
    finally:
        fleet.stop()


def state_of(member: Member) -> str:
    """Of its process; "gone" without one."""
    if member.process is None or member.process.poll() is not None:
        return "gone"
    return str(psutil.Process(member.process.pid).status())


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_server_goes_and_comes_back(stack: LocalStack, kind: str) -> None:
    site = Site(stack, Fleet(stack, Path(), lambda _: None), [])
    fault = FAULTS[kind]
    server = fault.choose(site, 0.5)
    assert isinstance(server, Server)
    before = server.pid
    await fault.inject(site, server)
    assert server.pid is None
    await fault.heal(site, server)
    assert server.pid not in (None, before)


async def test_a_flushed_cache_is_empty(stack: LocalStack, settings: Settings) -> None:
    redis = connect_redis(settings)
    await redis.set("something", "there")
    fault = FAULTS["flush_cache"]
    site = Site(stack, Fleet(stack, Path(), lambda _: None), [])
    await fault.inject(site, fault.choose(site, 0.0))
    assert await redis.get("something") is None
    await redis.aclose()


async def test_processes_are_killed_stopped_and_paused_and_come_back(site: Site) -> None:
    for kind, hurt in (
        ("kill_worker", "gone"),
        ("stop_worker", "gone"),
        ("pause_worker", psutil.STATUS_STOPPED),
        ("kill_ingest", "gone"),
        ("pause_ingest", psutil.STATUS_STOPPED),
    ):
        fault = FAULTS[kind]
        member = fault.choose(site, 0.9)
        assert isinstance(member, Member)
        assert (member.role, member.wanted) == (fault.target, True)
        await fault.inject(site, member)
        await eventually(lambda member=member, hurt=hurt: state_of(member) == hurt)  # type: ignore[misc]
        await fault.heal(site, member)
        await site.fleet.wait_ready()
        assert member.wanted


async def test_a_worker_joins_and_leaves(site: Site) -> None:
    fault = FAULTS["worker_joins"]
    member = fault.choose(site, 0.0)
    assert isinstance(member, Member)
    assert not member.wanted
    await fault.inject(site, member)
    await site.fleet.wait_ready()
    assert state_of(member) != "gone"
    await fault.heal(site, member)
    assert (state_of(member), member.process and member.process.returncode) == ("gone", 0)


def test_who_is_hurt_already_is_left_alone(stack: LocalStack) -> None:
    proxies = [Proxy("one"), Proxy("two")]
    site = Site(stack, Fleet(stack, Path(), lambda _: None), proxies, hurt=[("another target", proxies[0])])
    with serving(proxies):
        assert FAULTS["cut_connections"].choose(site, 0.0) is proxies[1]
        assert FAULTS["kill_worker"].choose(site, 0.0) is None


def test_only_so_many_of_a_target_are_hurt_also_if_healing_takes_long(stack: LocalStack) -> None:
    proxies = [Proxy("one"), Proxy("two")]
    site = Site(stack, Fleet(stack, Path(), lambda _: None), proxies, hurt=[("connections", proxies[0])])
    with serving(proxies):
        assert FAULTS["cut_connections"].choose(site, 0.0) is None
        assert FAULTS["kill_broker"].choose(site, 0.0) is stack.kafka
