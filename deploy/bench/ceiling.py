"""The COPY ceiling: the rows of a drain copied into an empty database of the same schema, in the same batches.

`python -m deploy.bench.ceiling`, its plan on standard input. One transaction per batch over one connection, the rows
at hand before the clock starts, and nothing else: no reading, deciding, fence, stock, view or events.
"""

import asyncio
import gc
import sys
import time
from itertools import islice
from typing import Any

import asyncpg
import msgspec
import uvloop

# A batch is decided at one time. Of how many messages each was:
BATCHES = 'SELECT count(*) FROM decisions GROUP BY decided_at ORDER BY min("offset")'
# The tables that have rows of the orders, and which rows those are.
TABLES = {
    "decisions": "",
    "orders": "",
    "order_items": "",
    "payments": "",
    "ledger": "WHERE kind = 'order'",
}


class Plan(msgspec.Struct, frozen=True):
    source_url: str
    target_url: str


class Outcome(msgspec.Struct, frozen=True):
    """Orders per second after the first batch, as a drain is measured."""

    orders_per_s: float
    batches: int


Batch = list[tuple[str, list[str], list[Any]]]  # table, columns, rows


async def run(plan: Plan) -> Outcome:
    source, target = await asyncio.gather(asyncpg.connect(plan.source_url), asyncpg.connect(plan.target_url))
    sizes = [int(r[0]) for r in await source.fetch(BATCHES)]
    batches = await _batches(source, sizes)
    await source.close()
    gc.freeze()
    gc.disable()
    started = 0.0
    for batch in batches:
        async with target.transaction():
            for table, columns, rows in batch:
                await target.copy_records_to_table(table, records=rows, columns=columns)
        started = started or time.monotonic()
    elapsed = time.monotonic() - started
    await target.close()
    return Outcome(sum(sizes[1:]) / elapsed, len(sizes))


async def _batches(source: Any, sizes: list[int]) -> list[Batch]:
    """Every table has as many rows of a batch as the batch has messages, in the same order."""
    made: list[Batch] = [[] for _ in sizes]
    for table, which in TABLES.items():
        rows = await source.fetch(f"SELECT * FROM {table} {which} ORDER BY ctid")  # noqa: S608 - constants
        if len(rows) != sum(sizes):
            raise RuntimeError(f"{table} has {len(rows)} rows of {sum(sizes)} orders")
        columns = list(rows[0].keys())
        left = iter(rows)
        for batch, size in zip(made, sizes, strict=True):
            batch.append((table, columns, [tuple(r.values()) for r in islice(left, size)]))
    return made


def main() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(run(plan))))


if __name__ == "__main__":
    main()
