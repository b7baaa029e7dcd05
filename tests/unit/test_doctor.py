"""What the doctor says of a cache by how it evicts, and how full it is, and of settings and URLs that are wrong. The rest
needs servers: see the end-to-end tests.
"""

from collections.abc import Mapping
from io import StringIO
from unittest.mock import AsyncMock

import msgspec
import pytest
from rich.console import Console

from contracts.settings import Settings
from deploy import doctor

NO_TTL_IS_SAFE = ["noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"]
NONE_IS_SAFE = ["allkeys-lru", "allkeys-lfu", "allkeys-random"]


async def found_of(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, info: Mapping[str, object]
) -> dict[str, doctor.Finding]:
    """What is found of a cache that tells this of itself."""
    redis = AsyncMock()
    redis.__aenter__.return_value = redis
    redis.info.return_value = {"redis_version": "7.2.4", **info}
    monkeypatch.setattr(doctor, "connect_redis", lambda _: redis)
    return {finding.what: finding for finding in await doctor._cache(settings)}


@pytest.mark.parametrize("policy", [*NO_TTL_IS_SAFE, *NONE_IS_SAFE])
async def test_only_a_cache_that_evicts_keys_without_a_ttl_is_found_wrong(
    offline_settings: Settings, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    found = await found_of(offline_settings, monkeypatch, {"maxmemory_policy": policy})
    assert found["cache"].ok
    assert (found["cache eviction"].ok, found["cache eviction"].found) == (policy in NO_TTL_IS_SAFE, policy)


@pytest.mark.parametrize(
    ("used_mb", "limit_mb", "ok", "told"),
    [
        (899, 1000, True, "899 MB of 1,000 MB"),
        (901, 1000, False, "901 MB of 1,000 MB"),
        (5000, 0, True, "5,000 MB of no limit"),
    ],
)
async def test_a_cache_is_found_wrong_before_it_is_full(
    offline_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    used_mb: int,
    limit_mb: int,
    ok: bool,
    told: str,
) -> None:
    info = {"used_memory": used_mb << 20, "maxmemory": limit_mb << 20}
    found = await found_of(offline_settings, monkeypatch, info)
    assert (found["cache memory"].ok, found["cache memory"].found) == (ok, told)


@pytest.mark.parametrize("parameter", ["db=x", "foo=1"])
async def test_a_parameter_that_the_cache_client_does_not_know_is_found(
    offline_settings: Settings, parameter: str
) -> None:
    settings = msgspec.structs.replace(offline_settings, redis_url=f"redis://127.0.0.1:1?{parameter}")
    [finding] = await doctor._cache(settings)
    assert not finding.ok
    assert "SLUICEWAY_REDIS_URL" in finding.found
    assert parameter.split("=", maxsplit=1)[0] in finding.found


async def test_settings_that_no_process_takes_are_found() -> None:
    """Printed as they are, whatever markup they look like."""
    shown = StringIO()
    url = "h:abc,[/red]"
    console = Console(file=shown, width=1000)
    assert not await doctor.examine(lambda: Settings.from_env({"SLUICEWAY_KAFKA_URL": url}), console)
    assert f"SLUICEWAY_KAFKA_URL='{url}' must be host:port" in shown.getvalue()
