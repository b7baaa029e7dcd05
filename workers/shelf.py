"""A writer's stock and catalogue: from the view while it is what this writer last showed, else from Postgres."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from contracts.errors import Unavailable
from contracts.settings import Settings
from stock_ledger.batch import Product, Stock
from stock_ledger.ledger import Claim, Entry, Ledger
from stock_ledger.view import PartitionView, Progress, Shown, View
from workers.lane import UnderWay

logger = logging.getLogger(__name__)

Results = Sequence[tuple[str, str, bytes]]


class Shelf:
    """Reads through the view and writes it after the commit.

    The view of a partition is trusted only while its progress is exactly what this writer showed last, or is showing.
    Otherwise (flushed, failed over to older data, down) it is rebuilt from Postgres, and Postgres is read meanwhile.
    What is committed but not shown yet is known here. A cache that does not answer is left alone for `cache_retry_s`.
    """

    def __init__(
        self, view: View, ledger: Ledger, settings: Settings, monotonic: Callable[[], float]
    ) -> None:
        self._view = view
        self._ledger = ledger
        self._settings = settings
        self._monotonic = monotonic
        self._shown: dict[int, Progress] = {}
        self._to_show: dict[int, list[Shown]] = {}  # by partition, in order: committed, and not shown yet
        self._rates: dict[
            int, tuple[float, int, float]
        ] = {}  # partition -> (time, next_offset, decided per s)
        self._away_until = 0.0
        self._beat_at = 0.0
        self._beats = 0

    async def load(
        self, wanted: Mapping[int, Iterable[str]], claims: Mapping[int, Claim], before: UnderWay | None
    ) -> dict[str, Entry]:
        """Catalogue and stock of the wanted products by partition; what does not exist is absent.

        The batch `before` may not be in it. The claims are those after it: a view is rebuilt once it is committed.
        """
        entries: dict[str, Entry] = {}
        names = {p: sorted(product_ids) for p, product_ids in wanted.items()}
        missing: list[str] = []
        found = await self._try_load(names)
        for p, product_ids in names.items():
            view = found.get(p)
            if view is not None and self._is_ours(p, view.progress):
                known = view.entries | self._committed(p)
                entries |= known
                missing += [i for i in product_ids if i not in known]
            else:
                if before is not None:
                    await before.committed()
                await self.rebuild(p, claims[p])
                missing += product_ids
        if missing:
            entries |= await self._ledger.products(missing)
        return entries

    def take_in(
        self,
        touched: Mapping[int, Iterable[str]],
        products: Mapping[str, Product],
        stock: Mapping[str, Stock],
        claims: Mapping[int, Claim],
    ) -> list[Shown]:
        """Know a committed batch: absolute stock of the products touched, by partition. Gives what is to be shown of it.

        A partition whose view is not trusted is not added to: only a rebuild makes it whole again.
        """
        to_show = [
            Shown(
                p,
                self._progress(p, claims[p]),
                {i: stock[i] for i in of_partition},
                {i: products[i] for i in of_partition},
                after=self._newest(p),
            )
            for p, of_partition in touched.items()
            if p in self._shown
        ]
        for part in to_show:
            self._to_show.setdefault(part.partition, []).append(part)
        return to_show

    async def show(self, shown: Sequence[Shown], results: Results) -> None:
        """Show results, and what was taken in, in that order of batches. A failure leaves the view to be rebuilt."""
        wanted = [part for part in shown if part in self._to_show.get(part.partition, ())]
        if not (wanted or results):
            return
        is_shown = await self._try_show(wanted, results)
        for part in wanted:
            waiting = self._to_show.get(part.partition, [])
            if part not in waiting:  # it was rebuilt meanwhile
                continue
            if is_shown:
                waiting.remove(part)
                self._shown[part.partition] = part.progress
            else:
                self._forget(part.partition)

    async def rebuild(self, partition: int, claim: Claim) -> None:
        """Show all of a partition as Postgres has it."""
        self._forget(partition)
        if self._is_away():
            return
        entries = await self._ledger.partition_products(partition)
        stock = {i: stock for i, (_, stock) in entries.items()}
        products = {i: product for i, (product, _) in entries.items()}
        whole = Shown(partition, self._progress(partition, claim), stock, products, whole=True)
        if await self._try_show([whole], ()):
            self._shown[partition] = whole.progress

    async def beat(self, claims: Mapping[int, Claim]) -> None:
        """Where nothing is under way: show that the writer lives, and mend a view that was lost."""
        now = self._monotonic()
        if now - self._beat_at < self._settings.idle_beat_s or not claims:
            return
        self._beat_at = now
        found = await self._try_load(dict.fromkeys(claims, ()))
        intact: dict[int, list[str]] = {}
        for p, claim in claims.items():
            if self._to_show.get(p):
                continue  # that beats
            if p in found and self._is_ours(p, found[p].progress):
                intact[p] = []
            else:
                await self.rebuild(p, claim)
        await self.show(self.take_in(intact, {}, {}, claims), ())

    def _is_ours(self, partition: int, progress: Progress | None) -> bool:
        """Whether a view with this progress is what this writer made it."""
        if partition not in self._shown or progress is None:
            return False
        return progress == self._shown[partition] or any(
            progress == part.progress for part in self._to_show.get(partition, ())
        )

    def _committed(self, partition: int) -> dict[str, Entry]:
        """What is not shown yet."""
        parts = self._to_show.get(partition, ())
        return {i: (part.products[i], stock) for part in parts for i, stock in part.stock.items()}

    def _newest(self, partition: int) -> Progress:
        waiting = self._to_show.get(partition)
        return waiting[-1].progress if waiting else self._shown[partition]

    def _forget(self, partition: int) -> None:
        self._shown.pop(partition, None)
        self._to_show.pop(partition, None)

    async def _try_load(self, names: Mapping[int, Sequence[str]]) -> Mapping[int, PartitionView]:
        if self._is_away():
            return {}
        try:
            return await self._view.load(names)
        except Unavailable as error:
            self._went_away(error)
            return {}

    async def _try_show(self, shown: Sequence[Shown], results: Results) -> bool:
        if self._is_away():
            return False
        try:
            await self._view.show(shown, results)
        except Unavailable as error:
            self._went_away(error)
            return False
        return True

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
