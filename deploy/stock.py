"""Whether local stock and the second stock source agree."""

from contracts.errors import SettingsError
from contracts.settings import Settings
from stock_ledger.pool import connect_pool
from stock_ledger.upstream.agree import Difference
from stock_ledger.upstream.agree import differences as compared
from stock_ledger.upstream.http import connect_stock_source
from stock_ledger.upstream.source import StockSource
from stock_ledger.upstream.store import Open, PostgresOpen

_OPEN_MAX = 1_000_000


async def differences(settings: Settings) -> list[Difference]:
    """Of every product that has a second source. Raises SettingsError if none is configured, Unavailable."""
    if not settings.stock_source_url:
        raise SettingsError("set SLUICEWAY_STOCK_SOURCE_URL to compare with it")
    pool = await connect_pool(settings)
    try:
        async with connect_stock_source(settings) as source:
            return await compare(PostgresOpen(pool), source)
    finally:
        await pool.close()


async def compare(open_: Open, source: StockSource) -> list[Difference]:
    local = await open_.local()
    outstanding = await open_.open(_OPEN_MAX)
    told = await source.available(sorted(local))
    return compared(local, told, outstanding.unsettled, outstanding.give_back)
