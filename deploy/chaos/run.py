"""A history on real servers: a sale over HTTP with faults in the middle, then healing, the audit and the checker."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from pathlib import Path

import asyncpg
import msgspec

from api.marks import AWAY_FOR_S, CONFIRMED_FOR_S
from contracts.settings import Settings
from deploy import audit, sample
from deploy.chaos.clients import Buyers
from deploy.chaos.faults import FAULTS, Planned, Site, schedule
from deploy.chaos.history import History, Violation, check
from deploy.chaos.measure import (
    Claimed,
    Recovery,
    Times,
    Watcher,
    deciding_stall_s,
    decided_again_at,
    decision_times,
    longest_gap_s,
    per_s,
)
from deploy.chaos.proxy import Proxy
from deploy.demo.plan import plan
from deploy.fleet import Fleet
from deploy.local import given_settings, local_settings, prepare, running, token
from deploy.stack import LocalStack
from stock_ledger.audit_report import AuditReport, Totals

_PARTITIONS = 8
_INGESTS = _APIS = 2
_BUYERS = 2000
_PRODUCTS = 60
_HOT_SHARE = 0.3
_HOT_SOLD_OUT_AFTER = 0.6  # of the sale
_TOKEN_TTL_S = 6 * 3600
_PATIENCE_S = 60.0  # after the sale, for every answer; and for the audit's drain

Say = Callable[[str], None]


class Options(msgspec.Struct, frozen=True):
    """What a run is. `kinds` are faults; `checkouts_per_s` are sent however slowly they are answered."""

    duration_s: float
    kinds: list[str]
    seed: int
    brokers: int = 1
    workers: int = 3
    checkouts_per_s: float = 40.0


class Injected(msgspec.Struct):
    """A fault as it was. Times are seconds since the epoch; `done_at` is when the injection was complete."""

    kind: str
    victim: str
    at: float
    done_at: float = 0.0
    healed_at: float = 0.0
    owned: dict[int, Claimed] = {}  # of a worker: what it had claimed


class Result(msgspec.Struct, frozen=True):
    """What a run came to. Counts of operations are by their outcome. `broken` are laws of the audit."""

    ok: bool
    seed: int
    brokers: int
    duration_s: float
    faults: dict[str, int]
    submits: dict[str, int]
    polls: dict[str, int]
    accepted: int
    decided: int
    totals: Totals
    accepted_per_s: float
    longest_deciding_stall_s: float
    longest_accepting_stall_s: float
    recoveries: list[Recovery]
    violation_counts: dict[str, int]
    violations: list[Violation]
    broken: dict[str, list[str]]
    exits_unasked: int
    seconds: dict[str, float]  # by phase
    injected: list[Injected]


class Servers(msgspec.Struct):
    """A local stack whose clients come through proxies."""

    stack: LocalStack
    proxies: list[Proxy]

    def settings(self) -> Settings:
        """What processes are to be configured with."""
        own = local_settings(self.stack, given_settings())
        postgres, cache = self.proxies[-2:]
        return msgspec.structs.replace(
            own,
            postgres_url=own.postgres_url.replace(f":{postgres.target}/", f":{postgres.port}/"),
            redis_url=own.redis_url.replace(f":{cache.target}/", f":{cache.port}/"),
            partitions=_PARTITIONS,
            replication_factor=len(self.stack.brokers),
        )


@contextmanager
def servers(data_dir: Path, brokers: int, say: Say) -> Iterator[Servers]:
    """Started, and killed at the end: what they hold is not needed any more."""
    proxies = [Proxy(f"kafka-{number}") for number in range(1, brokers + 1)]
    stack = LocalStack(data_dir, kafka_ports=[proxy.port for proxy in proxies], say=say)
    proxies += [Proxy("postgres"), Proxy("cache")]
    began = time.monotonic()
    with stack:
        say(f"Servers are up after {time.monotonic() - began:.1f} s")
        own = [*stack.brokers, stack.postgres, stack.cache]
        for proxy, server in zip(proxies, own, strict=True):
            proxy.target = server.port
        try:
            yield Servers(stack, proxies)
        finally:
            for server in own:
                server.kill()


class Run:
    """One history. `at` of the faults counts from `started`, seconds since the epoch."""

    def __init__(self, site: Site, options: Options, postgres_url: str, say: Say) -> None:
        self._site = site
        self._options = options
        self._postgres_url = postgres_url  # past the proxy
        self._say = say
        self._watcher = Watcher(postgres_url)
        self._seconds: dict[str, float] = {}
        self.started = 0.0
        self.ended = 0.0
        self.injected: list[Injected] = []
        rng = random.Random(options.seed)  # noqa: S311 - a script, not a secret
        fleet, settings = site.fleet, site.settings

        @lru_cache(maxsize=None)
        def bearer(buyer_id: str) -> str:
            return token(settings, buyer_id, _TOKEN_TTL_S)

        apis = {member.name: member.url for member in fleet.of("api")}
        self._buyers = Buyers([member.url for member in fleet.of("ingest")], apis, bearer, rng)

    @property
    def history(self) -> History:
        return self._buyers.history

    async def run(self) -> Result:
        options = self._options
        attempts = plan(
            int(options.duration_s * options.checkouts_per_s), _BUYERS, _PRODUCTS, options.seed, _HOT_SHARE
        )
        watching = asyncio.create_task(self._watcher.run())
        self.started = time.time()
        try:
            buying = asyncio.create_task(self._buyers.run(attempts, options.checkouts_per_s, _PATIENCE_S))
            async with asyncio.TaskGroup() as faults:
                for planned in schedule(options.seed, options.duration_s, options.kinds):
                    faults.create_task(self._inject(planned))
            healed = time.time()
            self.ended = max(self.started + options.duration_s, healed)
            await buying
        finally:
            watching.cancel()
        answered = time.time()
        facts, report = await audit.run_on_facts(self._site.settings, _PATIENCE_S)
        self.history.postgres_away = self._postgres_away()
        violations, counts = await asyncio.to_thread(check, self.history, facts)
        connection = await asyncpg.connect(self._postgres_url)
        try:
            times = await decision_times(connection)
        finally:
            await connection.close()
        self._seconds = {
            "sale": round(self.ended - self.started, 1),
            "drain": round(max(answered - self.ended, 0.0), 1),
            "process": round(time.process_time(), 1),
            "audit": round(time.time() - answered, 1),
        }
        return self._result(times, report, violations, counts)

    async def _inject(self, planned: Planned) -> None:
        await asyncio.sleep(self.started + planned.at_s - time.time())
        fault = FAULTS[planned.kind]
        victim = fault.choose(self._site, planned.pick)
        if victim is None:
            return
        injected = Injected(planned.kind, victim.name, time.time())
        if fault.target == "worker" and victim.process is not None:
            injected.owned = self._watcher.owned_by(victim.process.pid)
        self.injected.append(injected)
        self._site.hurt.append(victim)
        self._tell(injected, "injected")
        try:
            await fault.inject(self._site, victim)
            injected.done_at = time.time()
            await asyncio.sleep(max(self.started + planned.at_s + planned.lasts_s - time.time(), 0.0))
        finally:
            await fault.heal(self._site, victim)
            injected.healed_at = time.time()
            self._site.hurt.remove(victim)
        self._tell(injected, "healed")

    def _tell(self, injected: Injected, what: str) -> None:
        self._say(f"{time.time() - self.started:6.1f} s  {injected.kind} {injected.victim} {what}")

    def _postgres_away(self) -> list[tuple[float, float]]:
        """When Postgres may not have answered an api process in time, or is not asked again yet."""
        after_s = self._site.settings.read_timeout_s + AWAY_FOR_S + CONFIRMED_FOR_S
        return [
            (injected.at, injected.healed_at + after_s)
            for injected in self.injected
            if injected.kind == "restart_postgres" or injected.victim == "postgres"
        ]

    def _recoveries(self, times: Sequence[Times], accepted: Sequence[float]) -> list[Recovery]:
        found = []
        for injected in self.injected:
            if injected.kind in ("kill_worker", "stop_worker"):
                start, since = injected.at, self._watcher.taken_over(injected.owned.values())
                stopped = injected.owned.keys()
            elif injected.kind == "restart_postgres":
                start = injected.healed_at
                since = dict.fromkeys(self._watcher.claims, start)
                stopped = since.keys()
            else:
                continue
            if not stopped:
                continue
            end = decided_again_at(times, since) if since.keys() == stopped else None
            until = end or self.ended
            found.append(
                Recovery(
                    injected.kind,
                    round(start - self.started, 2),
                    None if end is None else round(end - start, 2),
                    len(stopped),
                    not any(
                        other is not injected and other.at < until and start < other.healed_at
                        for other in self.injected
                    ),
                    round(per_s(accepted, start, until), 1),
                )
            )
        return found

    def _result(
        self, times: list[Times], report: AuditReport, violations: list[Violation], counts: dict[str, int]
    ) -> Result:
        accepted = sorted(submit.until for submit in self.history.submits if submit.status == 202)
        broken = {
            law.code: [str(deviation) for deviation in law.deviations[:20]]
            for law in report.laws
            if not law.ok
        }
        return Result(
            ok=report.ok and not counts,
            seed=self._options.seed,
            brokers=self._options.brokers,
            duration_s=self._options.duration_s,
            faults=dict(sorted(Counter(injected.kind for injected in self.injected).items())),
            submits=dict(Counter(submit.outcome for submit in self.history.submits)),
            polls=dict(Counter(poll.outcome for poll in self.history.polls)),
            accepted=len(accepted),
            decided=report.totals.decided,
            totals=report.totals,
            accepted_per_s=round(per_s(accepted, self.started, self.ended), 1),
            longest_deciding_stall_s=round(deciding_stall_s(times), 2),
            longest_accepting_stall_s=round(longest_gap_s(accepted, self.started, self.ended), 2),
            recoveries=self._recoveries(times, accepted),
            violation_counts=counts,
            violations=violations,
            broken=broken,
            exits_unasked=sum(member.restarts for member in self._site.fleet.members),
            seconds=self._seconds,
            injected=self.injected,
        )


@asynccontextmanager
async def proxying(proxies: Sequence[Proxy]) -> AsyncIterator[None]:
    for proxy in proxies:
        await proxy.__aenter__()
    try:
        yield
    finally:
        for proxy in proxies:
            await proxy.__aexit__(None, None, None)


async def history(found: Servers, options: Options, data_dir: Path, say: Say) -> Result:
    """Prepare the servers, start the processes, run the sale, judge it. The history itself is kept in `data_dir`."""
    began = time.time()
    settings = found.settings()
    stock = int(options.duration_s * options.checkouts_per_s * _HOT_SHARE * _HOT_SOLD_OUT_AFTER)
    async with proxying(found.proxies):
        await prepare(settings, sample.products(_PRODUCTS, stock), sample.addresses(_BUYERS))
        say(f"Prepared after {time.time() - began:.1f} s")
        async with running(
            found.stack,
            settings,
            data_dir / "logs",
            workers=options.workers,
            ingests=_INGESTS,
            apis=_APIS,
            say=say,
        ) as fleet:
            site = Site(found.stack, fleet, found.proxies, settings)
            run = Run(site, options, found.stack.urls.postgres, say)
            say(f"Processes are up after {time.time() - began:.1f} s")
            try:
                return await run.run()
            finally:
                (data_dir / "history.json").write_bytes(msgspec.json.encode(run.history))
                end(fleet)


def end(fleet: Fleet) -> None:
    """What they would still do is of no interest."""
    for member in fleet.members:
        fleet.kill(member)
