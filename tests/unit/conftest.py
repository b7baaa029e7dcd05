"""Fixtures of the tests in memory."""

import pytest

from contracts.settings import Settings
from tests.harness import Clock
from tests.unit.writer_world import World
from workers import writer as writer_module


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "RETRY_S", (1e-6,))


@pytest.fixture
def world(offline_settings: Settings, clock: Clock, no_waits: None) -> World:
    return World(offline_settings, clock)
