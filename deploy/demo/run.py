"""A whole sale: plan, buyers, live progress, audit, report."""

import asyncio
import contextlib
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer
from rich.console import Console

from contracts.kafka import consumer_options, tp
from contracts.settings import Settings
from contracts.topics import Topics
from deploy import audit, sample
from deploy.demo.buyers import Crowd, Tally
from deploy.demo.plan import plan
from deploy.demo.progress import Progress
from deploy.fleet import Fleet
from deploy.local import prepare, running, token
from deploy.stack import LocalStack
from stock_ledger.audit_report import AuditReport
from stock_ledger.postgres import acquired, connect_pool

_TOKEN_TTL_S = 6 * 3600
_DECIDING = """
SELECT count(*) AS decided, extract(epoch FROM max(decided_at) - min(decided_at))::float8 AS seconds FROM decisions
"""


class _Accepted(msgspec.Struct, frozen=True):
    """What is read of an event's data."""

    accepted_at: datetime


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
    """

    submitted: int
    accepted: int
    rejected_at_edge: dict[str, int]
    decided: int
    created: int
    refused: dict[str, int]
    repeated: int
    lost: int
    oversold: int
    dead_lettered: int
    audit_ok: bool
    accept_per_s: float
    decide_per_s: float
    decision_ms: dict[str, float]
    unexpected: list[str]
    answered: dict[str, int]
    ok: bool


async def sell(
    stack: LocalStack, settings: Settings, options: Options, log_dir: Path, console: Console
) -> tuple[Result, AuditReport]:
    """Prepare, start the processes, run the sale, audit it, stop the processes."""
    say = console.print
    say("Preparing schema, topics and catalogue ...")
    await prepare(
        settings, sample.products(options.products, options.stock), sample.addresses(options.buyers)
    )
    async with running(stack, settings, log_dir, workers=options.workers, say=say) as fleet:
        say(
            f"Selling: {options.checkouts:,} checkouts from {options.buyers:,} buyers to {fleet.of('ingest')[0].url}"
        )
        tally = await crowd(fleet, settings, options, console)
        say("Every buyer has an answer. Auditing the log, Postgres, the cache and the events ...")
        report = await audit.run(settings)
        decide_per_s = await _decide_per_s(settings)
        decision_ms = percentiles(await decision_times_ms(settings))
    return result_of(tally, report, decide_per_s, decision_ms), report


async def crowd(fleet: Fleet, settings: Settings, options: Options, console: Console) -> Tally:
    """Send the buyers in and show progress until each has its answer."""
    attempts = plan(options.checkouts, options.buyers, options.products, options.seed)
    tokens = {buyer: token(settings, buyer, _TOKEN_TTL_S) for buyer in {a.buyer_id for a in attempts}}
    buyers = Crowd([member.url for member in fleet.of("ingest")], tokens.__getitem__)
    pool = await connect_pool(settings)
    showing = asyncio.create_task(Progress(console, pool, buyers.tally, options.checkouts).run())
    try:
        return await buyers.run(attempts)
    finally:
        showing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await showing
        await pool.close()


def result_of(
    tally: Tally, report: AuditReport, decide_per_s: float, decision_ms: dict[str, float]
) -> Result:
    totals = report.totals
    lost = totals.lost + len(tally.lost)
    seconds = max(tally.last_post_at - tally.first_post_at, 1e-9)
    return Result(
        submitted=tally.submitted,
        accepted=tally.accepted,
        rejected_at_edge={str(status): count for status, count in sorted(tally.rejected.items())},
        decided=totals.decided,
        created=totals.created,
        refused=dict(sorted(totals.refused.items())),
        repeated=totals.repeated,
        lost=lost,
        oversold=totals.oversold,
        dead_lettered=totals.dead_lettered,
        audit_ok=report.ok,
        accept_per_s=round(tally.accepted / seconds, 1),
        decide_per_s=round(decide_per_s, 1),
        decision_ms=decision_ms,
        unexpected=tally.unexpected[:20],
        answered=dict(sorted(tally.answered.items())),
        ok=report.ok and lost == 0 and totals.oversold == 0 and not tally.unexpected,
    )


async def _decide_per_s(settings: Settings) -> float:
    """Decisions per second between the first and the last."""
    pool = await connect_pool(settings)
    try:
        async with acquired(pool) as connection:
            row = await connection.fetchrow(_DECIDING)
    finally:
        await pool.close()
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
                times += [
                    r.timestamp - decoder.decode(r.value).accepted_at.timestamp() * 1000 for r in records
                ]
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
