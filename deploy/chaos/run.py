"""A history on real servers: a sale over HTTP with faults in the middle, then healing, the audit and the checker."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import aiohttp
import asyncpg
import msgspec

from api.marks import AWAY_FOR_S, CONFIRMED_FOR_S
from contracts.auth import MERCHANT
from contracts.settings import Settings
from deploy import audit, sample
from deploy.chaos.askers import MERCHANT_ID, Askers
from deploy.chaos.claims import Watcher
from deploy.chaos.clients import Buyers
from deploy.chaos.endings import never_ended
from deploy.chaos.faults import FAULTS, Injected, Planned, Site, name_of, schedule
from deploy.chaos.history import check
from deploy.chaos.measure import (
    Recovery,
    Stall,
    Times,
    accepting_stall_s,
    deciding_stall,
    decision_times,
    per_s,
    recoveries,
)
from deploy.chaos.operations import History, Violation
from deploy.chaos.servers import Servers
from deploy.demo.plan import plan
from deploy.local import prepare, running, token
from stock_ledger.audit.facts import Facts
from stock_ledger.audit.report import AuditReport, Totals

_INGESTS = _APIS = 2
_BUYERS = 2000
_PRODUCTS = 60
_HOT_SHARE = 0.3
_HOT_SOLD_OUT_AFTER = 0.08  # of the sale, if none came back
_PAYMENT_TTL_S = 5
_TOKEN_TTL_S = 6 * 3600
_PATIENCE_S = 120.0  # after the sale, for every answer; and for the audit's drain
_TIMERS_S = 60.0  # after the last answer, for what time ends; timers ask again after half of that
_LOOK_S = 0.5
_SHOWN_MAX = 20  # deviations of a law that a result keeps

Say = Callable[[str], None]


class Options(msgspec.Struct, frozen=True):
    """What a run is. `kinds` are faults; so many checkouts are sent, however slowly they are answered."""

    duration_s: float
    kinds: list[str]
    seed: int
    brokers: int = 1
    workers: int = 3
    checkouts_per_s: float = 25.0
    slices: int = 1  # of the hot product


class Result(msgspec.Struct, frozen=True):
    """What a run came to. Operations are counted by their outcome; `asks` are commands, of which `asked` counts those that
    were taken in by action. `broken` are laws of the audit with deviations.
    """

    ok: bool
    seed: int
    brokers: int
    workers: int
    duration_s: float
    faults: dict[str, int]
    submits: dict[str, int]
    polls: dict[str, int]
    asks: dict[str, int]
    asked: dict[str, int]
    looks: int
    accepted: int
    accepted_per_s: float
    longest_deciding_stall: Stall
    longest_accepting_stall_s: float
    recoveries: list[Recovery]
    violation_counts: dict[str, int]
    violations: list[Violation]
    broken: dict[str, list[str]]
    totals: Totals
    exits_unasked: int
    started_at: float
    drain_s: float
    audit_s: float
    injected: list[Injected]


async def history(servers: Servers, options: Options, data_dir: Path, say: Say) -> Result:
    """Prepare the servers, start the processes, run the sale, judge it. What buyers recorded is kept in `data_dir`."""
    began = time.monotonic()
    settings = servers.settings()
    stock = int(options.duration_s * options.checkouts_per_s * _HOT_SHARE * _HOT_SOLD_OUT_AFTER)
    products = [
        msgspec.structs.replace(
            product,
            payment_ttl_s=_PAYMENT_TTL_S,
            slices=options.slices if product.product_id == sample.HOT_PRODUCT else 1,
        )
        for product in sample.products(_PRODUCTS, stock)
    ]
    await prepare(settings, products, sample.addresses(_BUYERS))
    async with running(
        servers.stack,
        settings,
        data_dir / "logs",
        workers=options.workers,
        ingests=_INGESTS,
        apis=_APIS,
        say=say,
    ) as fleet:
        say(f"processes are up after {time.monotonic() - began:.1f} s")
        fleet.enlist("worker", settings)  # for worker_joins
        site = Site(servers.stack, fleet, servers.proxies)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        http = aiohttp.ClientSession(connector=connector)
        run = _Run(site, settings, options, http, say)
        try:
            return await run.run()
        finally:
            await run.askers.give_up()
            await http.close()
            (data_dir / "history.json").write_bytes(msgspec.json.encode(run.buyers.history))
            for member in fleet.members:  # what they would still do is of no interest
                fleet.kill(member)


async def audited(settings: Settings, patience_s: float = _TIMERS_S) -> tuple[Facts, AuditReport]:
    """The audit, once time has ended all that it is to end, or when that has taken too long."""
    deadline = time.monotonic() + patience_s
    while True:
        facts, report = await audit.run_on_facts(settings, _PATIENCE_S, timed_out=True)
        if time.monotonic() > deadline or not any(never_ended(facts)):
            return facts, report
        await asyncio.sleep(_LOOK_S)


class _Run:
    """One history. Times are seconds since the epoch."""

    def __init__(
        self, site: Site, settings: Settings, options: Options, http: aiohttp.ClientSession, say: Say
    ) -> None:
        self._site = site
        self._settings = settings
        self._options = options
        self._say = say
        self._watcher = Watcher(site.stack.urls.postgres)
        session_s = settings.session_timeout_ms / 1000
        self._planned = schedule(options.seed, options.duration_s, options.kinds, session_s)
        self._injected: list[Injected] = []
        self._started = self._ended = self._answered = 0.0

        @cache
        def bearer(buyer_id: str) -> str:
            return token(settings, buyer_id, _TOKEN_TTL_S, MERCHANT if buyer_id == MERCHANT_ID else "")

        ingests = [member.url for member in site.fleet.of("ingest")]
        apis = {member.name: member.url for member in site.fleet.of("api")}
        rng = random.Random(options.seed)  # noqa: S311 - a script, not a secret
        secret = settings.sandbox_secrets.split(",")[0]
        record = History(sold_out_for_s=2 * settings.gate_stale_s)
        self.askers = Askers(http, apis, bearer, secret, rng, record)
        self.buyers = Buyers(ingests, apis, bearer, rng, record, self.askers.take)

    async def run(self) -> Result:
        """Sell while faults come and go; when all is healed and every buyer has an answer, judge."""
        options = self._options
        count = int(options.duration_s * options.checkouts_per_s)
        attempts = plan(count, _BUYERS, _PRODUCTS, options.seed, _HOT_SHARE)
        self._started = time.time()
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watcher.run())
                buying = tasks.create_task(self.buyers.run(attempts, options.checkouts_per_s, _PATIENCE_S))
                restocking = tasks.create_task(
                    self.askers.restock(sample.HOT_PRODUCT, self._started + options.duration_s)
                )
                async with asyncio.TaskGroup() as faults:
                    for planned in self._planned:
                        faults.create_task(self._inject(planned))
                self._ended = max(self._started + options.duration_s, time.time())
                await asyncio.wait({buying, restocking})
                await self.askers.finish(_PATIENCE_S)
                watching.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        self._answered = time.time()
        return await self._judge()

    async def _inject(self, planned: Planned) -> None:
        await self._until(planned.at_s)
        fault = FAULTS[planned.kind]
        victim = fault.choose(self._site, planned.pick)
        if victim is None:
            return
        injected = Injected(planned.kind, name_of(victim), time.time())
        if fault.target == "worker" and victim.process is not None:
            injected.owned = self._watcher.owned_by(victim.process.pid)
        self._injected.append(injected)
        self._site.hurt.append((fault.target, victim))
        self._tell(injected, "injected")
        await fault.inject(self._site, victim)
        await self._until(planned.at_s + planned.lasts_s)
        await fault.heal(self._site, victim)  # not where the run is interrupted: all of it is killed then
        injected.healed_at = time.time()
        self._site.hurt.remove((fault.target, victim))
        self._tell(injected, "healed")

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(self._started + at_s - time.time(), 0.0))

    def _tell(self, injected: Injected, what: str) -> None:
        self._say(f"{time.time() - self._started:6.1f} s  {injected.kind} {injected.victim} {what}")

    async def _judge(self) -> Result:
        facts, report = await audited(self._settings)
        self.buyers.history.postgres_away = self._postgres_away()
        violations, counts = await asyncio.to_thread(check, self.buyers.history, facts)
        connection = await asyncpg.connect(self._site.stack.urls.postgres)
        try:
            times = await decision_times(connection)
        finally:
            await connection.close()
        return self._result(times, report, violations, counts)

    def _postgres_away(self) -> list[tuple[float, float]]:
        """When Postgres may not have answered an api process in time, or is not asked again yet."""
        after_s = self._settings.read_timeout_s + AWAY_FOR_S + CONFIRMED_FOR_S
        return [(f.at, f.healed_at + after_s) for f in self._injected if f.victim == "postgres"]

    def _result(
        self, times: list[Times], report: AuditReport, violations: list[Violation], counts: dict[str, int]
    ) -> Result:
        options, operations, start, end = self._options, self.buyers.history, self._started, self._ended
        accepted = sorted(submit.until for submit in operations.submits if submit.status == 202)
        return Result(
            ok=report.ok and not counts,
            seed=options.seed,
            brokers=options.brokers,
            workers=options.workers,
            duration_s=options.duration_s,
            faults=dict(sorted(Counter(injected.kind for injected in self._injected).items())),
            submits=dict(Counter(submit.outcome for submit in operations.submits)),
            polls=dict(Counter(poll.outcome for poll in operations.polls)),
            asks=dict(Counter(ask.outcome for ask in operations.asks)),
            asked=dict(Counter(ask.action for ask in operations.asks if ask.status in (202, 204))),
            looks=len(operations.looks),
            accepted=len(accepted),
            accepted_per_s=round(per_s(accepted, start, end), 1),
            longest_deciding_stall=deciding_stall(times, start),
            longest_accepting_stall_s=round(accepting_stall_s(accepted, start, end), 2),
            recoveries=recoveries(self._injected, self._watcher, times, accepted, start, end),
            violation_counts=counts,
            violations=violations,
            broken={
                law.code: [str(deviation) for deviation in law.deviations[:_SHOWN_MAX]]
                for law in report.laws
                if not law.ok
            },
            totals=report.totals,
            exits_unasked=sum(member.restarts for member in self._site.fleet.members),
            started_at=start,
            drain_s=round(max(self._answered - end, 0.0), 1),
            audit_s=round(time.time() - self._answered, 1),
            injected=self._injected,
        )
