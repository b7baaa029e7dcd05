"""What goes wrong on real servers: each fault with its injection and its healing, and a seeded schedule of them."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from redis import Redis

from contracts.errors import Invalid
from deploy.chaos.claims import Claimed
from deploy.chaos.proxy import Proxy
from deploy.fleet import Fleet, Member
from deploy.stack import LocalStack, Server
from deploy.stack.cache import MEMORY_MAX
from deploy.stack.postgres import PostgresServer

Victim = Any  # what is hurt, and healed: a member, a server or a proxy
Span = tuple[float, float]

_FIRST_AT_S = 3.0
_REST_S = 6.0
_ALONE_SHARE = 0.25
_SLOW_S = 0.1
_ZOMBIE_S = (1.0, 4.0)  # after its session

AT_ONCE_MAX = {"worker": 2, "ingest": 1, "postgres": 1, "cache": 1, "broker": 1, "connections": 1}
RETURN_S = {"broker": 6.0}  # what takes long to be back once it is started again


class Site(msgspec.Struct):
    """What faults are injected into. What is `hurt`, as (target, victim), is under a fault now."""

    stack: LocalStack
    fleet: Fleet
    proxies: list[Proxy]
    hurt: list[tuple[str, Victim]] = []


class Fault(NamedTuple):
    """A kind of fault. `target` is what it is about: of each, only so many faults are at work at a time.

    `candidates` are its possible victims; `inject` and `heal` are what happens to one. `lasts_s`: from one to the other,
    without the session that is to run out before if it `outlasts_session`.
    """

    target: str
    lasts_s: Span
    candidates: Callable[[Site], Sequence[Victim]]
    inject: Callable[[Site, Victim], Awaitable[None]]
    heal: Callable[[Site, Victim], Awaitable[None]]
    outlasts_session: bool = False

    def choose(self, site: Site, pick: float) -> Victim | None:
        """One that is not hurt; None if there is none, or if healing takes longer than was planned and enough are hurt.

        `pick` is in [0, 1).
        """
        if sum(target == self.target for target, _ in site.hurt) >= AT_ONCE_MAX[self.target]:
            return None
        hurt = [victim for _, victim in site.hurt]
        sound = [candidate for candidate in self.candidates(site) if candidate not in hurt]
        return sound[int(pick * len(sound))] if sound else None


class Planned(NamedTuple):
    """A fault of a schedule, in seconds from its start."""

    at_s: float
    kind: str
    lasts_s: float
    pick: float


class Injected(msgspec.Struct):
    """A fault as it was, in seconds since the epoch. `owned` is what the worker that it hit had claimed."""

    kind: str
    victim: str
    at: float
    healed_at: float = 0.0
    owned: dict[int, Claimed] = {}


def lasts_s(kind: str, session_s: float) -> Span:
    """How long a fault of this kind lasts, at least and at most, where a worker's session is so long."""
    fault = FAULTS[kind]
    shortest_s, longest_s = fault.lasts_s
    before_s = session_s if fault.outlasts_session else 0.0
    return before_s + shortest_s, before_s + longest_s


def schedule(seed: int, duration_s: float, kinds: Sequence[str], session_s: float) -> list[Planned]:
    """Faults that are all over when the time is: most overlap, some come alone. Each kind before any comes again.
    `session_s` is how long a worker's session lasts.
    """
    rng = random.Random(f"faults {seed}")  # noqa: S311 - a schedule, not a secret
    planned: list[Planned] = []
    bag: list[str] = []
    at_s, alone = _FIRST_AT_S, False
    while True:
        bag = bag or rng.sample(kinds, len(kinds))
        under_way = [fault for fault in planned if _over_at_s(fault) > at_s]
        busy = Counter(FAULTS[fault.kind].target for fault in under_way)
        free = [kind for kind in bag if busy[FAULTS[kind].target] < AT_ONCE_MAX[FAULTS[kind].target]]
        if not free:
            at_s = min(map(_over_at_s, under_way))
            continue
        drawn = [Planned(at_s, kind, rng.uniform(*lasts_s(kind, session_s)), rng.random()) for kind in free]
        fitting = [fault for fault in drawn if _over_at_s(fault) <= duration_s]
        if not fitting:
            return planned
        planned.append(fitting[0])
        bag.remove(fitting[0].kind)
        before, alone = alone, rng.random() < _ALONE_SHARE
        if before or alone:
            at_s = max(map(_over_at_s, planned)) + _REST_S
        else:
            at_s += rng.uniform(0.3, 4.0)


def _over_at_s(fault: Planned) -> float:
    return fault.at_s + fault.lasts_s + RETURN_S.get(FAULTS[fault.kind].target, 0.0)


def name_of(victim: Victim) -> str:
    """What it is called in reports and logs."""
    return victim.folder.name if isinstance(victim, Server) else str(victim.name)


def kinds_of(text: str) -> list[str]:
    """The kinds in a list separated by commas; `all` is every one. Raises Invalid for one that does not exist."""
    kinds = list(FAULTS) if text == "all" else [name.strip() for name in text.split(",")]
    unknown = [name for name in kinds if name not in FAULTS]
    if unknown or not kinds:
        raise Invalid(f"no such faults: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return list(dict.fromkeys(kinds))


def _of_member(
    role: str,
    lasts_s: Span,
    inject: Callable[[Fleet, Member], None],
    heal: Callable[[Fleet, Member], None],
    *,
    idle: bool = False,
    outlasts_session: bool = False,
) -> Fault:
    """Of a process that runs, or of an `idle` one that is not to run yet."""

    async def injected(site: Site, member: Member) -> None:
        await asyncio.to_thread(inject, site.fleet, member)

    async def healed(site: Site, member: Member) -> None:
        await asyncio.to_thread(heal, site.fleet, member)

    def members(site: Site) -> list[Member]:
        return [member for member in site.fleet.of(role) if member.wanted is not idle]

    return Fault(role, lasts_s, members, injected, healed, outlasts_session)


def _of_server(
    target: str,
    lasts_s: Span,
    servers: Callable[[LocalStack], Sequence[Server]],
    inject: Callable[[Any], None],
    heal: Callable[[Any], None],
) -> Fault:
    async def injected(_: Site, server: Server) -> None:
        await asyncio.to_thread(inject, server)

    async def healed(_: Site, server: Server) -> None:
        await asyncio.to_thread(heal, server)

    return Fault(target, lasts_s, lambda site: servers(site.stack), injected, healed)


def _of_connections(lasts_s: Span, inject: Callable[[Proxy], None]) -> Fault:
    async def injected(_: Site, proxy: Proxy) -> None:
        inject(proxy)

    async def healed(_: Site, proxy: Proxy) -> None:
        proxy.heal()

    return Fault("connections", lasts_s, lambda site: site.proxies, injected, healed)


def _pause(fleet: Fleet, member: Member) -> None:
    fleet.signal(member, signal.SIGSTOP)


def _resume(fleet: Fleet, member: Member) -> None:
    fleet.signal(member, signal.SIGCONT)


def _flush(cache: Server) -> None:
    with Redis.from_url(cache.url) as redis:
        redis.flushall()


def _fill(cache: Server) -> None:
    """It takes nothing more in, and what it holds grows old."""
    with Redis.from_url(cache.url) as redis:
        redis.config_set("maxmemory", 1)


def _make_room(cache: Server) -> None:
    with Redis.from_url(cache.url) as redis:
        redis.config_set("maxmemory", MEMORY_MAX)


def _nothing(_: Server) -> None:
    """It is over at once."""


def _postgres(stack: LocalStack) -> list[PostgresServer]:
    return [stack.postgres]


def _cache(stack: LocalStack) -> list[Server]:
    return [stack.cache]


def _brokers(stack: LocalStack) -> Sequence[Server]:
    return stack.brokers


FAULTS: dict[str, Fault] = {
    "kill_worker": _of_member("worker", (2.0, 12.0), Fleet.kill, Fleet.start),
    "stop_worker": _of_member("worker", (2.0, 8.0), Fleet.terminate, Fleet.start),
    "pause_worker": _of_member("worker", _ZOMBIE_S, _pause, _resume, outlasts_session=True),
    "worker_joins": _of_member("worker", (5.0, 10.0), Fleet.start, Fleet.terminate, idle=True),
    "kill_ingest": _of_member("ingest", (0.5, 6.0), Fleet.kill, Fleet.start),
    "pause_ingest": _of_member("ingest", _ZOMBIE_S, _pause, _resume, outlasts_session=True),
    "restart_postgres": _of_server(
        "postgres", (0.0, 3.0), _postgres, PostgresServer.stop_at_once, Server.start
    ),
    "kill_cache": _of_server("cache", (0.5, 5.0), _cache, Server.kill, Server.start),
    "restart_cache": _of_server("cache", (0.0, 0.0), _cache, Server.stop, Server.start),
    "flush_cache": _of_server("cache", (0.0, 0.0), _cache, _flush, _nothing),
    "fill_cache": _of_server("cache", (1.0, 6.0), _cache, _fill, _make_room),
    "kill_broker": _of_server("broker", (0.5, 6.0), _brokers, Server.kill, Server.start),
    "restart_broker": _of_server("broker", (0.0, 3.0), _brokers, Server.stop, Server.start),
    "cut_connections": _of_connections((0.1, 3.0), Proxy.cut),
    "stall_connections": _of_connections((1.0, 6.0), Proxy.stall),
    "slow_connections": _of_connections((2.0, 6.0), lambda proxy: proxy.slow(_SLOW_S)),
}
