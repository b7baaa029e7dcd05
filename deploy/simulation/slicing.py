"""What makes a simulated sale one of products with slices: from the start, or split while it sells."""

from collections.abc import Sequence
from random import Random

import msgspec

from deploy.simulation.clients import Purchase
from deploy.simulation.model import Goods
from deploy.simulation.shop import SLICES_MAX, Errand

_FEW = 6  # buyers who want all of it
_AGAIN_S = 2.0  # within which a buyer sends a checkout once more

Course = tuple[list[Goods], list[Purchase], list[Errand]]


def sliced(goods: Sequence[Goods], purchases: Sequence[Purchase], sale_s: float, random: Random) -> Course:
    """The same sale, but the first product has slices, and so may the third one. Gives what is for sale, who buys, and what
    the shop does besides: it splits, and moves units.
    """
    hot, other, limited, *rest = goods
    hot = msgspec.structs.replace(hot, buyer_limit=random.choice((None, None, 1, 2, 4)))
    buying = [_again(random, one) for one in purchases if not one.other and random.random() < 0.15]
    errands = _moves(random, hot.product_id, sale_s, random.randint(0, 12), 6)
    if random.random() < 0.4:
        [hot], some, more = _scarce(random, hot, purchases, sale_s)
        buying += some
        errands += more
    else:
        buying += purchases
    slices = random.randint(2, SLICES_MAX)
    if random.random() < 0.6:
        times = random.randint(1, 2)
        errands += [_split(random.uniform(0.0, sale_s), hot.product_id, slices - n) for n in range(times)]
    else:
        hot = msgspec.structs.replace(hot, slices=slices)
    if random.random() < 0.4:
        limited = msgspec.structs.replace(limited, slices=random.randint(2, SLICES_MAX))
        errands += _moves(random, limited.product_id, sale_s, 4, 3)
    return [hot, other, limited, *rest], buying, errands


def _again(random: Random, purchase: Purchase) -> Purchase:
    """A client that never saw its answer: the same checkout later, when the product may have been split."""
    return msgspec.structs.replace(
        purchase, at_s=purchase.at_s + random.uniform(0.0, _AGAIN_S), copies=1, gives_up=False
    )


def _scarce(random: Random, hot: Goods, purchases: Sequence[Purchase], sale_s: float) -> Course:
    """Few buyers who come up to their limit, and units one by one: slices run out, and have some again."""
    limited = msgspec.structs.replace(hot, units=random.randint(2, 12), buyer_limit=random.randint(2, 6))
    buying = [
        msgspec.structs.replace(one, buyer_id=f"buyer-{random.randrange(_FEW)}")
        if one.items[0][0] == hot.product_id
        else one
        for one in purchases
    ]
    errands = _moves(random, hot.product_id, sale_s, 20, 1)
    errands += [
        Errand(random.uniform(0.0, sale_s), "restock", 0.0, hot.product_id, random.randint(1, 4), copies=1)
        for _ in range(20)
    ]
    return [limited], buying, errands


def _split(at_s: float, product_id: str, slices: int) -> Errand:
    return Errand(at_s, "split", 0.0, product_id, slices, copies=1)


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
