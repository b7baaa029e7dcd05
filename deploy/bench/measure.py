"""The suites, interleaved: accepting beside a bare 202, draining beside a locking transaction per order."""

import asyncio
import os
import platform
import socket
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table

from contracts.kafka import Record, send
from contracts.messages import CheckoutLine
from contracts.settings import PREFIX, Settings
from contracts.topics import Topics, partition_of
from deploy import sample
from deploy.bench import baseline, load
from deploy.fleet import Fleet
from deploy.local import prepare, token
from deploy.stack import LocalStack, end, spawn
from deploy.stack.ports import find_free
from deploy.topics import end_offsets
from ingest.publisher import start_producer
from stock_ledger.catalogue import ProductEntry
from stock_ledger.postgres import acquired, connect_pool

HOT = sample.HOT_PRODUCT
BASELINE_PRODUCT = "baseline-phone"
_CONNECTIONS = (64, 256, 512)
_BASELINE_CONNECTIONS = 16
_ROOT = Path(__file__).resolve().parent.parent.parent

T = TypeVar("T")


class Size(msgspec.Struct, frozen=True):
    """How much is measured: rounds, seconds of load, messages of the backlog, baseline orders."""

    rounds: int
    seconds: float
    backlog: int
    orders: int


FULL = Size(rounds=3, seconds=6, backlog=100_000, orders=8_000)
QUICK = Size(rounds=1, seconds=2, backlog=20_000, orders=2_000)


async def measure(
    stack: LocalStack, settings: Settings, log_dir: Path, console: Console, *, quick: bool
) -> dict[str, Any]:
    """Run all suites, print a table, give the figures."""
    size = QUICK if quick else FULL
    baseline_product = ProductEntry(BASELINE_PRODUCT, "Aurora Phone 15, 256 GB", "3999.00", "CNY", 10**9)
    products = [
        msgspec.structs.replace(product, buyer_limit=None)  # every checkout is to become an order
        for product in sample.products(200, 10**9)
    ]
    await prepare(settings, [*products, baseline_product], sample.addresses(5000))
    fleet = Fleet(stack, log_dir, console.print)
    try:
        console.print(
            "accept: POST -> Kafka (acks=all, idempotent) -> 202, beside a bare 202 of the same server"
        )
        accepted = await accept(stack, fleet, settings, size, console)
        console.print("drain: a backlog of one hot product, beside SELECT ... FOR UPDATE per order")
        drained = await drain(fleet, settings, size, console)
    finally:
        fleet.stop()
    result = {
        "machine": machine(),
        "size": msgspec.structs.asdict(size),
        "accept": accepted,
        "drain": drained,
    }
    console.print(_table(result))
    return result


async def accept(
    stack: LocalStack, fleet: Fleet, settings: Settings, size: Size, console: Console
) -> list[dict[str, Any]]:
    """For each number of connections: accepted/s, bare/s and their ratio, medians of the rounds."""
    ingest = fleet.add("ingest", settings)
    await fleet.wait_ready()
    bare_port = find_free({ingest.port})
    env = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    bare_settings = msgspec.structs.replace(settings, ingest_port=bare_port)
    bare = spawn(
        [sys.executable, "-m", "deploy.bench.bare"],
        log_path=ingest.log_path.with_name("bare.log"),
        env=env | bare_settings.as_env(),
        reaper=stack.reaper,
        cwd=_ROOT,
    )
    await _until(lambda: _listens(bare_port), 20)
    results = []
    try:
        for connections in _CONNECTIONS:
            pairs: list[tuple[float, float]] = []
            for _ in range(size.rounds):
                ours = await _load(settings, ingest.port, connections, size.seconds)
                theirs = await _load(settings, bare_port, connections, size.seconds)
                pairs.append((ours.per_s("202"), theirs.per_s("202")))
                console.print(
                    f"  {connections} connections: {pairs[-1][0]:,.0f}/s, bare {pairs[-1][1]:,.0f}/s"
                )
                if set(ours.statuses) != {"202"}:
                    console.print(f"  other answers: {ours.statuses}", style="red")
            results.append({"connections": connections, **_ratio(pairs, "accepted_per_s", "bare_per_s")})
    finally:
        end(bare, stack.reaper, grace_s=5)
        fleet.kill(ingest)
        fleet.members.remove(ingest)
    return results


async def drain(fleet: Fleet, settings: Settings, size: Size, console: Console) -> dict[str, Any]:
    """Orders/s of a worker on a backlog of one product, and of the locking baseline; medians of the rounds."""
    worker = fleet.add("worker", settings)
    await fleet.wait_ready()
    await drained(settings)  # what the accept suite left
    fleet.kill(worker)
    fleet.members.remove(worker)
    pairs: list[tuple[float, float]] = []
    for number in range(size.rounds):
        await backlog(settings, size.backlog)
        before = await _orders(settings)
        worker = fleet.add("worker", settings)
        ours = await drained(settings)
        if (made := await _orders(settings) - before) != size.backlog:
            raise RuntimeError(f"{size.backlog} checkouts became {made} orders")
        fleet.kill(worker)
        fleet.members.remove(worker)
        plan = baseline.Plan(
            settings.postgres_url,
            BASELINE_PRODUCT,
            size.orders,
            _BASELINE_CONNECTIONS,
            settings.partitions,
            number * size.orders,
        )
        theirs = await child("deploy.bench.baseline", msgspec.json.encode(plan), float)
        pairs.append((ours, theirs))
        console.print(f"  drained {ours:,.0f} orders/s, FOR UPDATE {theirs:,.0f} orders/s")
    return _ratio(pairs, "drained_per_s", "for_update_per_s")


async def _load(settings: Settings, port: int, connections: int, seconds: float) -> load.Outcome:
    body = b'{"items":[{"product_id":"%b","quantity":1}],"address_id":"home"}' % HOT.encode()
    request = (
        b"POST /v1/checkouts HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer " + token(settings, sample.buyer_id(1), 3600).encode() + b"\r\n"
        b"Idempotency-Key: %KEY%\r\n"
        b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
    )
    plan = load.Plan(settings.host, port, request, connections, seconds)
    return await child("deploy.bench.load", msgspec.json.encode(plan), load.Outcome)


async def child(module: str, plan: bytes, answer: type[T]) -> T:
    """Run a module with its plan on standard input, and decode what it writes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=-1, stdout=-1, cwd=_ROOT
    )
    output, _ = await process.communicate(plan)
    if process.returncode:
        raise RuntimeError(f"{module} ended with status {process.returncode}")
    return msgspec.json.decode(output, type=answer)


async def backlog(settings: Settings, count: int) -> None:
    """Write `count` single-line checkouts of the hot product, as ingest would."""
    producer = await start_producer(settings)
    partition = partition_of(HOT, settings.partitions)
    now_ms = time.time_ns() // 1_000_000
    try:
        for start in range(0, count, 5000):
            lines = [
                CheckoutLine(
                    v=1,
                    checkout_id=str(uuid.uuid4()),
                    buyer_id=sample.buyer_id(i % 5000 + 1),
                    product_id=HOT,
                    quantity=1,
                    payload_hash="0" * 32,
                    accepted_at_ms=now_ms,
                    address_id="home",
                )
                for i in range(start, min(start + 5000, count))
            ]
            records: list[Record] = [(line.partition_key(), msgspec.json.encode(line), []) for line in lines]
            for _, ack in await send(producer, Topics(settings).checkouts, partition, records, now_ms):
                await ack
        await producer.flush()
    finally:
        await producer.stop()


async def drained(settings: Settings) -> float:
    """Wait until everything in the log is decided; messages per second from the first progress seen to the last."""
    end_of_log = sum((await end_offsets(settings, Topics(settings).checkouts)).values())
    pool = await connect_pool(settings)
    try:
        start = await decided(pool)
        first: tuple[float, int] | None = None
        while (count := await decided(pool)) < end_of_log:
            if first is None and count > start:
                first = (time.monotonic(), count)
            await asyncio.sleep(0.01)
        if first is None:
            return 0.0
        return (count - first[1]) / max(time.monotonic() - first[0], 1e-9)
    finally:
        await pool.close()


async def decided(pool: Any) -> int:
    async with acquired(pool) as connection:
        return int(await connection.fetchval("SELECT coalesce(sum(next_offset), 0) FROM partition_state"))


async def _orders(settings: Settings) -> int:
    pool = await connect_pool(settings)
    try:
        async with acquired(pool) as connection:
            return int(await connection.fetchval("SELECT count(*) FROM orders"))
    finally:
        await pool.close()


async def _until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not come true within {seconds} s")
        await asyncio.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ratio(pairs: list[tuple[float, float]], ours: str, theirs: str) -> dict[str, Any]:
    """Medians of both, and of the ratios of each round with their spread."""
    ratios = [a / b for a, b in pairs]
    return {
        ours: round(statistics.median(a for a, _ in pairs)),
        theirs: round(statistics.median(b for _, b in pairs)),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
    }


def machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def _table(result: dict[str, Any]) -> Table:
    table = Table(title="Medians, everything on this machine", title_justify="left")
    for column in ("suite", "Sluiceway /s", "beside /s", "ratio", "spread"):
        table.add_column(column, justify="left" if column == "suite" else "right")
    rows = [
        (f"accept, {row['connections']} connections, beside a bare 202", "accepted_per_s", "bare_per_s", row)
        for row in result["accept"]
    ]
    rows.append(
        ("drain one hot product, beside FOR UPDATE", "drained_per_s", "for_update_per_s", result["drain"])
    )
    for name, ours, theirs, row in rows:
        spread = f"{row['ratio_min']}-{row['ratio_max']}"
        table.add_row(name, f"{row[ours]:,}", f"{row[theirs]:,}", f"{row['ratio']}", spread)
    return table
