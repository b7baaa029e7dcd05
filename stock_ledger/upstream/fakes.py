"""A second stock source in memory, for tests and trials: same rules as a real one, no clock, no random."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from stock_ledger.fakes import MemoryLedger
from stock_ledger.upstream.settle import MadeGood
from stock_ledger.upstream.source import Answer, GiveBack, Granted, Outstanding, Reserve, Unanswered, Why
from stock_ledger.upstream.store import changes, outstanding_of

Fault = Callable[[str], Unanswered | None]  # of the product that is asked about


def never(_: str) -> None:
    return None


class MemoryOpen:
    """See `stock_ledger.upstream.store.Open`, over a ledger in memory."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self._ledger = ledger

    async def open(self, rows_max: int) -> Outstanding:
        ledger = self._ledger
        claims = await ledger.state(sorted({p for p, _, _ in ledger.intended}))  # raises Unavailable
        for (p, at, product_id), r in list(ledger.intended.items()):
            if at < claims[p].next_offset:
                ledger.put_open([("request", product_id, r.batch, r.units, 0)])
                del ledger.intended[p, at, product_id]
        return outstanding_of([row for row in ledger.open if row[0] != "short"][:rows_max])

    async def made_good(self, before: Outstanding, made: MadeGood) -> None:
        gone, new = changes(before, made)
        self._ledger.open = [row for row in self._ledger.open if row not in gone]
        self._ledger.put_open(new)

    async def local(self) -> Mapping[str, int]:
        entries = await self._ledger.products(list(self._ledger.catalogue))
        return {i: stock.available for i, (product, stock) in entries.items() if product.stock_source}


class MemoryStockSource:
    """See `stock_ledger.upstream.StockSource`.

    `lost_before` says of a product what keeps the request from the source, `lost_after` what keeps its answer from us.
    """

    def __init__(self, stock: Mapping[str, int]) -> None:
        self.stock = dict(stock)
        self.lost_before: Fault = never
        self.lost_after: Fault = never
        self._reserved: dict[str, tuple[Reserve, int]] = {}  # by key
        self._returned: dict[str, GiveBack] = {}

    async def reserve(self, requests: Sequence[Reserve]) -> dict[str, Answer]:
        return {r.product_id: self._asked(r.product_id, partial(self._reserve, r)) for r in requests}

    async def give_back(self, returns: Sequence[GiveBack]) -> dict[str, Unanswered | None]:
        answers: dict[str, Unanswered | None] = {}
        for back in returns:
            answer = self._asked(back.product_id, partial(self._take_back, back))
            answers[back.key()] = answer if isinstance(answer, Unanswered) else None
        return answers

    async def available(self, product_ids: Sequence[str]) -> dict[str, int | Unanswered]:
        answers = {i: self._asked(i, partial(self._in_stock, i)) for i in product_ids}
        return {i: answer.units if isinstance(answer, Granted) else answer for i, answer in answers.items()}

    def _asked(self, product_id: str, do: Callable[[], Answer]) -> Answer:
        lost = self.lost_before(product_id)
        if lost is not None:
            return lost
        if product_id not in self.stock:
            return Unanswered(Why.REJECTED, f"there is no product {product_id}")
        answer = do()
        return self.lost_after(product_id) or answer

    def _in_stock(self, product_id: str) -> Answer:
        return Granted(self.stock[product_id])

    def _reserve(self, request: Reserve) -> Answer:
        before = self._reserved.get(request.key())
        if before is None:
            granted = min(request.units, self.stock[request.product_id])
            self.stock[request.product_id] -= granted
            self._reserved[request.key()] = (request, granted)
        elif before[0] == request:
            granted = before[1]
        else:
            return Unanswered(Why.REJECTED, f"{request.key()} was another request")
        return Granted(granted)

    def _take_back(self, back: GiveBack) -> Answer:
        before = self._returned.get(back.key())
        if before is None:
            self.stock[back.product_id] += back.units
            self._returned[back.key()] = back
        elif before != back:
            return Unanswered(Why.REJECTED, f"{back.key()} was another return")
        return Granted(back.units)
