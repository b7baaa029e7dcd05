"""A simulated shop, its buyers' second thoughts and their banks: what becomes of orders and stock, as commands."""

from collections.abc import Awaitable, Iterator
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from contracts.commands import (
    Adjust,
    Cancel,
    Close,
    Command,
    Complete,
    Move,
    PatchProduct,
    Pay,
    Pick,
    Restock,
    Ship,
    encode_command,
)
from contracts.messages import Money
from contracts.outcomes import OrderStatus
from deploy.simulation.node import current_node
from deploy.simulation.world import World
from stock_ledger.commands.book import Gathering, OrderState
from workers.timers import Timers

_AGAIN_S = 0.1
_TIMER_S = 0.3
_ORDER_KINDS = ("pay", "fail", "mistake", "cancel", "foreign", "close", "pick", "ship", "complete", "refund")
_STEPS: dict[str, type[Close | Pick | Ship | Complete]] = {
    "close": Close,
    "pick": Pick,
    "ship": Ship,
    "complete": Complete,
}
_STOCK_KINDS, _SLICE_KINDS = ("restock", "adjust", "shelve"), ("split", "move")
SLICES_MAX = 3  # of a product, as many as there are partitions


class Errand(msgspec.Struct, frozen=True):
    """One thing to do at this time, to the order that a draw picks, or to a product; `copies` of it are sent."""

    at_s: float
    kind: str
    draw: float
    product_id: str
    units: int
    copies: int


def errand(random: Random, sale_s: float, known: list[str]) -> Errand:
    """Most are payments. Half of them come while the sale is on, some only after orders have expired."""
    weights = (50, 6, 4, 8, 2, 4, 8, 6, 4, 3, 6, 4, 2)
    kind = random.choices((*_ORDER_KINDS, *_STOCK_KINDS), weights)[0]
    return Errand(
        at_s=0.1 + 3 * sale_s * random.random() ** 1.6,
        kind=kind,
        draw=random.random(),
        product_id=random.choice([*known, "nobody-sells-this"]),
        units=random.randint(1, 8) if kind == "restock" else random.choice((-30, -5, -1, 2)),
        copies=random.choices((1, 2), (90, 10))[0],
    )


class Shop:
    """Everything that sends commands."""

    def __init__(self, world: World, errands: list[Errand]) -> None:
        self._world = world
        self._errands = errands
        self._ids = Random(len(errands))  # noqa: S311 - for repeatable runs
        self._open = len(errands)

    def open(self) -> None:
        """Let errands and timers run."""
        for one in self._errands:
            self._world.loop.create_task(self._run(one))
        streams = self._world.node("streams")
        streams.start(self._time())

    def is_done(self) -> bool:
        """Every errand is run, and every order has come to where it may stay."""
        is_drained = self._open == 0 and self._world.auditor.of_commands.is_drained()
        return is_drained and not any(self._unpaid()) and not any(self._undecided())

    def waits_for(self) -> str:
        return f"{len(list(self._unpaid()))} orders, {len(list(self._undecided()))} checkouts, {self._open} errands"

    def _unpaid(self) -> Iterator[OrderState]:
        orders = self._world.truth.orders.values()
        return (order for order in orders if order.status is OrderStatus.PENDING_PAYMENT)

    def _undecided(self) -> Iterator[Gathering]:
        gatherings = self._world.commanded.gatherings.values()
        return (gathering for gathering in gatherings if gathering.decided_at is None)

    async def _run(self, one: Errand) -> None:
        await self._world.loop.after(one.at_s)
        command = self._command(one)
        if command is not None:
            for _ in range(one.copies):
                await self._send(command)
        self._open -= 1

    def _command(self, one: Errand) -> Command | None:
        base: dict[str, Any] = {
            "command_id": str(UUID(int=self._ids.getrandbits(128))),
            "actor": "shop",
            "asked_at_ms": self._world.now_ms(),
        }
        if one.kind in (*_STOCK_KINDS, *_SLICE_KINDS):
            return _about_stock(one, base)
        orders = list(self._world.truth.orders.values())
        if not orders:
            return None
        newest = int(one.draw**3 * len(orders))  # mostly one of the last: buyers pay at once
        return _about(one, orders[-1 - newest], base)

    async def _send(self, command: Command) -> None:
        """Until it is in the log. What is not known is sent again."""
        world = self._world
        place = command.partition(world.settings.partitions)
        while True:
            await world.kafka.delay()
            if world.kafka.up:
                world.append_command(place, command.subject().encode(), encode_command(command))
                if world.random.random() >= world.kafka.losing:
                    return
            await world.loop.after(_AGAIN_S)

    async def _time(self) -> None:
        """The timers of a streams process."""
        world = self._world
        timers = Timers(world.due, world.settings, world.now)

        async def send(key: bytes, value: bytes, partition: int) -> Awaitable[Any]:
            while not world.kafka.up:
                await current_node().loop.after(_AGAIN_S)
            world.append_command(partition, key, value)
            ack = world.loop.create_future()
            ack.set_result(None)
            return ack

        while True:
            await current_node().loop.after(_TIMER_S)
            await timers.ask(send)


def _about_stock(one: Errand, base: dict[str, Any]) -> Command:
    base["product_id"] = one.product_id
    match one.kind:
        case "restock":
            return Restock(**base, units=one.units)
        case "adjust":
            return Adjust(**base, units=one.units, why="counted")
        case "split":
            return PatchProduct(**base, slices=one.units)
        case "move":
            taker, giver = divmod(int(one.draw * SLICES_MAX**2), SLICES_MAX)
            return Move(**base, slice=giver, to=taker, units=one.units)
    return PatchProduct(**base, on_shelf=one.units > 0)


def _about(one: Errand, order: OrderState, base: dict[str, Any]) -> Command:
    """The command of an errand about an order, as who sends it knows the order now."""
    base["order_id"] = order.order_id
    if one.kind in _STEPS:
        return _STEPS[one.kind](**base)
    if one.kind in ("cancel", "foreign"):
        return Cancel(**base, buyer_id=order.buyer_id if one.kind == "cancel" else "somebody-else")
    total = str(order.total)
    # A payment is told under a reference of its own now and then: the buyer paid twice.
    reference = order.reference if order.reference and one.draw < 0.5 else f"paid-{one.at_s}"
    return Pay(
        **base,
        provider="sandbox",
        event_id=f"event-{one.at_s}",
        reference=reference,
        outcome="failed" if one.kind == "fail" else "refunded" if one.kind == "refund" else "paid",
        amount=Money("0.01" if one.kind == "mistake" else total, order.currency),
        occurred_at_ms=base["asked_at_ms"],
    )
