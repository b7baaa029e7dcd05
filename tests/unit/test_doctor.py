"""What the doctor says of a cache by how it evicts. The rest needs servers: see the end-to-end tests."""

from unittest.mock import AsyncMock

import pytest

from contracts.settings import Settings
from deploy import doctor

NO_TTL_IS_SAFE = ["noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"]
NONE_IS_SAFE = ["allkeys-lru", "allkeys-lfu", "allkeys-random"]


@pytest.mark.parametrize("policy", [*NO_TTL_IS_SAFE, *NONE_IS_SAFE])
async def test_only_a_cache_that_evicts_keys_without_a_ttl_is_found_wrong(
    offline_settings: Settings, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    redis = AsyncMock()
    redis.info.return_value = {"redis_version": "7.2.4", "maxmemory_policy": policy}
    monkeypatch.setattr(doctor, "connect_redis", lambda settings: redis)
    found = {finding.what: finding for finding in await doctor._cache(offline_settings)}
    assert found["cache"].ok
    assert (found["cache eviction"].ok, found["cache eviction"].found) == (policy in NO_TTL_IS_SAFE, policy)
