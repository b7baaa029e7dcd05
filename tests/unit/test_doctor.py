"""What the doctor says of a cache by how it evicts, and how full it is. The rest needs servers: see the end-to-end tests."""

from collections.abc import Mapping
from unittest.mock import AsyncMock

import pytest

from contracts.settings import Settings
from deploy import doctor

NO_TTL_IS_SAFE = ["noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"]
NONE_IS_SAFE = ["allkeys-lru", "allkeys-lfu", "allkeys-random"]


async def found_of(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, info: Mapping[str, object]
) -> dict[str, doctor.Finding]:
    """What is found of a cache that tells this of itself."""
    redis = AsyncMock()
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
