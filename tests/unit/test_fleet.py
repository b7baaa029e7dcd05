"""Processes of a local deployment, with programs in their place that do nothing."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from contracts.settings import Settings
from deploy import fleet as fleet_module
from deploy.fleet import Fleet, Member
from deploy.stack import LocalStack, Reaper, spawn
from tests.harness import eventually


class Stack:
    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.reaper = Reaper()


class Sleepers(Fleet):
    """A fleet of processes that sleep."""

    def start(self, member: Member) -> None:
        stack: Any = self._stack
        member.process = spawn(
            ["sleep", "60"], log_path=stack.data_dir / "log", env=None, reaper=stack.reaper
        )
        member.wanted = True


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[LocalStack]:
    found = Stack(tmp_path)
    yield cast("LocalStack", found)
    found.reaper.close()


async def test_who_is_killed_before_he_is_started_again_stays_dead(
    stack: LocalStack, tmp_path: Path, offline_settings: Settings
) -> None:
    def kill_the_first(said: str) -> None:
        if said.startswith(first.name):
            fleet.kill(first)

    fleet = Sleepers(stack, tmp_path, kill_the_first)
    first, second = (fleet.add("worker", offline_settings) for _ in range(2))
    died = []
    for member in (first, second):
        assert member.process is not None
        member.process.kill()
        member.process.wait()
        died.append(member.process)
    watching = asyncio.create_task(fleet.watch())
    await eventually(lambda: second.process is not died[1])  # whose turn is after the first one's
    watching.cancel()
    assert first.process is died[0]
    fleet.stop()
    assert second.process is not None
    assert second.process.poll() is not None


async def test_who_never_stays_up_is_started_again_however_often(
    stack: LocalStack, tmp_path: Path, offline_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack that is up over night with a process that cannot start."""
    monkeypatch.setattr(fleet_module, "_PAUSES_S", (0.0,))
    fleet = Sleepers(stack, tmp_path, lambda _: None)
    member = fleet.add("worker", offline_settings)
    died = member.process
    assert died is not None
    died.kill()
    died.wait()
    member.restarts = 2000
    watching = asyncio.create_task(fleet.watch())
    await eventually(lambda: watching.done() or member.process is not died)
    assert not watching.done()
    watching.cancel()
    fleet.stop()


def test_an_ipv6_address_has_brackets_in_a_url(stack: LocalStack, tmp_path: Path) -> None:
    member = Fleet(stack, tmp_path, print).enlist("api", Settings(host="::1"), 8081)
    assert member.url == "http://[::1]:8081"
