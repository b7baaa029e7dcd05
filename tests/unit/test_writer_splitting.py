"""Writers of a product that is split while it sells: every line is decided once, and no unit is lost."""

from collections import Counter
from collections.abc import Callable

import msgspec
import pytest

from contracts.commands import OpenSlices, PatchProduct
from contracts.messages import CheckoutLine
from contracts.outcomes import FIRST, Kind
from contracts.slices import product_of, slice_of, slice_of_buyer, stock_ids
from contracts.topics import partition_of
from tests.desk import asked
from tests.harness import eventually, line_of, running
from tests.unit.test_writer_commands import Commands
from tests.unit.test_writer_slices import buyer, send
from tests.unit.writer_world import PARTITIONS, A, World, crashes_sending

SLICES = 3
NAMES = stock_ids(A, SLICES)
PLACES = {partition_of(name, PARTITIONS): slice_of(name) for name in NAMES}
UNITS = 90


class Sale:
    """A with 90 units. Whenever a command comes into its log, some of all slices' buyers have ordered a unit before."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.commands = Commands(world)
        self.lines: list[CheckoutLine] = []
        world.put(A, 0, available=UNITS)
        appending = world.broker.commands.append

        def append(partition: int, key: bytes | None, value: bytes | None) -> int:
            self.order(2)
            return appending(partition, key, value)

        monkeypatch.setattr(world.broker.commands, "append", append)

    def order(self, each: int) -> list[CheckoutLine]:
        """Lines of so many buyers of each slice, sent to the first one."""
        begin = len(self.lines)
        lines = [
            line_of(n, A, buyer_id=buyer(n % SLICES, SLICES, n)) for n in range(begin, begin + each * SLICES)
        ]
        self.lines += lines
        send(self.world, *lines)
        return lines

    def split(self) -> None:
        self.commands.ask(asked(PatchProduct, product_id=A, slices=SLICES))

    def is_open(self) -> bool:
        product = self.world.ledger.catalogue[A]
        return product.slices == SLICES and product.slices_open

    def where(self, line: CheckoutLine) -> int:
        """The slice that sold it, once."""
        ((place, _),) = (
            position
            for position, decision in self.world.ledger.decided.items()
            if decision.checkout_id == line.checkout_id and decision.kind in FIRST
        )
        return PLACES[place]

    def check(self) -> None:
        ledger = self.world.ledger
        assert self.is_open()
        assert ledger.catalogue.keys() >= set(NAMES)
        assert {ledger.catalogue[name].version for name in NAMES} == {3}
        kinds = Counter(d.kind for d in ledger.decided.values() if d.kind in FIRST)
        assert kinds == {Kind.CREATED: len(self.lines)}
        assert len({self.where(line) for line in self.lines}) > 1
        assert sum(ledger.stock[name].available for name in NAMES) == UNITS - len(self.lines)
        entries = [e for e in self.world.commands.entries if product_of(e.product_id) == A]
        assert sum(e.delta for e in entries if e.kind == "move") == 0
        opening = [
            c for c in self.commands.asked_of(partition_of(A, PARTITIONS)) if isinstance(c, OpenSlices)
        ]
        assert len(opening) == 1


@pytest.fixture
def sale(world: World, monkeypatch: pytest.MonkeyPatch) -> Sale:
    return Sale(world, monkeypatch)


async def test_a_product_is_split_while_it_sells(world: World, sale: Sale) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        sale.split()
        await eventually(sale.is_open)
        sale.order(3)  # some may find their slice without its part of the units yet, and are forwarded
        await sale.commands.all_done()
        after = sale.order(3)
        await sale.commands.all_done()
        sale.check()
        assert [sale.where(line) for line in after] == [
            slice_of_buyer(line.buyer_id, SLICES) for line in after
        ]
        assert (await world.view.gates([0]))[0].slices == {A: SLICES}
        copies = [
            msgspec.structs.replace(line, slice=slice_of_buyer(line.buyer_id, SLICES)) for line in sale.lines
        ]
        send(world, *copies)
        await sale.commands.all_done()
    sale.check()


async def test_until_slices_are_open_the_edge_is_told_of_none(world: World, sale: Sale) -> None:
    """The writer of the second slice is away: the first one sells alone, as long as it takes."""
    first, first_log = world.writer("first")
    away, away_log = world.writer("away")
    second = next(place for place, number in PLACES.items() if number == 1)
    async with running(first):
        await eventually(lambda: first_log in world.broker.members)
        await world.broker.assign({first_log: set(range(PARTITIONS)) - {second}})
        sale.split()
        await eventually(lambda: world.broker.commands.end(second) == 1)
        sale.order(4)
        await eventually(lambda: len(world.ledger.orders) == len(sale.lines))
        assert set(world.kinds()) == {Kind.CREATED}
        assert (await world.view.gates([0]))[0].slices == {}
        assert world.ledger.stock[A].available == UNITS - len(sale.lines)
        async with running(away):
            await eventually(lambda: away_log in world.broker.members)
            await world.broker.assign({first_log: set(range(PARTITIONS)) - {second}, away_log: {second}})
            await eventually(sale.is_open)
            sale.order(2)
            await sale.commands.all_done()
            assert (await world.view.gates([0]))[0].slices == {A: SLICES}
    sale.check()


def is_there(sale: Sale) -> bool:
    return NAMES[-1] in sale.world.ledger.catalogue


@pytest.mark.parametrize("once", [is_there, Sale.is_open])
@pytest.mark.parametrize("after", [False, True])
async def test_slices_open_though_a_writer_crashes(
    world: World, sale: Sale, monkeypatch: pytest.MonkeyPatch, once: Callable[[Sale], bool], *, after: bool
) -> None:
    """When it tells that the last one is there, and when it shares out the units."""
    await crashes_sending(world, monkeypatch, sale.split, after=after, once=lambda: once(sale))
    second, second_log = world.writer("second")
    async with running(second):
        await world.share_out(second_log)
        await eventually(sale.is_open)
        sale.order(2)
        await sale.commands.all_done()
    sale.check()
