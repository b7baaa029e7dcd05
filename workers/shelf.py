"""A writer's stock and catalogue: from the view while it is what this writer last showed, else from Postgres."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from contracts.errors import Unavailable
from contracts.settings import Settings
from stock_ledger.decide import Product, Stock
from stock_ledger.ledger import Claim, Entry, Ledger
from stock_ledger.view import PartitionView, Progress, Shown, View

logger = logging.getLogger(__name__)

Results = Sequence[tuple[str, str, bytes]]


class Shelf:
    """Reads through the view and writes it after the commit.

    The view of a partition is trusted only while its progress is exactly what this writer showed last. Otherwise
    (flushed, failed over to older data, down) it is rebuilt from Postgres, and Postgres is read meanwhile. A cache
    that does not answer is left alone for `cache_retry_s`.
    """

    def __init__(
        self, view: View, ledger: Ledger, settings: Settings, monotonic: Callable[[], float]
    ) -> None:
        self._view = view
        self._ledger = ledger
        self._settings = settings
        self._monotonic = monotonic
        self._shown: dict[int, Progress] = {}
        self._rates: dict[
            int, tuple[float, int, float]
        ] = {}  # partition -> (time, next_offset, decided per s)
        self._away_until = 0.0
        self._beat_at = 0.0
        self._beats = 0

    async def load(
        self, wanted: Mapping[int, Iterable[str]], claims: Mapping[int, Claim]
    ) -> dict[str, Entry]:
        """Catalogue and stock of the wanted products by partition; what does not exist is absent."""
        entries: dict[str, Entry] = {}
        names = {p: sorted(product_ids) for p, product_ids in wanted.items()}
        missing: list[str] = []
        found = await self._try_load(names)
        for p, product_ids in names.items():
            view = found.get(p)
            if view is not None and p in self._shown and view.progress == self._shown[p]:
                entries |= view.entries
                missing += [i for i in product_ids if i not in view.entries]
            else:
                await self.rebuild(p, claims[p])
                missing += product_ids
        if missing:
            entries |= await self._ledger.products(missing)
        return entries

    async def show(
        self,
        touched: Mapping[int, Iterable[str]],
        products: Mapping[str, Product],
        stock: Mapping[str, Stock],
        claims: Mapping[int, Claim],
        results: Results,
    ) -> None:
        """Show a committed batch: results, absolute stock of the products touched by partition, progress.

        A failure leaves the view to be rebuilt. A partition whose view is not trusted is not added to: only a rebuild
        makes it whole again.
        """
        shown = [
            Shown(
                p,
                self._progress(p, claims[p]),
                {i: stock[i] for i in of_partition},
                {i: products[i] for i in of_partition},
                after=self._shown[p],
            )
            for p, of_partition in touched.items()
            if p in self._shown
        ]
        await self._try_show(shown, results)

    async def show_results(self, results: Results) -> None:
        """Show results of earlier batches again."""
        await self._try_show((), results)

    async def rebuild(self, partition: int, claim: Claim) -> None:
        """Show all of a partition as Postgres has it."""
        self._shown.pop(partition, None)
        if self._is_away():
            return
        entries = await self._ledger.partition_products(partition)
        stock = {i: stock for i, (_, stock) in entries.items()}
        products = {i: product for i, (product, _) in entries.items()}
        await self._try_show(
            [Shown(partition, self._progress(partition, claim), stock, products, whole=True)], ()
        )

    async def beat(self, claims: Mapping[int, Claim]) -> None:
        """Where nothing comes in: show that the writer lives, and mend a view that was lost."""
        now = self._monotonic()
        if now - self._beat_at < self._settings.idle_beat_s or not claims:
            return
        self._beat_at = now
        found = await self._try_load(dict.fromkeys(claims, ()))
        intact = []
        for p, claim in claims.items():
            if p in self._shown and p in found and found[p].progress == self._shown[p]:
                intact.append(Shown(p, self._progress(p, claim), {}, {}, after=self._shown[p]))
            else:
                await self.rebuild(p, claim)
        await self._try_show(intact, ())

    async def _try_load(self, names: Mapping[int, Sequence[str]]) -> Mapping[int, PartitionView]:
        if self._is_away():
            return {}
        try:
            return await self._view.load(names)
        except Unavailable as error:
            self._went_away(error)
            return {}

    async def _try_show(self, shown: Sequence[Shown], results: Results) -> None:
        for part in shown:
            self._shown.pop(part.partition, None)
        if self._is_away() or not (shown or results):
            return
        try:
            await self._view.show(shown, results)
        except Unavailable as error:
            self._went_away(error)
            return
        for part in shown:
            self._shown[part.partition] = part.progress

    def _is_away(self) -> bool:
        return self._monotonic() < self._away_until

    def _went_away(self, error: Unavailable) -> None:
        self._away_until = self._monotonic() + self._settings.cache_retry_s
        logger.warning("deciding goes on from Postgres: %s", error, extra={"action": "cache_away"})

    def _progress(self, partition: int, claim: Claim) -> Progress:
        """The progress to show; its rate is measured over about a second."""
        now = self._monotonic()
        then, offset, rate = self._rates.get(partition, (now, claim.next_offset, 0.0))
        if now - then >= 1.0:
            rate = (claim.next_offset - offset) / (now - then)
            then, offset = now, claim.next_offset
        self._rates[partition] = (then, offset, rate)
        self._beats += 1
        return Progress(claim.epoch, claim.next_offset, round(rate), self._beats)
