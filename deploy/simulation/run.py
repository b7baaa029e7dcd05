"""One seed, one run: a sale, its faults, the healing, and the verdict."""

import asyncio
import gc
import logging
import zlib
from collections.abc import Callable
from random import Random

import msgspec

from contracts.topics import partition_of
from deploy.simulation.clients import Purchase, purchase
from deploy.simulation.faults import FAULTS, Fault
from deploy.simulation.loop import Stuck
from deploy.simulation.model import Goods, Violation
from deploy.simulation.shop import Errand, Shop, errand
from deploy.simulation.slicing import sliced
from deploy.simulation.world import SETTINGS, World

CHECKOUTS = 200
ERRANDS = 60  # what a shop, its buyers and their banks do with orders and stock
_SALE_S = 1.5  # the time over which buyers come in waves, and things begin to go wrong
_WAVES_MIN, _WAVES_MAX, _WAVE_S = 3, 8, 0.02
_ALONE = 0.15  # share of the buyers who come by themselves, some when the sale is over
_HEALED_WITHIN_S = 30.0  # after the last fault: every buyer has an answer
_DRAINED_WITHIN_S = 5.0  # and after that: everything is told and committed, the view complete
_LOOK_S = 0.05

_SLICED_EVERY = 3  # of so many seeds one is of a product with slices
FAULTS_MIN, FAULTS_MAX = 5, 9
# Of how many kinds they are. Some kinds hide what others would show, so each run leaves most of them out:
# Groce, Zhang, Eide, Chen, Regehr: Swarm testing, ISSTA 2012.
KINDS_MIN, KINDS_MAX = 3, 8


class Outcome(msgspec.Struct, frozen=True):
    """Of a run: what was violated, nothing if all is well; sums that any difference between two runs would change.

    `crashed`: by an error that nobody judged, and not by what the auditor found.
    """

    seed: int
    violation: str
    crashed: bool
    checkouts: int
    faults: list[str]
    decisions: int
    checked: int
    seconds: float  # virtual
    digest: int


class Sale(msgspec.Struct, frozen=True):
    """What happens in a run, but for the order in which the nodes get to run."""

    goods: list[Goods]
    purchases: list[Purchase]
    errands: list[Errand]
    faults: list[tuple[float, Fault]]


def simulate(seed: int, trace: Callable[[str], None] | None = None) -> Outcome:
    """Run a seed. The same seed is the same run, on any machine.

    Garbage is collected after it: an error that nobody has heard of would show whenever that happens. A run makes cycles,
    but not enough of them to look for all the time.
    """
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        return _simulate(seed, trace)
    finally:
        gc.collect()
        if is_enabled:
            gc.enable()


def _simulate(seed: int, trace: Callable[[str], None] | None) -> Outcome:
    random = Random(seed)  # noqa: S311 - for repeatable runs
    sale = plan(random)
    if seed % _SLICED_EVERY == 0:
        more = Random(f"slices {seed}")  # noqa: S311
        goods, buying, errands = sliced(sale.goods, sale.purchases, _SALE_S, more)
        sale = msgspec.structs.replace(sale, goods=goods, purchases=buying, errands=[*sale.errands, *errands])
    world = World(random, sale.goods)
    digest = 0

    def traced(text: str) -> None:
        nonlocal digest
        line = f"{world.loop.time():9.4f} {text}"
        digest = zlib.crc32(line.encode(), digest)
        if trace is not None:
            trace(line)

    world.trace = traced
    if trace is not None:
        world.tell = lambda text: trace(f"{world.loop.time():9.4f}     {text}")
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    violation, crashed = "", False
    try:
        world.loop.run(_run(world, sale))
    except (Violation, Stuck) as found:
        violation = str(found)
    except Exception as error:
        violation, crashed = f"{type(error).__name__}: {error}", True
        if trace is not None:
            logging.disable(before)
            logging.getLogger(__name__).exception("the run ended")
    finally:
        logging.disable(before)
        world.end()
    traced(f"end: {sorted(world.truth.stock.items())} {world.loop.steps}")
    return Outcome(
        seed,
        violation,
        crashed,
        len(sale.purchases),
        [fault.__name__ for _, fault in sale.faults],
        len(world.truth.decided),
        world.auditor.checked,
        round(world.loop.time(), 3),
        digest,
    )


def plan(random: Random) -> Sale:
    """A sale of one hot product and some others, and what is to go wrong in it."""
    goods = [
        Goods(_product(0, 0), random.randint(20, 120)),
        Goods(_product(0, 1), random.randint(0, 20)),
        Goods(_product(1, 0), random.randint(5, 40), buyer_limit=random.randint(1, 3)),
        Goods(_product(1, 1), 10, on_shelf=False),
        Goods(_product(2, 0), random.randint(10, 200)),
    ]
    known = [good.product_id for good in goods]
    waves = [random.uniform(0.0, _SALE_S) for _ in range(random.randint(_WAVES_MIN, _WAVES_MAX))]
    purchases = [_purchase(random, number, known, waves) for number in range(CHECKOUTS)]
    kinds = random.sample(FAULTS, random.randint(KINDS_MIN, KINDS_MAX))
    count = random.randint(FAULTS_MIN, FAULTS_MAX)
    faults = sorted(
        ((random.uniform(0.05, _SALE_S), random.choice(kinds)) for _ in range(count)), key=lambda f: f[0]
    )
    errands = [errand(random, _SALE_S, known) for _ in range(ERRANDS)]
    return Sale(goods, purchases, errands, faults)


def _purchase(random: Random, number: int, known: list[str], waves: list[float]) -> Purchase:
    draw = random.random()
    items: tuple[tuple[str, int], ...]
    if draw < 0.6:
        items = ((known[0], 1 + (random.random() < 0.1)),)
    elif draw < 0.85:
        items = ((random.choice([*known, "nobody-sells-this"]), random.randint(1, 3)),)
    else:
        items = tuple((p, random.randint(1, 2)) for p in sorted(random.sample(known, random.randint(2, 4))))
    other: tuple[tuple[str, int], ...] = ()
    if random.random() < 0.03:
        other = ((items[0][0], items[0][1] + 1), *items[1:])
    if random.random() < _ALONE:
        at_s = random.uniform(0.0, 2 * _SALE_S)
    else:
        at_s = random.choice(waves) + random.uniform(0.0, _WAVE_S)
    return Purchase(
        policy="all_or_nothing" if len(items) > 1 and random.random() < 0.5 else "independent",
        at_s=at_s,
        buyer_id=f"buyer-{random.randrange(CHECKOUTS // 2)}",
        key=f"key-{number}",
        items=items,
        copies=random.choices((1, 2, 3), (90, 8, 2))[0],
        other=other,
        asks_again=random.random() < 0.25,
        gives_up=len(items) > 1 and random.random() < 0.3,
    )


async def _run(world: World, sale: Sale) -> None:
    world.open(workers=world.random.randint(1, 3), ingests=2, apis=2)
    shop = Shop(world, sale.errands)
    shop.open()
    going_wrong = [world.loop.create_task(_fault(world, at_s, fault)) for at_s, fault in sale.faults]
    buying = [world.loop.create_task(purchase(world, one)) for one in sale.purchases]
    await asyncio.gather(*going_wrong)
    world.heal()
    world.trace("healed")
    await _until(world, lambda: all(task.done() for task in buying), _HEALED_WITHIN_S)
    for task in buying:
        if task.done():
            task.result()
    await _until(world, shop.is_done, _HEALED_WITHIN_S)
    for partition in range(world.settings.partitions):  # whatever comes next must find its writer
        world.write(partition, None, None, is_poison=True)
    waiting = [plan.key for plan, task in zip(sale.purchases, buying, strict=True) if not task.done()]
    await _until(world, world.auditor.is_drained, _DRAINED_WITHIN_S)
    if waiting or not world.auditor.is_drained():
        raise Violation(f"{len(waiting)} buyers wait for ever {waiting[:5]}; {world.auditor.undrained()}")
    if not shop.is_done():
        raise Violation(f"the shop waits for ever: {shop.waits_for()}")
    world.auditor.finish()
    world.auditor.of_commands.finish({good.product_id: good.units for good in sale.goods})


async def _until(world: World, holds: Callable[[], bool], within_s: float) -> None:
    """Return when it holds, or the time is over."""
    end_s = world.loop.time() + within_s
    while not holds() and world.loop.time() < end_s:
        await world.loop.after(_LOOK_S)


async def _fault(world: World, at_s: float, fault: Fault) -> None:
    await asyncio.sleep(at_s)
    world.trace(fault.__name__)
    await fault(world)
    world.trace(f"{fault.__name__} over")


def _product(partition: int, number: int) -> str:
    """The id of a product of this partition."""
    fitting = (f"sku-{i}" for i in range(1000) if partition_of(f"sku-{i}", SETTINGS.partitions) == partition)
    return [next(fitting) for _ in range(number + 1)][-1]
