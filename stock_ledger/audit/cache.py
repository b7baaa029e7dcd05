"""What an audit reads of the view. What differs from Postgres is looked at again: a view may be a moment behind."""

import asyncio
import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from sys import intern
from typing import Any, NamedTuple

import asyncpg
import msgspec
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from contracts.errors import SettingsError, Unavailable
from contracts.keys import Keys
from contracts.settings import Settings
from contracts.topics import partition_of
from stock_ledger.audit.decode import result_fact
from stock_ledger.audit.facts import (
    CacheFacts,
    ResultFact,
    ShownProduct,
    ShownProgress,
    ShownSlices,
    ShownStock,
    SpoiltKey,
    StockRow,
)
from stock_ledger.audit.postgres import products_now, slices_now, states_now, stock_now
from stock_ledger.batch import Product
from stock_ledger.redis_view import connect_redis, decode_product, read_gate
from stock_ledger.view import Gate

_TIMEOUT_S = 10.0  # an audit is in no hurry
_KEYS_MAX = 500  # of one round trip
_SETTLE_S = 3.0  # how long a difference may last that is a mere delay
_AGAIN_S = 0.1

# KEYS, and in ARGV what reads each. Gives what each holds, then number and type of those that hold another type.
# One answer for many is several times faster to read than many answers.
READ = """
local values, spoilt = {}, {}
for i = 1, #KEYS do
  local value = redis.pcall(ARGV[i], KEYS[i])
  if type(value) == 'table' and value.err then
    if not string.find(value.err, 'WRONGTYPE', 1, true) then return value end
    spoilt[#spoilt + 1] = i
    spoilt[#spoilt + 1] = redis.call('TYPE', KEYS[i]).ok
    value = false
  end
  values[i] = value
end
return {values, spoilt}
"""

Pair = tuple[int, int]


class Wanted(NamedTuple):
    """A key to read, by which command, and the law that it breaks where it holds another type."""

    law: str
    command: str
    key: str


async def read_cache(pool: "asyncpg.Pool[Any]", settings: Settings) -> CacheFacts:
    """All that is shown, beside Postgres at the same moment. A cache that does not answer is told, not raised.

    Raises SettingsError if it may not be read, Unavailable if it answers with another error, or Postgres does not.
    """
    patient = max(settings.cache_timeout_s, _TIMEOUT_S)
    redis = connect_redis(msgspec.structs.replace(settings, cache_timeout_s=patient))
    reader = _Reader(redis, pool, settings)
    try:
        return CacheFacts(
            stock=await reader.stock(),
            products=await reader.products(),
            slices=await reader.slices(),
            progress=await reader.progress(),
            results=await reader.results(),
            spoilt=sorted(reader.spoilt.values()),
        )
    except _Away as error:
        return CacheFacts(away=str(error))
    finally:
        await redis.aclose()


class _Away(Exception):
    """The cache, and not Postgres, does not answer."""


class _Reader:
    def __init__(self, redis: Redis, pool: "asyncpg.Pool[Any]", settings: Settings) -> None:
        self.spoilt: dict[str, SpoiltKey] = {}  # by key, as last read
        self._redis = redis
        self._pool = pool
        self._keys = Keys(settings.cache_prefix)
        self._partitions = settings.partitions

    async def stock(self) -> list[ShownStock]:
        found: dict[str, ShownStock] = {}
        deadline = time.monotonic() + _SETTLE_S
        while True:
            before = await stock_now(self._pool)
            wanted = [row for row in before.values() if row.product_id not in found]
            shown = await self._shown_stock(wanted)
            sold_out = await self._sold_out()
            after = await stock_now(self._pool)
            is_last = time.monotonic() >= deadline
            for row in wanted:
                fact = _beside(row, after.get(row.product_id, row), shown[row.product_id], sold_out)
                if is_last or _agrees(fact):
                    found[row.product_id] = fact._replace(settled=fact.settled or _agrees(fact))
            if before.keys() <= found.keys():
                strangers = sorted(sold_out - after.keys())
                return [*found.values(), *(ShownStock(i, None, True, True, None) for i in strangers)]
            await asyncio.sleep(_AGAIN_S)

    async def products(self) -> list[ShownProduct]:
        found: dict[str, ShownProduct] = {}
        deadline = time.monotonic() + _SETTLE_S
        while True:
            before = await products_now(self._pool)
            wanted = [i for i in before if i not in found]
            shown = await self._shown_products(wanted)
            after = await products_now(self._pool)
            is_last = time.monotonic() >= deadline
            for i in wanted:
                fact = _product_beside(before[i], after.get(i, before[i]), shown[i])
                if is_last or (fact.readable and fact.shown in (None, fact.true)):
                    found[i] = fact
            if before.keys() <= found.keys():
                return list(found.values())
            await asyncio.sleep(_AGAIN_S)

    async def slices(self) -> list[ShownSlices]:
        found: dict[str, ShownSlices] = {}
        deadline = time.monotonic() + _SETTLE_S
        while True:
            before = await slices_now(self._pool)
            shown = await self._shown_slices()
            after = await slices_now(self._pool)
            is_last = time.monotonic() >= deadline
            several = {i for i, count in after.items() if count > 1}
            wanted = (several | {i for of in shown.values() for i in of or ()}) - found.keys()
            for i in wanted:
                of = shown[partition_of(i, self._partitions)]
                fact = ShownSlices(
                    i, None if of is None else of.get(i, 1), after.get(i), before.get(i) == after.get(i)
                )
                if is_last or fact.shown in (None, fact.true):
                    found[i] = fact
            if wanted <= found.keys():
                return [found[i] for i in sorted(found)]
            await asyncio.sleep(_AGAIN_S)

    async def progress(self) -> list[ShownProgress]:
        found: dict[int, ShownProgress] = {}
        deadline = time.monotonic() + _SETTLE_S
        while True:
            before = await states_now(self._pool)
            wanted = [p for p in range(self._partitions) if p not in found]
            values = await self._read([self._progress_of(p) for p in wanted])
            after = await states_now(self._pool)
            is_last = time.monotonic() >= deadline
            for p, value in zip(wanted, values, strict=True):
                fact = _progress_beside(p, before.get(p, (0, 0)), after.get(p, (0, 0)), value)
                agrees = fact.readable and (fact.shown is None or fact.shown[1] == fact.true[1])
                if is_last or agrees:
                    found[p] = fact._replace(settled=fact.settled or agrees)
            if len(found) == self._partitions:
                return [found[p] for p in sorted(found)]
            await asyncio.sleep(_AGAIN_S)

    async def results(self) -> list[ResultFact]:
        prefix = self._keys.result("")
        pattern = re.sub(r"([\[\]*?\\^])", r"\\\1", prefix) + "*"
        seen: set[str] = set()
        facts: list[ResultFact] = []
        cursor = 0
        while True:
            cursor, keys = await self._ask(self._redis.scan(cursor, match=pattern, count=_KEYS_MAX))
            fresh = [key for key in dict.fromkeys(k.decode() for k in keys) if key not in seen]
            hashes = await self._read([Wanted("cache-results", "HGETALL", key) for key in fresh])
            seen.update(fresh)
            for key, hashed in zip(fresh, hashes, strict=True):
                fields = hashed or []
                checkout_id = intern(key.removeprefix(prefix))
                facts += [
                    result_fact(checkout_id, intern(field.decode(errors="replace")), document)
                    for field, document in zip(fields[::2], fields[1::2], strict=True)
                ]
            if cursor == 0:
                return facts

    async def _shown_stock(self, rows: Sequence[StockRow]) -> dict[str, bytes | None]:
        values = await self._read(
            [Wanted("cache-stock", "GET", self._keys.stock(row.partition, row.product_id)) for row in rows]
        )
        return {row.product_id: value for row, value in zip(rows, values, strict=True)}

    async def _shown_products(self, ids: Sequence[str]) -> dict[str, bytes | None]:
        """What writers take from the view: catalogue entries, if the stock beside them is of the partition's epoch."""
        places = {i: partition_of(i, self._partitions) for i in ids}
        progress = await self._read([self._progress_of(p) for p in range(self._partitions)])
        values = await self._read(
            [
                one
                for i, p in places.items()
                for one in (
                    Wanted("cache-stock", "GET", self._keys.stock(p, i)),
                    Wanted("cache-products", "GET", self._keys.product(p, i)),
                )
            ]
        )
        pairs = zip(places.items(), values[::2], values[1::2], strict=True)
        return {i: product if _is_of_epoch(stock, progress[p]) else None for (i, p), stock, product in pairs}

    async def _sold_out(self) -> set[str]:
        return {i for gate in (await self._gates()).values() for i in gate.sold_out}

    async def _shown_slices(self) -> dict[int, Mapping[str, int] | None]:
        """By partition, how many slices the products of its stock ids have; None for one that is not shown."""
        gates = await self._gates()
        return {p: None if gate.progress is None else gate.slices for p, gate in gates.items()}

    async def _gates(self) -> dict[int, Gate]:
        places = range(self._partitions)
        wanted = [
            one
            for p in places
            for one in (self._progress_of(p), Wanted("cache-sold-out", "SMEMBERS", self._keys.gate(p)))
        ]
        found = await self._read(wanted)
        return {
            p: read_gate(progress, members or ())
            for p, progress, members in zip(places, found[::2], found[1::2], strict=True)
        }

    def _progress_of(self, partition: int) -> Wanted:
        return Wanted("cache-progress", "GET", self._keys.progress(partition))

    async def _read(self, wanted: Sequence[Wanted]) -> list[Any]:
        """What each key holds, None for nothing or another type; those of another type are kept in `spoilt`."""
        values: list[Any] = []
        for start in range(0, len(wanted), _KEYS_MAX):
            some = wanted[start : start + _KEYS_MAX]
            keys, commands = [one.key for one in some], [one.command for one in some]
            found, spoilt = await self._ask(self._redis.eval(READ, len(keys), *keys, *commands))
            values += found
            for key in keys:
                self.spoilt.pop(key, None)
            for number, holds in zip(spoilt[::2], spoilt[1::2], strict=True):
                law, _, key = some[number - 1]
                self.spoilt[key] = SpoiltKey(law, key, holds.decode())
        return values

    async def _ask(self, call: Awaitable[Any]) -> Any:
        try:
            return await call
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise SettingsError(
                f"SLUICEWAY_REDIS_URL: the cache does not let itself be read: {error}"
            ) from error
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise _Away(str(error)) from error
        except RedisError as error:
            raise Unavailable(f"the cache does not let itself be read: {error}") from error


def _beside(before: StockRow, after: StockRow, value: bytes | None, sold_out: AbstractSet[str]) -> ShownStock:
    """The value "epoch:seq:available" beside what Postgres said before and after it was read."""
    product_id, true = before.product_id, (after.seq, after.available)
    shown = _numbers(value, 3)
    if shown is None:
        return ShownStock(
            product_id, None, value is None, product_id in sold_out, true, settled=before == after
        )
    pair = (shown[1], shown[2])
    if pair == (before.seq, before.available):
        true = pair
    settled = before == after or pair[0] > after.seq
    return ShownStock(product_id, pair, True, product_id in sold_out, true, settled=settled)


def _agrees(fact: ShownStock) -> bool:
    if fact.shown is None or fact.true is None:
        return fact.readable and not fact.sold_out
    return fact.shown == fact.true and fact.sold_out == (fact.true[1] <= 0)


def _is_of_epoch(stock: bytes | None, progress: bytes | None) -> bool:
    """Whether the stock "epoch:seq:available" was shown since the partition was claimed."""
    shown, claimed = _numbers(stock, 3), _numbers(progress, 2)
    return shown is not None and claimed is not None and shown[0] == claimed[0]


def _product_beside(before: Product, after: Product, value: bytes | None) -> ShownProduct:
    """The entry beside what Postgres said before and after it was read."""
    settled = before == after
    if value is None:
        return ShownProduct(after.product_id, None, True, after, settled)
    try:
        shown = decode_product(value)
    except (ValueError, msgspec.ValidationError):
        return ShownProduct(after.product_id, None, False, after, settled)
    return ShownProduct(after.product_id, shown, True, before if shown == before else after, settled)


def _progress_beside(partition: int, before: Pair, after: Pair, value: bytes | None) -> ShownProgress:
    """The value "epoch:next_offset:..." beside what Postgres said before and after it was read."""
    shown = _numbers(value, 2)
    if shown is None:
        return ShownProgress(partition, None, value is None, after)
    pair = (shown[0], shown[1])
    return ShownProgress(partition, pair, True, before if pair == before else after, settled=before == after)


def _numbers(value: bytes | None, count: int) -> list[int] | None:
    """The first numbers of a value, None if it is not there or has not as many."""
    if value is None:
        return None
    parts = value.split(b":")[:count]
    return [int(part) for part in parts] if len(parts) == count and all(p.isdigit() for p in parts) else None
