"""What makes a simulated sale one of products with slices: from the start, or split while it sells."""

from collections.abc import Sequence
from random import Random

import msgspec

from contracts.slices import slice_of_buyer
from deploy.simulation.clients import Purchase
from deploy.simulation.model import Goods
from deploy.simulation.shop import SLICES_MAX, Errand

_BUYERS = 100
_BURSTS, _BURST_S = 40, 0.02
_SPLITTING_S = 0.2  # about as long as it takes
_AGAIN_S = 2.0  # within which a buyer sends a checkout once more

Course = tuple[list[Goods], list[Purchase], list[Errand]]


def sliced(goods: Sequence[Goods], purchases: Sequence[Purchase], sale_s: float, random: Random) -> Course:
    """The same sale, but the first product has slices, and so may the third one. Gives what is for sale, who buys, and what
    the shop does besides: it splits, and moves units.
    """
    hot, other, limited, *rest = goods
    hot = msgspec.structs.replace(hot, buyer_limit=random.choice((None, None, 1, 2, 4)))
    if random.random() < 0.3:
        [hot], purchases, errands = _forwarding(random, hot, purchases, sale_s)
    else:
        slices = random.randint(2, SLICES_MAX)
        errands = _moves(random, hot.product_id, sale_s, random.randint(0, 12), 6)
        if random.random() < 0.7:
            times = random.randint(1, 2)
            for n in range(times):
                errands += _split(random, random.uniform(0.0, sale_s), hot.product_id, slices - n)
        else:
            hot = msgspec.structs.replace(hot, slices=slices)
    again = [_again(random, one) for one in purchases if not one.other and random.random() < 0.15]
    buying = [*purchases, *again]
    if random.random() < 0.4:
        limited = msgspec.structs.replace(limited, slices=random.randint(2, SLICES_MAX))
        errands += _moves(random, limited.product_id, sale_s, 4, 3)
    return [hot, other, limited, *rest], buying, errands


def _again(random: Random, purchase: Purchase) -> Purchase:
    """A client that never saw its answer: the same checkout later, when the product may have been split."""
    return msgspec.structs.replace(
        purchase, at_s=purchase.at_s + random.uniform(0.0, _AGAIN_S), copies=1, gives_up=False
    )


def _forwarding(random: Random, hot: Goods, purchases: Sequence[Purchase], sale_s: float) -> Course:
    """The first slice has nothing but single units, now and then, and the others have the same. Its buyers, who may have one
    or two, send several checkouts at once: more than one slice is forwarded lines of one buyer.
    """
    hot = msgspec.structs.replace(hot, slices=SLICES_MAX, units=60, buyer_limit=random.randint(1, 2))
    own = [b for b in (f"buyer-{n}" for n in range(_BUYERS)) if slice_of_buyer(b, SLICES_MAX) == 0]
    errands = [Errand(0.0, "adjust", 0.0, hot.product_id, -hot.parts()[0].units, copies=1)]
    restocks = [random.uniform(0.0, sale_s) for _ in range(random.randint(0, 10))]
    errands += [Errand(at_s, "restock", 0.0, hot.product_id, 1, copies=1) for at_s in restocks]
    bursts = [(random.uniform(0.05, sale_s), random.choice(own)) for _ in range(_BURSTS)]
    buying = []
    for one in purchases:
        if [product_id for product_id, _ in one.items] == [hot.product_id]:
            at_s, buyer_id = random.choice(bursts)
            at_s += random.uniform(0.0, _BURST_S)
            buying.append(msgspec.structs.replace(one, at_s=at_s, buyer_id=buyer_id))
        else:
            buying.append(one)
    return [hot], buying, errands


def _split(random: Random, at_s: float, product_id: str, slices: int) -> list[Errand]:
    """In half of all cases the product is taken off the shelf and put back while it is being split."""
    errands = [Errand(at_s, "split", 0.0, product_id, slices, copies=1)]
    if random.random() < 0.5:
        off_s = at_s + random.uniform(0.0, _SPLITTING_S)
        on_s = off_s + random.uniform(0.0, _SPLITTING_S)
        errands += [
            Errand(at, "shelve", 0.0, product_id, units, copies=1) for at, units in ((off_s, -1), (on_s, 1))
        ]
    return errands


def _moves(random: Random, product_id: str, sale_s: float, count: int, units_max: int) -> list[Errand]:
    return [
        Errand(
            random.uniform(0.0, 2 * sale_s),
            "move",
            random.random(),
            product_id,
            random.randint(1, units_max),
            1,
        )
        for _ in range(count)
    ]
