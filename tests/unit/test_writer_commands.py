"""The writer in memory: commands, crashes in their lane, and checkouts that are one order or none."""

import asyncio
from itertools import count
from typing import Any

import orjson
import pytest

from contracts.commands import (
    Abandon,
    Command,
    PatchProduct,
    PutProduct,
    Restock,
    decode_command,
    encode_command,
)
from contracts.errors import NotAcknowledged
from contracts.keys import WHOLE
from contracts.messages import CheckoutLine
from contracts.outcomes import Kind, OrderStatus, Outcome, Reason
from contracts.topics import Stream, partition_of
from stock_ledger.batch import Stock
from stock_ledger.commands.book import Counts, OrderState
from stock_ledger.ledger import Claim
from tests.desk import asked, notice_of, step_of
from tests.harness import eventually, failing, line_of, product_in, results_of, running, uuid_of
from tests.unit.writer_world import PARTITIONS, A, B, Crash, World, dies, distinct

WHOLE_CHECKOUT = next(n for n in range(100, 900) if partition_of(uuid_of(n), PARTITIONS) == 2)
PLACES = ["before the commit", "after the commit", "before publishing", "after publishing", "before the end"]


class Commands:
    """The commands' side of a writer's world."""

    def __init__(self, world: World) -> None:
        self.world = world

    def ask(self, *commands: Command) -> None:
        for command in commands:
            self.topic.append(
                command.partition(PARTITIONS), command.subject().encode(), encode_command(command)
            )

    @property
    def topic(self) -> Any:
        return self.world.broker.commands

    async def all_done(self) -> None:
        """Both logs are decided and committed to their ends, what the one asks of the other included."""

        def done() -> bool:
            broker = self.world.broker
            return all(
                broker.of(stream).committed.get(p, 0) == broker.of(stream).end(p)
                for stream in Stream
                for p in range(PARTITIONS)
            )

        await eventually(done)

    def outcomes(self, partition: int = 0) -> list[Outcome]:
        decided = sorted(
            (o, d.outcome) for (p, o), d in self.world.commands.decided.items() if p == partition
        )
        assert [o for o, _ in decided] == list(range(len(decided)))
        return [outcome for _, outcome in decided]

    def asked_of(self, partition: int) -> list[Command]:
        """Each command in the partition's log once, by its id; those with the same id must be the same."""
        found: dict[str, Command] = {}
        for message in self.topic.messages[partition]:
            command = decode_command(message.value, message.key, partition, PARTITIONS)
            assert found.setdefault(command.command_id, command) == command
        return list(found.values())

    async def order(self, *lines: CheckoutLine) -> OrderState:
        """An order that a writer made and told."""
        writer, log = self.world.writer("maker")
        before = set(self.world.ledger.orders)
        async with running(writer):
            await self.world.share_out(log)
            self.world.send(*lines)
            await self.all_done()
        (order_id,) = self.world.ledger.orders.keys() - before
        return self.world.ledger.orders[order_id]


@pytest.fixture
def commands(world: World) -> Commands:
    return Commands(world)


async def test_a_life_of_an_order(world: World, commands: Commands) -> None:
    order = await commands.order(line_of(1, A, 4))
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        commands.ask(notice_of(order))
        await commands.all_done()
        assert world.ledger.orders[order.order_id].status is OrderStatus.PAID
        assert (await world.view.load({0: [A]}))[0].entries[A][1] == Stock(6, 3)
        commands.ask(step_of(order, "cancel"), asked(PatchProduct, product_id=A, sale_price="1.00"))
        await commands.all_done()
        entry = (await world.view.load({0: [A]}))[0].entries[A]
        assert (str(entry[0].sale_price), entry[1]) == ("1.00", Stock(10, 4))
        world.send(line_of(2, A, 10))
        await commands.all_done()
    assert world.kinds() == [Kind.CREATED] * 2
    assert world.event_ids() == [
        b"0-0", b"command-0-0-0", b"command-0-1-0", b"command-0-1-1", b"command-0-2-0", b"0-1"
    ]  # fmt: skip
    assert (await world.view.gates([0]))[0].sold_out == {A}
    assert world.ledger.claims[0] == Claim(2, 2, 3)
    assert commands.topic.committed[0] == 3


async def test_commands_go_before_lines(world: World, commands: Commands) -> None:
    """Both wait when the writer comes: the stock is there for the line, and its sale is stopped before the second."""
    world.send(line_of(1, A, 15))
    world.send(line_of(2, B), partition=1)
    commands.ask(asked(Restock, product_id=A, units=5), asked(PatchProduct, product_id=B, on_shelf=False))
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        await commands.all_done()
    assert world.kinds() == [Kind.CREATED]
    assert world.ledger.stock[A] == Stock(0, 3)
    refused = [d for (p, _), d in world.ledger.decided.items() if p == 1]
    assert [d.reason for d in refused] == [Reason.OFF_SHELF]


@pytest.mark.parametrize("place", PLACES)
async def test_what_a_crash_left_untold_is_told_word_for_word(
    world: World, commands: Commands, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    order = await commands.order(line_of(1, A, 4))
    pay, restock = notice_of(order), asked(Restock, product_id=A, units=1)
    commands.ask(pay, step_of(order, "cancel"), restock, restock)
    first, log = world.writer("first")
    with monkeypatch.context() as patched:
        target, name, after = {
            "before the commit": (world.commands, "persist", False),
            "after the commit": (world.commands, "persist", True),
            "before publishing": (log, "publish", False),
            "after publishing": (log, "publish", True),
            "before the end": (log, "commit", False),
        }[place]
        once = (lambda: world.commands.decided) if target is log else (lambda: True)
        dies(patched, target, name, after=after, once=once)
        async with failing(first) as task:
            await world.share_out(log)
            with pytest.raises(Crash):
                await task
    assert bool(world.commands.decided) is (place != "before the commit")
    assert not commands.topic.committed.get(0)
    decided = dict(world.commands.decided)
    world.clock.tick(60)
    commands.ask(asked(Restock, product_id=A, units=1))
    second, log = world.writer("second")
    async with running(second):
        await world.share_out(log)
        await commands.all_done()
    assert commands.outcomes() == [*[Outcome.APPLIED] * 3, Outcome.REPEATED, Outcome.APPLIED]
    assert world.commands.decided.items() >= decided.items()
    assert world.ledger.stock[A] == Stock(12, 6)
    events = distinct(world.broker.events[0])
    assert [dict(headers)["ce_id"] for _, _, headers in events] == [
        b"0-0", b"command-0-0-0", b"command-0-1-0", b"command-0-1-1", b"command-0-2-0", b"command-0-4-0"
    ]  # fmt: skip
    of_order = [dict(h)["ce_sequence"] for key, _, h in events if key == order.order_id.encode()]
    assert of_order == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("fault", ["fail_before_commit", "fail_after_commit"])
async def test_an_unknown_commit_is_resolved(world: World, commands: Commands, fault: str) -> None:
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        await eventually(lambda: len(world.ledger.claims) == PARTITIONS)
        setattr(world.ledger, fault, 1)
        commands.ask(asked(Restock, product_id=A, units=5))
        await commands.all_done()
        assert getattr(world.ledger, fault) == 0
    assert world.ledger.stock[A] == Stock(15, 2)
    assert world.event_ids() == [b"command-0-0-0"]


async def test_what_became_of_an_order_is_told_after_it_was_made(
    world: World, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is paid while its first event finds no broker: both are decided, and neither is told, when that fails."""
    writer, log = world.writer()
    refused = asyncio.Event()

    async def publish(events: Any, _: int) -> None:
        if any(events.values()):
            await refused.wait()
            monkeypatch.undo()
            raise NotAcknowledged("too few replicas in sync")

    monkeypatch.setattr(log, "publish", publish)
    async with running(writer):
        await world.share_out(log)
        world.send(line_of(1, A, 4))
        await eventually(lambda: bool(world.ledger.orders))
        [order] = world.ledger.orders.values()
        commands.ask(notice_of(order))
        await eventually(lambda: world.ledger.orders[order.order_id].status is OrderStatus.PAID)
        assert world.event_ids() == []
        refused.set()
        await commands.all_done()
    assert world.event_ids() == [b"0-0", b"command-0-0-0"]


async def test_a_lost_ack_of_what_was_asked_asks_again(world: World, commands: Commands) -> None:
    """Both lines lie in one batch: their answers may be in the log twice, and count once."""
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        await eventually(lambda: len(world.ledger.claims) == PARTITIONS)
        log.lose_acks = 2
        send_whole(world)
        await commands.all_done()
        assert log.lose_acks == 0
    assert_one_order(world, commands)
    assert Outcome.REPEATED in commands.outcomes(2)


async def test_poison_is_set_aside_with_where_it_came_from(world: World, commands: Commands) -> None:
    commands.topic.append(0, A.encode(), b"{")
    commands.topic.append(0, b"another", encode_command(asked(Restock, product_id=A, units=1)))
    commands.ask(asked(Restock, product_id=A, units=5))
    world.broker.append(0, A.encode(), b"[")
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        await commands.all_done()
    assert commands.outcomes() == [Outcome.DEAD, Outcome.DEAD, Outcome.APPLIED]
    letters = [(value, dict(headers)) for _, value, headers in world.broker.dead_letters[0]]
    assert [(h["stream"], h["partition"], h["offset"]) for _, h in letters] == [
        (b"commands", b"0", b"0"),
        (b"commands", b"0", b"1"),
        (b"checkouts", b"0", b"0"),
    ]
    assert letters[0][0] == b"{"
    assert letters[1][1]["reason"] == b"the key is not what the command is about"
    assert world.ledger.stock[A] == Stock(15, 2)


def send_whole(world: World, quantity_of_b: int = 3) -> None:
    """An all-or-nothing checkout of products in partitions 0 and 1, which partition 2 answers."""
    for n, (product_id, quantity) in enumerate(((A, 2), (B, quantity_of_b))):
        line = line_of(WHOLE_CHECKOUT, product_id, quantity, policy="all_or_nothing", line=n, lines=2)
        world.send(line, partition=n)


def assert_one_order(world: World, commands: Commands) -> None:
    (order,) = world.ledger.orders.values()
    assert [(i.product_id, i.quantity) for i in order.items] == [(A, 2), (B, 3)]
    assert {h.state for h in world.ledger.holds.values()} == {"pending"}
    assert [counts_of(world, i) for i in (A, B)] == [(8, 0, 2, 0), (7, 0, 3, 0)]
    assert told_of_the_whole(world) == [b"order.created"]
    for partition in range(PARTITIONS):
        commands.asked_of(partition)


def assert_all_released(world: World, commands: Commands) -> None:
    assert world.ledger.orders == {}
    assert {h.state for h in world.ledger.holds.values()} <= {"released"}
    assert [counts_of(world, i) for i in (A, B)] == [(10, 0, 0, 0)] * 2
    assert told_of_the_whole(world) == [b"checkout.refused"]
    for partition in range(PARTITIONS):
        commands.asked_of(partition)


def counts_of(world: World, product_id: str) -> tuple[int, int, int, int]:
    counts = world.ledger.counts.get(product_id, Counts())
    return world.ledger.stock[product_id].available, counts.held, counts.pending, counts.paid


def told_of_the_whole(world: World) -> list[bytes]:
    """The types of all events, each once."""
    events = [event for p in range(PARTITIONS) for event in distinct(world.broker.events[p])]
    return [dict(headers)["ce_type"] for _, _, headers in events]


@pytest.mark.parametrize("quantity_of_b", [3, 99])
async def test_two_writers_make_one_order_or_none(
    world: World, commands: Commands, quantity_of_b: int
) -> None:
    (one, one_log), (two, two_log) = world.writer("one"), world.writer("two")
    async with running(one), running(two):
        await world.share_out(one_log, two_log)
        send_whole(world, quantity_of_b)
        await commands.all_done()
        await eventually(lambda: any(g.decided_at for g in world.commands.gatherings.values()))
        await commands.all_done()
    (assert_one_order if quantity_of_b == 3 else assert_all_released)(world, commands)
    answer = orjson.loads((await results_of(world.view, uuid_of(WHOLE_CHECKOUT)))[WHOLE])
    assert answer["status"] == ("created" if quantity_of_b == 3 else "refused")


CALLS = [(part, n) for part in ("lines", "commands", "publish", "send") for n in (1, 2)]


@pytest.mark.parametrize("quantity_of_b", [3, 99])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("part", "number"), [*CALLS, ("publish", 3)])
async def test_whichever_writer_crashes_it_is_one_order_or_none(
    world: World, commands: Commands, monkeypatch: pytest.MonkeyPatch, part: str, number: int, quantity_of_b: int,
    *, after: bool,
) -> None:  # fmt: skip
    """A step's n-th call ends its writer, before its effect or after it; another one goes on beside the one left."""
    pairs = [world.writer("one"), world.writer("two")]
    logs = [log for _, log in pairs]
    ledgers = {"lines": world.ledger, "commands": world.commands}
    calls = count(1)
    for target in [ledgers[part]] if part in ledgers else logs:
        name = "persist" if part in ledgers else part
        dies(monkeypatch, target, name, after=after, once=lambda: next(calls) == number)
    tasks = [asyncio.create_task(writer.run()) for writer, _ in pairs]
    try:
        await world.share_out(*logs)
        send_whole(world, quantity_of_b)
        await eventually(lambda: any(task.done() for task in tasks))
        alive = [log for task, log in zip(tasks, logs, strict=True) if not task.done()]
        spare, spare_log = world.writer("spare")
        async with running(spare):
            await world.share_out(*alive, spare_log)
            await eventually(lambda: any(g.decided_at for g in world.commands.gatherings.values()))
            await commands.all_done()
        (assert_one_order if quantity_of_b == 3 else assert_all_released)(world, commands)
    finally:
        for writer, _ in pairs:
            writer.stop()
        await asyncio.wait(tasks)
    assert [type(task.exception()) for task in tasks if task.exception()] == [Crash]


async def test_a_line_that_never_comes_gives_the_other_back(world: World, commands: Commands) -> None:
    line = line_of(WHOLE_CHECKOUT, A, 2, policy="all_or_nothing", lines=2)
    abandon = asked(Abandon, checkout_id=uuid_of(WHOLE_CHECKOUT))
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        world.send(line)
        await commands.all_done()
        await eventually(lambda: bool(world.commands.gatherings))
        assert counts_of(world, A) == (8, 2, 0, 0)
        world.clock.tick(world.settings.hold_ttl_s)
        commands.ask(abandon)
        await eventually(lambda: any(g.decided_at for g in world.commands.gatherings.values()))
        await commands.all_done()
        assert counts_of(world, A) == (10, 0, 0, 0)
        send_whole(world)
        await eventually(lambda: len(world.ledger.holds) == 2)
        await eventually(lambda: {h.state for h in world.ledger.holds.values()} == {"released"})
        await commands.all_done()
    assert_all_released(world, commands)


async def test_a_new_product_is_shown_and_sold(world: World, commands: Commands) -> None:
    new = product_in(3, PARTITIONS)
    writer, log = world.writer()
    async with running(writer):
        await world.share_out(log)
        commands.ask(asked(PutProduct, product_id=new, name="New", price="2.00", currency="EUR", stock=4))
        await commands.all_done()
        assert (await world.view.load({3: [new]}))[3].entries[new][1] == Stock(4, 1)
        world.send(line_of(1, new, 4), partition=3)
        await commands.all_done()
    assert world.kinds(3) == [Kind.CREATED]
    assert (await world.view.gates([3]))[3].sold_out == {new}
