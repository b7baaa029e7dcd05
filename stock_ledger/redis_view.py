"""The view in Redis (or anything that speaks its protocol)."""

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import msgspec
import orjson
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from contracts.errors import SettingsError, Unavailable
from contracts.keys import Keys, slices_member
from contracts.settings import Settings
from stock_ledger.batch import Product, Stock
from stock_ledger.ledger import Entry
from stock_ledger.view import CheckoutsView, Gate, PartitionView, Progress, Shown

# KEYS: progress, gate, then stock and product key of each entry.
# ARGV: epoch, next_offset, mode, progress text that must be there ("" for any), progress text to set ("" keeps it),
# then id, seq, available, product JSON ("" keeps it) of each entry, then what tells of slices.
# Mode 0 writes an entry only if newer; 1 writes it whatever was there; 2 also forgets what was sold out, and slices.
SHOW = """
local function newer(key, epoch, number)
  local current = redis.call('GET', key)
  if not current then return true end
  local e, n = string.match(current, '^(%d+):(%d+)')
  e, n = tonumber(e), tonumber(n)
  return not e or epoch > e or (epoch == e and number >= n)
end
local epoch = tonumber(ARGV[1])
if not newer(KEYS[1], epoch, tonumber(ARGV[2])) then return 0 end
if ARGV[4] ~= '' and redis.call('GET', KEYS[1]) ~= ARGV[4] then return 0 end
if ARGV[3] == '2' then redis.call('DEL', KEYS[2]) end
local key, entries = 3, 5 + 2 * (#KEYS - 2)
for arg = entries + 1, #ARGV do redis.call('SADD', KEYS[2], ARGV[arg]) end
for arg = 6, entries, 4 do
  local id, seq, available, product = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  if ARGV[3] ~= '0' or newer(KEYS[key], epoch, tonumber(seq)) then
    redis.call('SET', KEYS[key], ARGV[1] .. ':' .. seq .. ':' .. available)
    if product ~= '' then redis.call('SET', KEYS[key + 1], product) end
    if tonumber(available) <= 0 then redis.call('SADD', KEYS[2], id) else redis.call('SREM', KEYS[2], id) end
  end
  key = key + 2
end
if ARGV[5] ~= '' then redis.call('SET', KEYS[1], ARGV[5]) end
return 1
"""

# KEYS: result hashes. ARGV: ttl in seconds, then field and document of each.
RESULTS = """
for i = 1, #KEYS do
  redis.call('HSET', KEYS[i], ARGV[2 * i], ARGV[2 * i + 1])
  redis.call('EXPIRE', KEYS[i], ARGV[1])
end
return #KEYS
"""

# KEYS: result hashes, then progress. ARGV: how many hashes. Gives fields and values of each, then all progress.
CHECKOUTS = """
local count = tonumber(ARGV[1])
local found, progress = {}, {}
for i = 1, count do found[i] = redis.call('HGETALL', KEYS[i]) end
for i = count + 1, #KEYS do progress[i - count] = redis.call('GET', KEYS[i]) end
found[count + 1] = progress
return found
"""

# ARGV: prefix of payload keys, ttl in seconds, and one text of 68 characters for each payload: its checkout id and
# its hash, or spaces only to read. Gives the number, from 0, of every one that was there, each followed by what was.
# One argument instead of two for each payload: packing them took longer than all the rest of asking.
PAYLOADS = """
local known = {}
for at = 1, #ARGV[3], 68 do
  local key = ARGV[1] .. string.sub(ARGV[3], at, at + 35)
  local hash = string.sub(ARGV[3], at + 36, at + 67)
  local before
  if hash == '                                ' then
    before = redis.call('GET', key)
  else
    before = redis.call('SET', key, hash, 'EX', ARGV[2], 'NX', 'GET')
  end
  if before then
    known[#known + 1] = (at - 1) / 68
    known[#known + 1] = before
  end
end
return known
"""

# KEYS: progress and gate of each partition. Gives, in turn, what they hold.
GATES = """
local found = {}
for i = 1, #KEYS, 2 do
  found[i] = redis.call('GET', KEYS[i])
  found[i + 1] = redis.call('SMEMBERS', KEYS[i + 1])
end
return found
"""


T = TypeVar("T")

# Of one script call: a script holds up everyone else while it runs.
ENTRIES_MAX = 2000
RESULTS_MAX = 100


def connect_redis(settings: Settings) -> Redis:
    """A client that gives up fast and never repeats a command by itself. Connects when first used.

    Commands beyond its `redis_pool_max` connections wait for one: refused, they would pass for a cache that is away.
    Raises SettingsError for a URL with parameters that it does not understand.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            settings.redis_url,
            max_connections=settings.redis_pool_max,
            timeout=settings.cache_timeout_s,
            socket_timeout=settings.cache_timeout_s,
            socket_connect_timeout=settings.cache_timeout_s,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
        )
        pool.make_connection()  # type: ignore[no-untyped-call]  # not connected: tries the parameters
    except (TypeError, ValueError) as error:
        raise SettingsError(f"SLUICEWAY_REDIS_URL: {error}") from error
    return Redis.from_pool(pool)


class RedisView:
    """See `stock_ledger.view.View`. All scripts write absolute values: running one twice changes nothing."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._keys = Keys(settings.cache_prefix)
        self._result_ttl_s = settings.result_ttl_s
        self._payload_ttl_s = settings.idempotency_ttl_s
        self._partitions = settings.partitions

    async def load(self, wanted: Mapping[int, Sequence[str]]) -> dict[int, PartitionView]:
        keys: list[str] = []
        for partition, product_ids in wanted.items():
            keys.append(self._keys.progress(partition))
            for product_id in product_ids:
                keys += (self._keys.stock(partition, product_id), self._keys.product(partition, product_id))
        async with translated():
            values: Iterator[Any] = iter(await self._redis.mget(keys) if keys else [])
        found: dict[int, PartitionView] = {}
        for partition, product_ids in wanted.items():
            progress = read_progress(next(values))
            entries: dict[str, Entry] = {}
            for product_id in product_ids:
                entry = read_entry(progress, next(values), next(values))
                if entry is not None:
                    entries[product_id] = entry
            found[partition] = PartitionView(progress, entries)
        return found

    async def show(self, shown: Sequence[Shown], results: Sequence[tuple[str, str, bytes]]) -> None:
        async with translated(), self._redis.pipeline(transaction=False) as pipe:
            for some in batched(results, RESULTS_MAX) if results else ():
                keys = [self._keys.result(checkout_id) for checkout_id, _, _ in some]
                arguments: list[Any] = [self._result_ttl_s]
                for _, field, document in some:
                    arguments += (field, document)
                pipe.eval(RESULTS, len(keys), *keys, *arguments)
            for part in shown:
                for keys, arguments in self._show_calls(part):
                    pipe.eval(SHOW, len(keys), *keys, *arguments)
            await pipe.execute()

    def _show_calls(self, part: Shown) -> Iterator[tuple[list[str], list[Any]]]:
        """Keys and arguments of the calls that show a part; the last one writes the progress."""
        pieces = list(batched(part.stock.items(), ENTRIES_MAX))
        for number, piece in enumerate(pieces):
            mode = 0 if not part.whole else 2 if number == 0 else 1
            text = part.progress.text() if number == len(pieces) - 1 else ""
            slices = part.slices() if number == 0 else {}  # before anything is sold out
            yield self._show_arguments(part, piece, slices, mode, text)

    def _show_arguments(
        self, part: Shown, piece: list[tuple[str, Stock]], slices: Mapping[str, int], mode: int, text: str
    ) -> tuple[list[str], list[Any]]:
        keys = [self._keys.progress(part.partition), self._keys.gate(part.partition)]
        after = "" if part.after is None else part.after.text()
        arguments: list[Any] = [part.progress.epoch, part.progress.next_offset, mode, after, text]
        for product_id, stock in piece:
            product = part.products.get(product_id)
            keys += (
                self._keys.stock(part.partition, product_id),
                self._keys.product(part.partition, product_id),
            )
            arguments += (product_id, stock.seq, stock.available, encode_product(product) if product else b"")
        arguments += (slices_member(product_id, count) for product_id, count in slices.items())
        return keys, arguments

    async def progress(self, partitions: Sequence[int]) -> dict[int, Progress]:
        if not partitions:
            return {}
        async with translated():
            values = await self._redis.mget([self._keys.progress(p) for p in partitions])
        return _progress_by(partitions, values)

    async def checkouts(self, checkout_ids: Sequence[str], partitions: Sequence[int]) -> CheckoutsView:
        keys = [self._keys.result(checkout_id) for checkout_id in checkout_ids]
        keys += [self._keys.progress(p) for p in partitions]
        async with translated():
            *found, values = await self._redis.eval(CHECKOUTS, len(keys), *keys, len(checkout_ids))
        results = [
            {field.decode(): document for field, document in zip(of_one[::2], of_one[1::2], strict=True)}
            for of_one in found
        ]
        return CheckoutsView(results, _progress_by(partitions, values))

    async def gates(self, partitions: Sequence[int]) -> dict[int, Gate]:
        keys = [name(p) for p in partitions for name in (self._keys.progress, self._keys.gate)]
        async with translated():
            found: Any = await self._redis.eval(GATES, len(keys), *keys)
        return {
            p: read_gate(progress, members)
            for p, progress, members in zip(partitions, found[::2], found[1::2], strict=True)
        }

    async def remember_payloads(self, payloads: Sequence[tuple[str, str]]) -> dict[int, str]:
        asked = "".join([f"{checkout_id}{payload_hash:32}" for checkout_id, payload_hash in payloads])
        async with translated():
            known: Any = await self._redis.eval(
                PAYLOADS, 0, self._keys.payload(""), self._payload_ttl_s, asked
            )
        return {
            number: payload_hash.decode()
            for number, payload_hash in zip(known[::2], known[1::2], strict=True)
        }

    async def drop(self) -> None:
        async with translated():
            await self._redis.delete(*(self._keys.progress(p) for p in range(self._partitions)))


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """The library's errors become Unavailable."""
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        # What the library's errors are told as by repr leaves their text out.
        raise Unavailable(f"cache: {type(error).__name__}: {error}") from error


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most `size` items, at least one list even if it is empty."""
    rest = iter(items)
    yield list(islice(rest, size))
    while more := list(islice(rest, size)):
        yield more


def _progress_by(partitions: Sequence[int], values: Iterable[Any]) -> dict[int, Progress]:
    found = {p: read_progress(value) for p, value in zip(partitions, values, strict=True)}
    return {p: progress for p, progress in found.items() if progress is not None}


def read_gate(progress: bytes | None, members: Iterable[bytes]) -> Gate:
    """A gate from its progress and its set; what tells an unreadable number of slices tells nothing."""
    names = frozenset([member.decode() for member in members])
    told = [name for name in names if "#" in name]
    slices = {i: int(count) for i, count in (name.split("#", 1) for name in told) if count.isdecimal()}
    return Gate(read_progress(progress), names.difference(told), slices)


@lru_cache(maxsize=4096)  # many polls read the same
def read_progress(value: Any) -> Progress | None:
    """What is not readable counts as not there: the writer then rebuilds it."""
    try:
        return None if value is None else Progress.parse(value.decode())
    except (ValueError, TypeError):
        return None


def read_entry(progress: Progress | None, stock: Any, product: Any) -> Entry | None:
    """Catalogue and stock, unless one is missing, unreadable or left from before the epoch of the progress."""
    if progress is None or stock is None or product is None:
        return None
    try:
        epoch, seq, available = stock.split(b":")
        if int(epoch) != progress.epoch:
            return None
        return decode_product(product), Stock(int(available), int(seq))
    except (ValueError, msgspec.ValidationError):
        return None


def encode_product(product: Product) -> bytes:
    return orjson.dumps(msgspec.structs.asdict(product), default=_decimal_as_text)


def decode_product(document: bytes) -> Product:
    return msgspec.convert(orjson.loads(document), Product, strict=False)


def _decimal_as_text(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value)} has no place in the view")
