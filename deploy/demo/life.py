"""What becomes of orders: buyers pay, cancel or let them time out; the merchant closes some, and ships some."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import StrEnum

import aiohttp
import msgspec

from api.payments.behaviour import Behaviour, Shares, Timing
from api.payments.providers import CALLBACKS_PATH
from api.payments.sandbox import NAME
from contracts.asks import CommandStatus, ProductStock
from contracts.requests import OrderView
from deploy.demo.client import Client
from deploy.demo.orders import Bought
from deploy.demo.payer import SandboxPayer
from deploy.tasks import give_up

MERCHANT_ID = "the-shop"

_CONNECTIONS = 64
_LOOKING = 32
_LOOK_S = 0.5
_PATIENCE_S = 90.0  # for every order to be as it stays
_WITHOUT_MONEY = frozenset({Behaviour.DECLINES, Behaviour.PAYS_WRONG_AMOUNT, Behaviour.NEVER_PAYS})


def payment_ttl_s(checkouts: int) -> int:
    """How long buyers of a sale of this size have to pay, in seconds: short, since the demo waits for those who don't."""
    return min(3 + checkouts // 10_000, 7)


def timing(ttl_s: int) -> Timing:
    """When they pay: soon, or when the next ones have come for what they did not pay in time."""
    return Timing(pays_after_s_min=0.1, pays_after_s_max=0.3 * ttl_s, late_after_s=0.4 * ttl_s)


class Fate(StrEnum):
    """What an order is picked for; of the others the sandbox's shares decide whether and how they are paid."""

    LEFT_TO_BUYER = "left to its buyer"
    CANCELLED = "cancelled unpaid"
    CANCELLED_PAID = "cancelled when paid"
    CLOSED = "closed by the merchant when paid"
    FULFILLED = "picked, shipped and completed"


FATES = {Fate.CANCELLED: 0.05, Fate.CANCELLED_PAID: 0.02, Fate.CLOSED: 0.01, Fate.FULFILLED: 0.02}


class Told(msgspec.Struct):
    """What clients were told of what became of orders.

    `paid` are orders that a payment of the right amount was acknowledged for; `commands` counts by action and final
    status; `turned_away` those that were refused at once, by action. `orders` are as they were last seen.
    """

    fates: Counter[str] = msgspec.field(default_factory=Counter)
    paid: set[str] = msgspec.field(default_factory=set)
    commands: dict[str, CommandStatus] = msgspec.field(default_factory=dict)
    turned_away: Counter[str] = msgspec.field(default_factory=Counter)
    callbacks: Counter[int] = msgspec.field(default_factory=Counter)  # by status of the answer
    orders: dict[str, OrderView] = msgspec.field(default_factory=dict)
    stock: ProductStock | None = None
    wrong: list[str] = msgspec.field(default_factory=list)


def fate_of(order_id: str, seed: int) -> Fate:
    """Always the same for the same order and seed."""
    draw = random.Random(f"fate {seed} {order_id}").random()  # noqa: S311 - a script, not a secret
    for fate, share in FATES.items():
        draw -= share
        if draw < 0:
            return fate
    return Fate.LEFT_TO_BUYER


class Life:
    """Lives the life of every order that it is given. Payments are signed with `secret`, and made as `shares` say;
    `tokens` gives bearer tokens, the merchant's too.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        api_url: str,
        secret: str,
        shares: Shares,
        ttl_s: int,
        tokens: Callable[[str], str],
        seed: int,
    ) -> None:
        self._seed = seed
        self._client = Client(http, api_url, tokens)
        self._living: set[asyncio.Task[None]] = set()
        self.told = Told()
        url = f"{api_url}{CALLBACKS_PATH}{NAME}"

        def payer(shares: Shares) -> SandboxPayer:
            return SandboxPayer(
                http, url, secret, shares, seed, lambda: datetime.now(UTC), timing=timing(ttl_s)
            )

        self._payer, self._sure_payer = payer(shares), payer(Shares())

    def begin(self, order: Bought) -> None:
        """Let the order live, beside all others."""
        task = asyncio.create_task(self._live(order))
        self._living.add(task)
        task.add_done_callback(self._living.discard)

    async def all_acted(self) -> None:
        """Wait until buyers and merchant have done all that they do."""
        while self._living:
            await asyncio.wait(self._living)
        for payer in (self._payer, self._sure_payer):
            self.told.callbacks += payer.tally.answers
            self.told.wrong += [f"never acknowledged: {event}" for event in payer.tally.lost]

    async def give_up(self) -> None:
        """End whatever is under way."""
        await give_up(self._living)

    async def returned(self, product_id: str) -> None:
        """Wait until a unit of the product can be bought, or none is left that could come back."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            stock = await self._client.stock(MERCHANT_ID, product_id)
            if stock.available or not (stock.pending_payment or stock.held):
                return
            await asyncio.sleep(_LOOK_S)
        self.told.wrong.append(
            f"after {_PATIENCE_S:.0f} s units of {product_id} still wait for their payment"
        )

    async def look(self, orders: Iterable[Bought], product_id: str) -> Told:
        """Have every buyer look at all orders until they are as they stay, then the merchant at the product's stock."""
        buyers = iter({order.buyer_id for order in orders})
        deadline = time.monotonic() + _PATIENCE_S

        async def looking() -> None:
            for buyer_id in buyers:
                await self._look(buyer_id, deadline)

        async with asyncio.TaskGroup() as group:
            for _ in range(_LOOKING):
                group.create_task(looking())
        self.told.stock = await self._client.stock(MERCHANT_ID, product_id)
        return self.told

    async def _look(self, buyer_id: str, deadline: float) -> None:
        while True:
            found = await self._client.orders(buyer_id)
            unsettled = [order for order in found if not self._is_settled(order)]
            if not unsettled or time.monotonic() > deadline:
                break
            await asyncio.sleep(_LOOK_S)
        self.told.orders |= {order.order_id: order for order in found}
        self.told.wrong += [f"order {order.number} was {order.status} to the end" for order in unsettled]

    def _is_settled(self, order: OrderView) -> bool:
        """Whether it is decided and, if it was paid, the payment is: taken, or given back."""
        if order.status == "pending_payment" or order.payment.status == "refund_due":
            return False
        return order.order_id not in self.told.paid or order.payment.reference is not None

    async def _live(self, order: Bought) -> None:
        fate = fate_of(order.order_id, self._seed)
        try:
            await self._meet(fate, order)
        except (AssertionError, TimeoutError) as error:
            self.told.wrong.append(f"order {order.number}, {fate}: {error}")

    async def _meet(self, fate: Fate, order: Bought) -> None:
        if fate is Fate.LEFT_TO_BUYER:
            behaviour = await self._payer.pay(order.charge())
            self.told.fates[behaviour.value] += 1
            if behaviour not in _WITHOUT_MONEY:
                self.told.paid.add(order.order_id)
            return
        self.told.fates[fate.value] += 1
        if fate is not Fate.CANCELLED:
            await self._sure_payer.pay(order.charge())
            self.told.paid.add(order.order_id)
            await self._until_paid(order)
        match fate:
            case Fate.CANCELLED | Fate.CANCELLED_PAID:
                await self._ask(order.buyer_id, order, "cancel")
            case Fate.CLOSED:
                await self._ask(MERCHANT_ID, order, "close", why="damaged on the shelf")
            case Fate.FULFILLED:
                for step in ("pick", "ship", "complete"):
                    await self._ask(MERCHANT_ID, order, step)

    async def _until_paid(self, order: Bought) -> None:
        """Until its payment is decided."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            if self._is_settled(await self._client.order(order.buyer_id, order.order_id)):
                return
            await asyncio.sleep(_LOOK_S)
        raise TimeoutError(f"paid, but not told so within {_PATIENCE_S:.0f} s")

    async def _ask(self, who: str, order: Bought, action: str, **body: str) -> None:
        path = f"/v1/orders/{order.order_id}/{action}"
        told = await self._client.ask(who, path, f"{action}-{order.number}", body)
        if told is None:
            self.told.turned_away[action] += 1
        else:
            self.told.commands[told.command_id] = told


def session() -> aiohttp.ClientSession:
    """Connections for all that happens to orders."""
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=60)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=15))
