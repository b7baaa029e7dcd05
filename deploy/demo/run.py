"""A whole sale: plan, buyers, live progress, audit, report."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer
from rich.console import Console

from api.payments.behaviour import Shares
from contracts.auth import MERCHANT
from contracts.kafka import consumer_options, tp
from contracts.settings import Settings
from contracts.topics import Topics
from deploy import audit, sample
from deploy.demo.agreement import Funnel, HotStock, disagreements, funnel_read, hot_stock
from deploy.demo.buyers import Crowd, Tally
from deploy.demo.life import MERCHANT_ID, Life, Told, payment_ttl_s, session
from deploy.demo.plan import plan
from deploy.demo.progress import Progress
from deploy.fleet import Fleet
from deploy.local import prepare, running, token
from deploy.stack import LocalStack
from stock_ledger.audit.facts import Facts
from stock_ledger.audit.report import AuditReport
from stock_ledger.pool import acquired, connect_pool

_TOKEN_TTL_S = 6 * 3600
_HOT_SHARE = 0.9
_LATE_SHARE = 0.12  # of the checkouts: come when stock has returned
_DRAIN_S = 30.0
_DECIDING = """
SELECT count(*) AS decided, extract(epoch FROM max(decided_at) - min(decided_at))::float8 AS seconds FROM decisions
"""


class _Accepted(msgspec.Struct, frozen=True):
    """What is read of an event's data; those of commands have no such time."""

    accepted_at: datetime | None = None


class Options(msgspec.Struct, frozen=True):
    """How large the sale is. `stock` is the hot product's."""

    checkouts: int
    buyers: int
    products: int
    stock: int
    workers: int
    seed: int = 1


class Result(msgspec.Struct, frozen=True):
    """What a sale came to; `demo --json` writes it. Rates are per second, times in milliseconds.

    `decision_ms` is from the acceptance of a checkout to the publication of its decision, after it is durable.
    `fates` are what buyers and merchant did with orders, `commands` what they gave by action and end; `disagreements`
    where clients were told something else than the audit has read.
    """

    submitted: int
    accepted: int
    rejected_at_edge: dict[str, int]
    decided: int
    created: int
    held: int
    refused: dict[str, int]
    repeated: int
    lost: int
    oversold: int
    dead_lettered: int
    funnel: Funnel
    fates: dict[str, int]
    commands: dict[str, dict[str, int]]
    hot_stock: HotStock
    audit_ok: bool
    accept_per_s: float
    decide_per_s: float
    decision_ms: dict[str, float]
    unexpected: list[str]
    disagreements: list[str]
    answered: dict[str, int]
    ok: bool


async def sell(
    stack: LocalStack, settings: Settings, options: Options, log_dir: Path, console: Console
) -> tuple[Result, AuditReport]:
    """Prepare, start the processes, run the sale, audit it, stop the processes."""
    say = console.print
    say("Preparing schema, topics and catalogue ...")
    products = [
        msgspec.structs.replace(product, payment_ttl_s=payment_ttl_s(options.checkouts))
        for product in sample.products(options.products, options.stock)
    ]
    await prepare(settings, products, sample.addresses(options.buyers))
    async with running(stack, settings, log_dir, workers=options.workers, say=say) as fleet:
        say(
            f"Selling: {options.checkouts:,} checkouts from {options.buyers:,} buyers to {fleet.of('ingest')[0].url}"
        )
        async with session() as http:
            sale = _Sale(fleet, settings, options, http, console)
            await sale.run()
        say("Every order is at its end. Auditing the log, Postgres, the cache and the events ...")
        facts, report = await audit.run_on_facts(settings, _DRAIN_S, timed_out=True)
        decision_ms = percentiles(await decision_times_ms(settings))
    return result_of(sale, facts, report, decision_ms), report


class _Sale:
    """A sale under way: who buys, and what becomes of the orders. `tally`, `told` and `decide_per_s` are its outcome."""

    def __init__(
        self,
        fleet: Fleet,
        settings: Settings,
        options: Options,
        http: aiohttp.ClientSession,
        console: Console,
    ) -> None:
        self._settings = settings
        self._options = options
        self._console = console
        self._attempts = plan(options.checkouts, options.buyers, options.products, options.seed, _HOT_SHARE)
        tokens = _tokens(settings, {attempt.buyer_id for attempt in self._attempts})
        secret, shares = settings.sandbox_secrets.split(",")[0], Shares.parse(settings.sandbox_shares)
        ttl_s = payment_ttl_s(options.checkouts)
        self._life = Life(http, fleet.of("api")[0].url, secret, shares, ttl_s, tokens, options.seed)
        self._crowd = Crowd([member.url for member in fleet.of("ingest")], tokens, self._life.begin)
        self.decide_per_s = 0.0

    @property
    def tally(self) -> Tally:
        return self._crowd.tally

    @property
    def told(self) -> Told:
        return self._life.told

    async def run(self) -> None:
        """Show progress until every buyer has an answer and every order is at its end."""
        pool = await connect_pool(self._settings)
        showing = asyncio.create_task(
            Progress(self._console, pool, self.tally, self._options.checkouts).run()
        )
        try:
            await self._sell(pool)
        finally:
            await self._life.give_up()
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing
            await pool.close()

    async def _sell(self, pool: "asyncpg.Pool[Any]") -> None:
        """Most come at once; the others when some of what was not paid or not wanted is back on the shelf."""
        late = int(len(self._attempts) * _LATE_SHARE)
        await self._crowd.run(self._attempts[: len(self._attempts) - late])
        self.decide_per_s = await _decide_per_s(pool)
        await self._life.returned(sample.HOT_PRODUCT)
        await self._crowd.run(self._attempts[len(self._attempts) - late :])
        await self._life.all_acted()
        await self._life.look(self.tally.orders.values(), sample.HOT_PRODUCT)


def _tokens(settings: Settings, buyers: set[str]) -> Callable[[str], str]:
    tokens = {buyer: token(settings, buyer, _TOKEN_TTL_S) for buyer in buyers}
    return (tokens | {MERCHANT_ID: token(settings, MERCHANT_ID, _TOKEN_TTL_S, MERCHANT)}).__getitem__


def result_of(sale: _Sale, facts: Facts, report: AuditReport, decision_ms: dict[str, float]) -> Result:
    tally, told, totals = sale.tally, sale.told, report.totals
    lost = totals.lost + len(tally.lost)
    unexpected = tally.unexpected + told.wrong
    differing = disagreements(tally.orders.values(), told, facts, sample.HOT_PRODUCT)
    return Result(
        submitted=tally.submitted,
        accepted=tally.accepted,
        rejected_at_edge={str(status): count for status, count in sorted(tally.rejected.items())},
        decided=totals.decided,
        created=totals.created,
        held=totals.held,
        refused=dict(sorted(totals.refused.items())),
        repeated=totals.repeated,
        lost=lost,
        oversold=totals.oversold,
        dead_lettered=totals.dead_lettered,
        funnel=funnel_read(facts),
        fates=dict(told.fates.most_common()),
        commands=_by_action(told),
        hot_stock=hot_stock(facts, sample.HOT_PRODUCT),
        audit_ok=report.ok,
        accept_per_s=round(tally.accepted / max(tally.posting_s, 1e-9), 1),
        decide_per_s=round(sale.decide_per_s, 1),
        decision_ms=decision_ms,
        unexpected=unexpected[:20],
        disagreements=differing,
        answered=dict(sorted(tally.answered.items())),
        ok=report.ok and lost == 0 and totals.oversold == 0 and not unexpected and not differing,
    )


def _by_action(told: Told) -> dict[str, dict[str, int]]:
    """How often each action was asked for, by what came of it."""
    counts: dict[str, dict[str, int]] = {}
    ends = [(status.action, status.status) for status in told.commands.values()]
    for action, end in [*ends, *((action, "turned away") for action in told.turned_away.elements())]:
        of_action = counts.setdefault(action, {})
        of_action[end] = of_action.get(end, 0) + 1
    return counts


async def _decide_per_s(pool: "asyncpg.Pool[Any]") -> float:
    """Decisions per second between the first and the last so far."""
    async with acquired(pool) as connection:
        row = await connection.fetchrow(_DECIDING)
    return float(row["decided"] / row["seconds"]) if row["seconds"] else 0.0


async def decision_times_ms(settings: Settings) -> list[float]:
    """Of every event, the milliseconds from the acceptance of its line to its publication."""
    topic = Topics(settings).events
    options = consumer_options(settings)
    consumer = AIOKafkaConsumer(**{**options, "group_id": None})
    await consumer.start()
    try:
        places = [tp(topic, p) for p in range(settings.partitions)]
        consumer.assign(places)
        ends: dict[Any, int] = await consumer.end_offsets(places)
        await consumer.seek_to_beginning(*places)
        decoder = msgspec.json.Decoder(_Accepted)
        times: list[float] = []
        deadline = time.monotonic() + 30
        while any([await consumer.position(place) < end for place, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                accepted = [(r.timestamp, decoder.decode(r.value).accepted_at) for r in records]
                times += [told - at.timestamp() * 1000 for told, at in accepted if at is not None]
            if time.monotonic() > deadline:
                break
        return times
    finally:
        await consumer.stop()


def percentiles(values: list[float]) -> dict[str, float]:
    """p50 and p99 by the nearest rank; empty without values."""
    ranked = sorted(values)
    return {
        name: round(ranked[min(int(len(ranked) * share), len(ranked) - 1)], 1)
        for name, share in (("p50", 0.50), ("p99", 0.99))
        if ranked
    }
