"""Every suite of a contract runs twice: on the fake and on the real adapter."""

from typing import Any

import pytest

from contracts.settings import Settings


def memory_or(real: str, settings_fixture: str) -> Any:
    """A fixture: None for the adapter in memory, then the settings for the real one.

    It is not async, so that it may ask for an async fixture.
    """

    @pytest.fixture(params=["memory", real])
    def world_settings(request: pytest.FixtureRequest) -> Settings | None:
        if request.param == "memory":
            return None
        settings: Settings = request.getfixturevalue(settings_fixture)
        return settings

    return world_settings
