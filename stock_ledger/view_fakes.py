"""The view in memory, for tests and trials: same rules as the real one, no clock, no random."""

import re
from collections.abc import Mapping, Sequence

import msgspec

from contracts.errors import Unavailable
from contracts.keys import Keys, slices_member
from stock_ledger.ledger import Entry
from stock_ledger.redis_view import encode_product, read_entry, read_gate, read_progress
from stock_ledger.view import CheckoutsView, Gate, PartitionView, Progress, Shown

_VERSION = re.compile(rb"(\d+):(\d+)")


class Snapshot(msgspec.Struct):
    """All that a view holds."""

    values: dict[str, bytes]
    gates: dict[str, set[bytes]]
    results: dict[str, dict[str, bytes]]

    def copy(self) -> "Snapshot":
        return Snapshot(
            dict(self.values),
            {key: set(members) for key, members in self.gates.items()},
            {key: dict(documents) for key, documents in self.results.items()},
        )


class MemoryView:
    """See `stock_ledger.view.View`. Keeps what Redis would, under the same keys; nothing expires.

    Switches: `available` False makes every call raise Unavailable. The next `lose_replies` calls of show take effect
    and raise it just the same.
    """

    def __init__(self, keys: Keys | None = None) -> None:
        self.keys = keys or Keys("sw:")
        self.data = Snapshot({}, {}, {})
        self.available = True
        self.lose_replies = 0

    def flush(self) -> None:
        """Forget everything, as FLUSHALL or a restart does."""
        self.data = Snapshot({}, {}, {})

    def snapshot(self) -> Snapshot:
        """A copy of everything, to set the view back to."""
        return self.data.copy()

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to what was, as a failover to a lagging replica does."""
        self.data = snapshot.copy()

    async def load(self, wanted: Mapping[int, Sequence[str]]) -> dict[int, PartitionView]:
        self._answer()
        found: dict[int, PartitionView] = {}
        for p, product_ids in wanted.items():
            progress = self._progress(p)
            entries: dict[str, Entry] = {}
            for i in product_ids:
                stock = self.data.values.get(self.keys.stock(p, i))
                entry = read_entry(progress, stock, self.data.values.get(self.keys.product(p, i)))
                if entry is not None:
                    entries[i] = entry
            found[p] = PartitionView(progress, entries)
        return found

    async def show(self, shown: Sequence[Shown], results: Sequence[tuple[str, str, bytes]]) -> None:
        self._answer()
        for checkout_id, field, document in results:
            self.data.results.setdefault(checkout_id, {})[field] = document
        for part in shown:
            self._show(part)
        if self.lose_replies:
            self.lose_replies -= 1
            raise Unavailable("the reply was lost")

    async def progress(self, partitions: Sequence[int]) -> dict[int, Progress]:
        self._answer()
        return {p: progress for p in partitions if (progress := self._progress(p)) is not None}

    async def checkouts(self, checkout_ids: Sequence[str], partitions: Sequence[int]) -> CheckoutsView:
        results = [dict(self.data.results.get(checkout_id, {})) for checkout_id in checkout_ids]
        return CheckoutsView(results, await self.progress(partitions))

    async def gates(self, partitions: Sequence[int]) -> dict[int, Gate]:
        self._answer()
        return {p: self.gate(p) for p in partitions}

    def gate(self, partition: int) -> Gate:
        """What the edge would be shown of a partition."""
        progress = self.data.values.get(self.keys.progress(partition))
        return read_gate(progress, self.data.gates.get(self.keys.gate(partition), ()))

    async def remember_payloads(self, payloads: Sequence[tuple[str, str]]) -> dict[int, str]:
        self._answer()
        before: dict[int, str] = {}
        for place, (checkout_id, payload_hash) in enumerate(payloads):
            key = self.keys.payload(checkout_id)
            known = self.data.values.get(key)
            if known is not None:
                before[place] = known.decode()
            elif payload_hash:
                self.data.values[key] = payload_hash.encode()
        return before

    async def drop(self) -> None:
        self._answer()
        prefix = self.keys.prefix + "progress:"
        self.data.values = {k: v for k, v in self.data.values.items() if not k.startswith(prefix)}

    def _show(self, part: Shown) -> None:
        p, epoch = part.partition, part.progress.epoch
        key = self.keys.progress(p)
        there = self.data.values.get(key)
        if not self._newer(key, epoch, part.progress.next_offset) or (
            part.after is not None and there != part.after.text().encode()
        ):
            return
        gate = self.data.gates.setdefault(self.keys.gate(p), set())
        if part.whole:
            gate.clear()
        gate |= {slices_member(i, count).encode() for i, count in part.slices().items()}
        for i, stock in part.stock.items():
            if not part.whole and not self._newer(self.keys.stock(p, i), epoch, stock.seq):
                continue
            self.data.values[self.keys.stock(p, i)] = f"{epoch}:{stock.seq}:{stock.available}".encode()
            if i in part.products:
                self.data.values[self.keys.product(p, i)] = encode_product(part.products[i])
            if stock.available <= 0:
                gate.add(i.encode())
            else:
                gate.discard(i.encode())
        self.data.values[key] = part.progress.text().encode()

    def _newer(self, key: str, epoch: int, number: int) -> bool:
        """Whether (epoch, number) is not behind what the value begins with; an unreadable value is behind all."""
        found = _VERSION.match(self.data.values.get(key, b""))
        return found is None or (epoch, number) >= (int(found[1]), int(found[2]))

    def _progress(self, partition: int) -> Progress | None:
        return read_progress(self.data.values.get(self.keys.progress(partition)))

    def _answer(self) -> None:
        if not self.available:
            raise Unavailable("the view in memory is switched off")
