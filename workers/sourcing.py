"""The second stock source in a writer's batch: asked once per product, between loading and deciding."""

from collections.abc import Mapping, Sequence

import msgspec

from stock_ledger.batch import Decided, Loaded, Received
from stock_ledger.ledger import Advance, Ledger
from stock_ledger.upstream.source import (
    Allowance,
    Reserve,
    StockSource,
    WhenDown,
    granted_or_policy,
    half_asked,
    outstanding,
    requests_of,
    rows_of,
)


class Sourced(msgspec.Struct, frozen=True):
    """What was asked for a batch, and what it may sell."""

    requests: list[Reserve]
    allowance: Allowance
    before: Mapping[str, int]  # units available here, of products with a source

    def of(self, decided: Decided) -> Decided:
        """With what is to be made good with the source once the batch is persisted."""
        sold = {i: n - decided.stock[i].available for i, n in self.before.items() if i in decided.stock}
        left = outstanding(self.requests, self.allowance, sold)
        return msgspec.structs.replace(decided, left_open=rows_of(left))


class Sourcing:
    """Asks the source. What a batch asks for is remembered under the fence before: whoever decides it again after a
    crash asks for the same units with the same key.
    """

    def __init__(self, source: StockSource, ledger: Ledger) -> None:
        self._source = source
        self._ledger = ledger

    async def ask(
        self, received: Sequence[Received], advances: Sequence[Advance], loaded: Loaded
    ) -> Sourced | None:
        """Put into `loaded` what may be sold of products that have a source; None if none has.

        Raises FenceLost, Unavailable as the ledger does.
        """
        when_down = {i: WhenDown(p.stock_source) for i, p in loaded.products.items() if p.stock_source}
        if not when_down:
            return None
        wanted = requests_of(received, loaded, when_down)
        intended = await self._ledger.intend(advances, wanted)
        requests = intended.requests
        answers = await self._source.reserve(requests) if requests else {}
        # A product of an earlier try may have no source any more, or not be in the batch: nothing is sold of its grant.
        policies = {r.product_id: when_down.get(r.product_id, WhenDown.REFUSE) for r in requests}
        allowance = granted_or_policy(requests, answers, policies, intended.again)
        loaded.granted = {i: n for i, n in allowance.units.items() if i not in allowance.down}
        loaded.down = allowance.down
        loaded.half_asked = half_asked(wanted, requests, allowance)
        before = {i: loaded.stock[i].available for i in when_down if i in loaded.stock}
        return Sourced(requests, allowance, before)
