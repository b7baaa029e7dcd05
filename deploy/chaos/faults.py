"""What goes wrong on real servers: each fault with its injection and its healing, and a seeded schedule of them."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from contracts.errors import Invalid
from contracts.settings import Settings
from deploy.chaos.proxy import Proxy
from deploy.fleet import Fleet, Member
from deploy.stack import LocalStack, Server
from stock_ledger.redis_view import connect_redis

Victim = Any  # what was hurt, to be healed: a member, a server or a proxy
_FIRST_AT_S = 3.0
_SESSION_S = Settings().session_timeout_ms / 1000


class Site(msgspec.Struct):
    """What faults are injected into. `hurt` is under a fault now, and is left alone by others."""

    stack: LocalStack
    fleet: Fleet
    proxies: list[Proxy]
    settings: Settings
    hurt: list[Victim] = []

    def choose(self, candidates: Sequence[Victim], pick: float) -> Victim | None:
        """One that is not hurt, None if all are. `pick` is in [0, 1)."""
        sound = [candidate for candidate in candidates if candidate not in self.hurt]
        return sound[int(pick * len(sound))] if sound else None

    def running(self, role: str) -> list[Member]:
        return [member for member in self.fleet.of(role) if member.wanted]


class Fault(NamedTuple):
    """A kind of fault. `target` is what it is about: of each, only so many faults are at work at a time.

    `choose` names its victim, `inject` and `heal` are what happens to it. `lasts_s` is from one to the other.
    """

    target: str
    lasts_s: tuple[float, float]
    choose: Callable[[Site, float], Victim | None]
    inject: Callable[[Site, Victim], Awaitable[None]]
    heal: Callable[[Site, Victim], Awaitable[None]]


class Planned(NamedTuple):
    """A fault of a schedule, in seconds from its start."""

    at_s: float
    kind: str
    lasts_s: float
    pick: float


AT_ONCE_MAX = {"worker": 2, "ingest": 1, "postgres": 1, "cache": 1, "broker": 1, "connections": 1}


def schedule(seed: int, duration_s: float, kinds: Sequence[str]) -> list[Planned]:
    """Faults that are all healed when the time is over: some overlap, some come alone. Each kind before any again."""
    rng = random.Random(f"faults {seed}")  # noqa: S311 - a schedule, not a secret
    planned: list[Planned] = []
    bag: list[str] = []
    at_s = _FIRST_AT_S
    while True:
        if not bag:
            bag = rng.sample(kinds, len(kinds))
        busy = Counter(FAULTS[f.kind].target for f in planned if f.at_s + f.lasts_s > at_s)
        free = [kind for kind in bag if busy[FAULTS[kind].target] < AT_ONCE_MAX[FAULTS[kind].target]]
        if not free:
            at_s = min(f.at_s + f.lasts_s for f in planned if f.at_s + f.lasts_s > at_s)
            continue
        kind = free[0]
        bag.remove(kind)
        lasts_s = rng.uniform(*FAULTS[kind].lasts_s)
        if at_s + lasts_s > duration_s:
            return planned
        planned.append(Planned(at_s, kind, lasts_s, rng.random()))
        alone = rng.random() < 0.5
        at_s = max(f.at_s + f.lasts_s for f in planned) + 4.0 if alone else at_s + rng.uniform(0.3, 4.0)


def kinds_of(text: str) -> list[str]:
    """The kinds in a list separated by commas; `all` is every one. Raises Invalid for one that does not exist."""
    kinds = list(FAULTS) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in kinds if name not in FAULTS]
    if unknown or not kinds:
        raise Invalid(f"no such faults: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return list(dict.fromkeys(kinds))


# --- processes -------------------------------------------------------------------------------------------------------


def _member(role: str) -> Callable[[Site, float], Member | None]:
    return lambda site, pick: site.choose(site.running(role), pick)


async def _kill_member(site: Site, member: Member) -> None:
    await asyncio.to_thread(site.fleet.kill, member)


async def _terminate(site: Site, member: Member) -> None:
    await asyncio.to_thread(site.fleet.terminate, member)


async def _start_member(site: Site, member: Member) -> None:
    site.fleet.start(member)


async def _pause(site: Site, member: Member) -> None:
    site.fleet.signal(member, signal.SIGSTOP)


async def _resume(site: Site, member: Member) -> None:
    site.fleet.signal(member, signal.SIGCONT)


def _newcomer(site: Site, pick: float) -> Member:
    return site.fleet.add("worker", site.settings)


async def _nothing(site: Site, victim: Victim) -> None:
    """It has happened by being chosen, or it is over at once."""


# --- servers ---------------------------------------------------------------------------------------------------------


async def _kill_server(site: Site, server: Server) -> None:
    await asyncio.to_thread(server.kill)


async def _stop_server(site: Site, server: Server) -> None:
    await asyncio.to_thread(server.stop)


async def _start_server(site: Site, server: Server) -> None:
    await asyncio.to_thread(server.start)


async def _stop_postgres_at_once(site: Site, server: Server) -> None:
    await asyncio.to_thread(site.stack.postgres.stop_at_once)


async def _flush(site: Site, server: Server) -> None:
    redis = connect_redis(msgspec.structs.replace(site.settings, redis_url=server.url))
    await redis.flushall()
    await redis.aclose()


def _postgres(site: Site, pick: float) -> Server | None:
    return site.choose([site.stack.postgres], pick)


def _cache(site: Site, pick: float) -> Server | None:
    return site.choose([site.stack.cache], pick)


def _broker(site: Site, pick: float) -> Server | None:
    return site.choose(site.stack.brokers, pick)


# --- connections -----------------------------------------------------------------------------------------------------


def _proxy(site: Site, pick: float) -> Proxy | None:
    return site.choose(site.proxies, pick)


async def _cut(site: Site, proxy: Proxy) -> None:
    proxy.cut()


async def _stall(site: Site, proxy: Proxy) -> None:
    proxy.stall()


async def _slow(site: Site, proxy: Proxy) -> None:
    proxy.slow(0.1)


async def _heal_proxy(site: Site, proxy: Proxy) -> None:
    proxy.heal()


_ZOMBIE_S = (_SESSION_S + 1.0, _SESSION_S + 4.0)

FAULTS: dict[str, Fault] = {
    "kill_worker": Fault("worker", (0.5, 15.0), _member("worker"), _kill_member, _start_member),
    "stop_worker": Fault("worker", (2.0, 8.0), _member("worker"), _terminate, _start_member),
    "pause_worker": Fault("worker", _ZOMBIE_S, _member("worker"), _pause, _resume),
    "worker_joins": Fault("worker", (5.0, 10.0), _newcomer, _nothing, _terminate),
    "kill_ingest": Fault("ingest", (0.5, 6.0), _member("ingest"), _kill_member, _start_member),
    "pause_ingest": Fault("ingest", _ZOMBIE_S, _member("ingest"), _pause, _resume),
    "restart_postgres": Fault("postgres", (0.0, 3.0), _postgres, _stop_postgres_at_once, _start_server),
    "kill_cache": Fault("cache", (0.5, 5.0), _cache, _kill_server, _start_server),
    "restart_cache": Fault("cache", (0.0, 0.0), _cache, _stop_server, _start_server),
    "flush_cache": Fault("cache", (0.0, 0.0), _cache, _flush, _nothing),
    "kill_broker": Fault("broker", (0.5, 6.0), _broker, _kill_server, _start_server),
    "restart_broker": Fault("broker", (0.0, 0.0), _broker, _stop_server, _start_server),
    "cut_connections": Fault("connections", (0.1, 3.0), _proxy, _cut, _heal_proxy),
    "stall_connections": Fault("connections", (1.0, 6.0), _proxy, _stall, _heal_proxy),
    "slow_connections": Fault("connections", (2.0, 6.0), _proxy, _slow, _heal_proxy),
}
