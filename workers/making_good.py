"""Making good with the second stock source what batches and returns have left open, by time."""

import logging

from contracts.errors import Unavailable
from contracts.settings import Settings
from stock_ledger.upstream.settle import make_good
from stock_ledger.upstream.source import StockSource
from stock_ledger.upstream.store import Open

logger = logging.getLogger(__name__)


class MakingGood:
    """Any number of processes may do it: what is done twice with the source is done once."""

    def __init__(self, source: StockSource, open_: Open, settings: Settings) -> None:
        self._source = source
        self._open = open_
        self._settings = settings

    async def round(self) -> None:
        """As far as the source answers. The rest stays open for the next round."""
        try:
            before = await self._open.open(self._settings.timer_rows_max)
            if not (before.give_back or before.unsettled):
                return
            made = await make_good(self._source, before)
            await self._open.made_good(before, made)
        except Unavailable as error:
            logger.warning("the stock source waits: %s", error, extra={"action": "stock_source"})
            return
        for short in made.short:
            logger.error(
                "%d units of %s were sold that the stock source does not have (batch %s): refund some orders",
                short.units, short.product_id, short.batch, extra={"action": "stock_source_short"},
            )  # fmt: skip
