"""A process of its own: a writer that decides a backlog of one slice, with nothing but its own memory behind it."""

import asyncio
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import uvloop

from contracts.messages import CheckoutLine, Shipping, encode_checkout_line
from contracts.settings import Settings
from contracts.slices import slice_of_buyer, stock_id
from contracts.topics import partition_of
from deploy import sample
from deploy.bench.checkouts import BUYERS
from deploy.bench.ground import until
from stock_ledger.batch import Product, Stock
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.fakes import MemoryLedger
from stock_ledger.view_fakes import MemoryView
from workers.fakes import MemoryBroker, MemoryLog
from workers.health import Health
from workers.shelf import Shelf
from workers.writer import Writer

_PATIENCE_S = 600.0
_HOME = Shipping("Li Wei", "+86 138 0000 0000", "1 Lotus Road, Hangzhou")


class Plan(msgspec.Struct, frozen=True):
    """Which slice of how many, and how many lines; `begin_at` is when to begin at the earliest, by the monotonic clock."""

    number: int
    slices: int
    lines: int
    begin_at: float


class Outcome(msgspec.Struct, frozen=True):
    """When deciding began, and when the last line was decided, by the monotonic clock, in seconds."""

    began_at: float
    ended_at: float


async def run(plan: Plan) -> Outcome:
    """Raises RuntimeError if not every line became an order."""
    settings = Settings()
    own = stock_id(sample.HOT_PRODUCT, plan.number)
    partition = partition_of(own, settings.partitions)
    broker, ledger = MemoryBroker(settings.partitions), MemoryLedger()
    ledger.put(_entry(own, plan.slices), Stock(plan.lines, 1), partition)
    for line in _lines(plan):
        broker.append(partition, line.partition_key(), encode_checkout_line(line))
    log = MemoryLog(broker)
    shelf = Shelf(MemoryView(), ledger, settings, time.monotonic)
    health = Health(settings, time.monotonic)
    commands = MemoryCommandLedger(ledger)
    writer = Writer(log, ledger, commands, shelf, health, settings, own, lambda: datetime.now(UTC))
    await asyncio.sleep(plan.begin_at - time.monotonic())
    running = asyncio.create_task(writer.run())
    await until(lambda: log in broker.members, _PATIENCE_S)
    began_at = time.monotonic()
    await broker.assign({log: range(settings.partitions)})
    await until(lambda: running.done() or broker.committed.get(partition, 0) == plan.lines, _PATIENCE_S)
    ended_at = time.monotonic()
    writer.stop()
    await running
    if (made := len(ledger.orders)) != plan.lines:
        raise RuntimeError(f"{plan.lines} lines became {made} orders")
    return Outcome(began_at, ended_at)


def _entry(own: str, slices: int) -> Product:
    return Product(
        own, "Aurora Phone 15, 256 GB", "https://img.example/hot.jpg", Decimal("3999.00"), "CNY",
        on_shelf=True, buyer_limit=None, payment_ttl_s=900, version=1, slices=slices,
    )  # fmt: skip


def _lines(plan: Plan) -> Iterator[CheckoutLine]:
    """One unit each, of buyers that belong to the slice."""
    now_ms = time.time_ns() // 1_000_000
    buyers = [
        b for b in map(sample.buyer_id, range(1, BUYERS + 1)) if slice_of_buyer(b, plan.slices) == plan.number
    ]
    for number in range(plan.lines):
        yield CheckoutLine(
            v=1,
            checkout_id=str(uuid.uuid4()),
            buyer_id=buyers[number % len(buyers)],
            product_id=sample.HOT_PRODUCT,
            quantity=1,
            payload_hash="0" * 32,
            accepted_at_ms=now_ms,
            shipping=_HOME,
            slice=plan.number,
        )


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(plan))))


if __name__ == "__main__":
    main()
