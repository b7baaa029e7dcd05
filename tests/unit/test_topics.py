"""Topics are made, and known before anyone counts on them."""

from types import SimpleNamespace
from typing import Any

import pytest

from contracts.errors import SettingsError, Unavailable
from contracts.settings import Settings
from contracts.topics import Topics
from deploy import topics
from deploy.topics import ensure_topics


class Admin:
    """Of a broker that hears of new topics only some looks after they are made, with as many `partitions` as they have."""

    def __init__(self, partitions: int, looks: float = 2) -> None:
        self._partitions = partitions
        self._looks = looks
        self.made: list[str] = []
        self.closed = False

    async def start(self) -> None: ...

    async def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        self._looks -= bool(self.made)
        count = self._partitions if self._looks < 0 else 0
        return [{"topic": name, "partitions": [{}] * count} for name in names]

    async def create_topics(self, wanted: list[Any]) -> Any:
        self.made = [topic.name for topic in wanted]
        return SimpleNamespace(topic_errors=[(name, 0) for name in self.made])

    async def close(self) -> None:
        self.closed = True


def given(monkeypatch: pytest.MonkeyPatch, admin: Admin) -> None:
    monkeypatch.setattr(topics, "AIOKafkaAdminClient", lambda **_: admin)
    monkeypatch.setattr(topics, "_LOOK_S", 0)


async def test_topics_that_are_made_are_waited_for(
    monkeypatch: pytest.MonkeyPatch, offline_settings: Settings
) -> None:
    given(monkeypatch, admin := Admin(offline_settings.partitions))
    assert sorted(await ensure_topics(offline_settings)) == sorted(Topics(offline_settings).all())
    assert admin.closed
    assert await ensure_topics(offline_settings) == []


async def test_those_that_another_has_made_meanwhile_are_counted(
    monkeypatch: pytest.MonkeyPatch, offline_settings: Settings
) -> None:
    given(monkeypatch, Admin(offline_settings.partitions + 1))
    with pytest.raises(SettingsError, match="must never change"):
        await ensure_topics(offline_settings)


async def test_topics_that_stay_unknown_are_told(
    monkeypatch: pytest.MonkeyPatch, offline_settings: Settings
) -> None:
    given(monkeypatch, Admin(offline_settings.partitions, float("inf")))
    monkeypatch.setattr(topics, "_KNOWN_S", 0)
    with pytest.raises(Unavailable, match="does not know"):
        await ensure_topics(offline_settings)
