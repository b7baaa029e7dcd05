"""Repairing the view from Postgres while a sale runs. Postgres itself is never touched."""

import asyncio
import time
from collections.abc import Iterable

import msgspec
import orjson

from contracts.errors import Unavailable
from contracts.keys import Keys
from contracts.settings import Settings
from deploy.audit import run_on_facts
from stock_ledger.audit.report import AuditReport
from stock_ledger.audit.view import wrong_results
from stock_ledger.redis_view import RedisView, connect_redis, translated

_BY_WRITERS = (
    "cache-stock",
    "cache-products",
    "cache-sold-out",
    "cache-slices",
    "cache-progress",
)  # what a writer rebuilds as a whole
_RESULTS = "cache-results"
_LOOK_S = 0.1
_KEYS_MAX = 500


class Repair(msgspec.Struct, frozen=True):
    """What was found, what was done about it, and what is found now."""

    before: AuditReport
    done: list[str]
    after: AuditReport

    @property
    def ok(self) -> bool:
        return self.after.ok

    def to_json(self) -> bytes:
        return orjson.dumps(msgspec.to_builtins(self), option=orjson.OPT_INDENT_2)


async def repair(
    settings: Settings, drain_timeout_s: float = 30.0, rebuild_timeout_s: float = 15.0
) -> Repair:
    """Audit; where the view deviates have it rebuilt; audit again.

    The writers rebuild what they show, between two batches. Results that deviate are removed: polls then read
    Postgres. Whatever breaks a law that is not about the view is left as it is, for people to look at. Raises
    Unavailable if a server does not answer, the cache included, SettingsError if that does not let itself be read.
    """
    before, wrong = await _audited(settings, drain_timeout_s)
    done: list[str] = []
    redis = connect_redis(settings)
    view = RedisView(redis, settings)
    try:
        if broken := [code for code in _BY_WRITERS if not before.law(code).ok]:
            await view.drop()
            silent = await _rebuilt(view, range(settings.partitions), rebuild_timeout_s)
            done.append(
                f"had the writers rebuild stock, catalogue, gates and progress, for {', '.join(broken)}"
            )
            if silent:
                done.append(
                    f"partitions {silent} were not rebuilt within {rebuild_timeout_s:.0f} s: no writer has them; "
                    "start a worker, it rebuilds what it claims. Until then Postgres is read"
                )
        for start in range(0, len(wrong), _KEYS_MAX):
            async with translated():
                await redis.delete(*wrong[start : start + _KEYS_MAX])
        if wrong:
            done.append(f"removed the results of {len(wrong)} checkouts, which polls now read from Postgres")
    finally:
        await redis.aclose()
    after = (await _audited(settings, drain_timeout_s))[0] if done else before
    return Repair(before, done, after)


async def _audited(settings: Settings, drain_timeout_s: float) -> tuple[AuditReport, list[str]]:
    """An audit that has read the cache, and the keys of all results that deviate."""
    facts, report = await run_on_facts(settings, drain_timeout_s)
    if facts.cache.away:
        raise Unavailable(
            f"the cache could not be read, so what it shows is not repaired: {facts.cache.away}"
        )
    if report.law(_RESULTS).ok:
        return report, []
    keys = Keys(settings.cache_prefix)
    wrong = {spoilt.key for spoilt in facts.cache.spoilt if spoilt.law == _RESULTS}
    wrong.update(map(keys.result, await asyncio.to_thread(wrong_results, facts)))
    return report, sorted(wrong)


async def _rebuilt(view: RedisView, partitions: Iterable[int], timeout_s: float) -> list[int]:
    """Wait until every partition has its progress again; those that have none in the end."""
    missing = list(partitions)
    deadline = time.monotonic() + timeout_s
    while missing and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
        try:
            shown = await view.progress(missing)
        except Unavailable:
            continue  # it is asked again until the time is over
        missing = [p for p in missing if p not in shown]
    return missing
