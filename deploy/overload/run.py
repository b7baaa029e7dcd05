"""The proof: find what can be sustained, offer a multiple of it, drain, send back in, restart under load, audit."""

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from contracts.errors import Unavailable
from contracts.settings import Settings
from deploy import audit, sample
from deploy.bench.checkouts import OTHERS, requests, write_hot
from deploy.bench.children import child
from deploy.bench.rounds import Ramp
from deploy.fleet import Fleet, Member
from deploy.local import prepare, running, with_api
from deploy.overload.load import Load, Outcome, Plan
from deploy.overload.verdict import Result, decided_per_s, describe, is_sustained, judge, rate
from deploy.overload.watch import Watch
from deploy.progress import drained
from deploy.stack import LocalStack, StackError
from stock_ledger.audit.report import AuditReport
from stock_ledger.pool import acquired, connect_pool

_BUYERS = 5000
_CONNECTIONS = 1000
_BURST_CONNECTIONS = 4000  # with fewer, requests wait here for one, and never meet the edge
_CALM_CONNECTIONS = 200  # while processes are restarted: each is in use more often than SHUTDOWN_DRAIN_S
_OTHER_FILES = 1000  # that a process may have open beside them
_STOCK = 10**9
_FIRST_PER_S, _STEP, _TRIES = 500.0, 1.25, 2
_STEP_S = 4.0
_CALM_SHARE = 0.5  # of the sustained rate, while processes are restarted
_RETURN_S = 4.0
_RESTARTS_MAX_S = 900.0

TOLD = 'CREATE TEMP TABLE told (checkout_id uuid, partition integer, "offset" bigint)'
KEPT = """
SELECT count(*) AS told, count(d.checkout_id) AS kept
FROM told t LEFT JOIN decisions d
    ON d.partition = t.partition AND d."offset" = t."offset" AND d.checkout_id = t.checkout_id
"""


class Options(msgspec.Struct, frozen=True):
    """The burst: `factor` times what is sustained, for `seconds`. `lag_max` is set where the settings' is larger."""

    seconds: float = 60.0
    factor: float = 3.0
    ingests: int = 2
    workers: int = 2
    lag_max: int = 30_000


async def prove(
    stack: LocalStack, settings: Settings, options: Options, log_dir: Path, console: Console
) -> tuple[Result, AuditReport]:
    """Run all phases, then judge. Raises StackError if not enough files may be open here."""
    allow_files(_BURST_CONNECTIONS + _OTHER_FILES)
    lag_max = min(settings.lag_max or options.lag_max, options.lag_max)
    settings = msgspec.structs.replace(settings, lag_max=lag_max)
    products = [
        msgspec.structs.replace(product, stock=_STOCK, buyer_limit=None)
        for product in sample.products(OTHERS, _STOCK)
    ]
    await prepare(settings, products, sample.addresses(_BUYERS))
    result = Result(lag_max, options.factor)
    async with (
        running(stack, settings, log_dir, workers=0, say=console.print) as fleet,
        watched(settings, fleet) as watch,
    ):
        proof = Proof(settings, options, fleet, watch, result, log_dir, console.print)
        await proof.start()
        await proof.find_sustained()
        await proof.burst()
        await proof.come_again()
        await proof.restart()
        console.print("Auditing: every 202 against the decisions, and all the laws ...")
        await proof.count_kept()
        report = await audit.run(settings, drain_timeout_s=120)
    result.audit_ok = report.ok
    result.memory_mb = {name: round(mb) for name, mb in sorted(watch.peak_mb.items())}
    result.looks = watch.looks
    result.failures = judge(result, [member.name for member in fleet.members])
    return result, report


def allow_files(count: int) -> None:
    """Let this process and those it starts have so many open. Raises StackError if it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise StackError(
            f"{count:,} files must be open at once, of which connections are most; the limit here is {hard:,}: "
            "raise the hard limit (`ulimit -Hn`) and run it again"
        )
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


class Proof:
    """The phases, in their order."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        fleet: Fleet,
        watch: Watch,
        result: Result,
        folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._options = options
        self._fleet = fleet
        self._watch = watch
        self._result = result
        self._folder = folder
        self._say = say
        self._accepted: list[Path] = []
        self._requests = requests(settings)

    async def start(self) -> None:
        """More processes; what a backlog of one hot product drains at while nothing comes in.

        Streams, which is not on a checkout's way, is left out until the restarts: on one machine it takes from what is
        measured, most of all while it makes up for a burst.
        """
        for member in self._fleet.of("streams"):
            self._fleet.kill(member)
        api = self._fleet.of("api")[0]
        for _ in range(1, self._options.ingests):
            self._fleet.add("ingest", with_api(self._settings, api.url))
        await write_hot(self._settings, self._settings.lag_max)
        for _ in range(self._options.workers):
            self._fleet.add("worker", self._settings)
        self._result.drain_before_per_s = await drained(self._settings)
        await self._fleet.wait_ready()
        self._say(
            f"drain of {self._settings.lag_max:,} with nothing coming in: {rate(self._result.drain_before_per_s)}"
        )

    async def find_sustained(self) -> None:
        """The highest rate of a ramp at which all are taken in, soon, and decided as they come.

        Raises Unavailable if not even the first is.
        """
        ramp = Ramp(_FIRST_PER_S, _STEP, _TRIES)
        while not ramp.is_over:
            per_s = ramp.per_s
            began = time.monotonic()
            outcome = await self._load(per_s, _STEP_S)
            lag = max(look.lag for look in self._watch.since(began + _STEP_S / 2))
            await drained(self._settings)
            held = is_sustained(outcome, lag, per_s)
            ramp.tell(held=held)
            word = "sustained" if held else "too much"
            self._say(f"  {per_s:,.0f}/s {word}: {describe(outcome)}; at most {lag:,} waited")
        if not ramp.best_per_s:
            raise Unavailable(
                f"not even {_FIRST_PER_S:,.0f}/s is sustained here: there is nothing to multiply"
            )
        self._result.sustained_per_s = round(ramp.best_per_s)

    async def burst(self) -> None:
        """Offer the multiple; then nothing, until all is decided; then as large a backlog that no burst made."""
        per_s = self._options.factor * self._result.sustained_per_s
        self._say(f"burst: {per_s:,.0f}/s for {self._options.seconds:.0f} s ...")
        began = time.monotonic()
        self._result.burst = await self._load(per_s, self._options.seconds, connections=_BURST_CONNECTIONS)
        looks = self._watch.since(began)
        self._result.decided_in_burst_per_s = decided_per_s(looks, self._options.seconds)
        self._result.drain_after_per_s = await drained(self._settings)
        self._result.lag_peak = max(look.lag for look in self._watch.since(began))
        self._say(f"  {describe(self._result.burst)}; at most {self._result.lag_peak:,} waited")
        self._say(
            f"  answered meanwhile {self._result.burst.answered_per_s:,.0f}/s, {self._result.reached:.1f} times"
        )
        self._say(
            f"  decided {rate(self._result.decided_in_burst_per_s)} meanwhile, then drained "
            f"{rate(self._result.drain_after_per_s)}"
        )
        await write_hot(self._settings, self._settings.lag_max)
        self._result.drain_later_per_s = await drained(self._settings)
        self._say(f"drain of as much, made by hand: {rate(self._result.drain_later_per_s)}")

    async def come_again(self) -> None:
        """Turn some away from a log that is full, and have them come again when they were told to."""
        self._say("a full log, a short burst; who is turned away comes again when told to ...")
        await write_hot(self._settings, self._settings.lag_max)
        per_s = self._options.factor * self._result.sustained_per_s
        self._result.coming_again = await self._load(
            per_s, _RETURN_S, connections=_BURST_CONNECTIONS, comes_again=True
        )
        await drained(self._settings)
        again = self._result.coming_again
        self._say(f"  {describe(again)}; came again, once: {again.due_again:,}, answered {again.again}")

    async def restart(self) -> None:
        """Every ingest process and every worker, one after the other, twice, under a load in this process."""
        per_s = _CALM_SHARE * self._result.sustained_per_s
        self._say(f"restarts one by one under {per_s:,.0f}/s ...")
        for member in self._fleet.of("streams"):
            self._fleet.start(member)
        load = Load(self._plan(per_s, _RESTARTS_MAX_S, connections=_CALM_CONNECTIONS))
        loading = asyncio.create_task(load.run())
        for member in 2 * [*self._fleet.of("ingest"), *self._fleet.of("worker")]:
            await self._restart(member)
        load.stop()
        self._result.restarts = await loading
        await drained(self._settings)
        self._say(f"  {describe(self._result.restarts)}; restarted {self._result.restarted}")

    async def _restart(self, member: Member) -> None:
        await asyncio.to_thread(self._fleet.restart, member)
        await self._fleet.wait_ready()
        self._result.restarted[member.name] = self._result.restarted.get(member.name, 0) + 1

    async def _load(
        self, per_s: float, seconds: float, *, connections: int = _CONNECTIONS, comes_again: bool = False
    ) -> Outcome:
        plan = self._plan(per_s, seconds, connections=connections, comes_again=comes_again)
        return await child("deploy.overload.load", plan, Outcome)

    def _plan(self, per_s: float, seconds: float, *, connections: int, comes_again: bool = False) -> Plan:
        path = self._folder / f"accepted-{len(self._accepted)}.txt"
        self._accepted.append(path)
        ports = [member.port for member in self._fleet.of("ingest")]
        return Plan(
            self._settings.host, ports, self._requests, connections, per_s, seconds, str(path), comes_again
        )

    async def count_kept(self) -> None:
        """Hold every line of every 202 against the decisions in Postgres."""
        pool = await connect_pool(self._settings)
        try:
            async with acquired(pool) as connection:
                await connection.execute(TOLD)
                for path in self._accepted:
                    await connection.copy_to_table("told", source=path, delimiter=" ")
                row = await connection.fetchrow(KEPT)
        finally:
            await pool.close()
        self._result.told, self._result.kept = row["told"], row["kept"]


@asynccontextmanager
async def watched(settings: Settings, fleet: Fleet) -> AsyncIterator[Watch]:
    """A watch until the end. What it fails with ends what goes on meanwhile, and is raised."""
    watch = Watch(settings, fleet)
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch.run())
            yield watch
            watching.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
