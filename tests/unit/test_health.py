"""A writer's own account of its health, and the watchdog that ends a process without progress."""

import subprocess
import sys
from pathlib import Path

from contracts.errors import Unavailable
from contracts.settings import Settings
from tests.harness import Clock
from workers.health import STALLED_EXIT_CODE, Health

STALLED = """
import logging, threading, time
from contracts.settings import Settings
from workers.health import Health, start_watchdog

logging.basicConfig()
now = [0.0]
settings = Settings(stall_exit_s=20.0, not_ready_after_s=5.0)
health = Health(settings, lambda: now[0])
start_watchdog(health, settings, threading.Event())
now[0] = 21.0
while True:  # an event loop that is blocked for good
    time.perf_counter()
"""


def test_ready_follows_progress(clock: Clock) -> None:
    settings = Settings()
    health = Health(settings, clock.monotonic)
    assert health.report()[0] is False, "not before the group has assigned partitions"
    health.progressed(3)
    assert health.report() == (True, {"partitions": 3, "decided": 0, "last_progress_s": 0.0})
    clock.tick(settings.not_ready_after_s + 1)
    assert health.report()[0] is False
    health.progressed(3)
    health.failed(Unavailable("Postgres is away"))
    ready, told = health.report()
    assert (ready, told["problem"]) == (False, "Postgres is away")


def test_a_part_of_a_round_keeps_the_watchdog_waiting_and_makes_nobody_ready(clock: Clock) -> None:
    settings = Settings()
    health = Health(settings, clock.monotonic)
    health.progressed(3)
    clock.tick(settings.not_ready_after_s + 1)
    health.heartbeat()
    assert health.stalled_s() == 0
    assert health.report()[0] is False


def test_a_round_that_should_have_ended_holds_the_process_up_until_it_does(clock: Clock) -> None:
    health = Health(Settings(), clock.monotonic)
    with health.round(10), health.round(20):
        clock.tick(10)
        assert not health.is_held_up()
        clock.tick(1)
        assert health.is_held_up()
    assert not health.is_held_up()


def test_a_process_without_progress_ends_even_when_its_loop_is_blocked() -> None:
    root = Path(__file__).parent.parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", STALLED], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == STALLED_EXIT_CODE
    assert "no progress" in ended.stderr
