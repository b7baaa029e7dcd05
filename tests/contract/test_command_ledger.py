"""What every ledger of commands must do, in memory and in Postgres."""

from datetime import timedelta

import msgspec
import pytest

from contracts.commands import Abandon, Cancel, Command, PatchProduct, PutProduct, Restock, Settle
from contracts.errors import FenceLost, StaleView, Unavailable
from contracts.outcomes import OrderStatus, PaymentStatus, Refusal
from contracts.settings import Settings
from stock_ledger.batch import Stock
from stock_ledger.commands.book import Book, Counts, Given, Need, Told
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.commands.ledger import CommandLedger
from stock_ledger.commands.obey import need_of, obey
from stock_ledger.commands.postgres import PostgresCommandLedger
from stock_ledger.ledger import Advance, Claim
from stock_ledger.ledger import Need as LineNeed
from tests.contract.command_world import CHECKOUT, NEW, A, B, World, answers, need, world, world_settings
from tests.contract.test_ledger import MemoryWorld, postgres_world
from tests.desk import HOLD_TTL_S, PARTITIONS, answer_of, asked, notice_of, step_of
from tests.harness import NOON, line_of, product_of, uuid_of

__all__ = ["world", "world_settings"]


async def held_checkout(world: World, claim: Claim) -> None:
    """Both its lines are held, and nobody was told."""
    await world.sell(
        claim,
        *(
            line_of(CHECKOUT, i, n + 1, policy="all_or_nothing", line=n, lines=2)
            for n, i in enumerate((A, B))
        ),
    )


async def test_nothing_is_there_at_first(world: World) -> None:
    empty = Book({}, {}, {}, {}, {}, {}, {})
    assert await world.commands.load(need(orders=[uuid_of(1)], commands=[uuid_of(2)])) == empty
    assert await world.commands.load(Need([], [], [], [], [])) == empty
    assert await world.commands.told(0, 0, 100) == []


async def test_an_order_of_a_line_is_loaded_with_its_product(world: World) -> None:
    (order, _) = await world.sell(await world.open(), line_of(1, A, 3), line_of(2, B))
    book = await world.commands.load(Need([], [order.order_id], [], [], []))
    (state,) = book.orders.values()
    assert (state.order_id, state.checkout_id, state.buyer_id) == (order.order_id, uuid_of(1), "buyer-1")
    assert (state.status, state.payment, state.sequence) == (
        OrderStatus.PENDING_PAYMENT,
        PaymentStatus.PENDING,
        1,
    )
    assert (str(state.total), state.currency, state.method, state.reference) == (
        "387.00",
        "CNY",
        "wechat",
        "",
    )
    assert state.expires_at == order.expires_at
    assert [(i.line, i.product_id, i.quantity, i.counted) for i in state.items] == [(0, A, 3, True)]
    assert book.products == {A: product_of(A, buyer_limit=9)}
    assert (book.stock, book.counts) == ({A: Stock(7, 2)}, {A: Counts(0, 3, 0)})
    assert (book.decided, book.holds, book.gatherings) == ({}, {}, {})


async def test_holds_of_lines_are_loaded(world: World) -> None:
    await held_checkout(world, await world.open())
    book = await world.commands.load(need())
    assert [(h.product_id, h.quantity, h.state, h.counted, h.order_id) for h in book.holds.values()] == [
        (A, 1, "held", True, None),
        (B, 2, "held", False, None),
    ]
    assert book.counts == {A: Counts(1, 0, 0), B: Counts(2, 0, 0)}
    assert (await world.commands.load(Need([], [], [(uuid_of(CHECKOUT), NEW)], [], []))).holds == {}


async def test_persist_writes_everything_and_load_gives_it_back(world: World) -> None:
    claim = await world.open()
    (order, other) = await world.sell(claim, line_of(1, A, 3), line_of(2, A, 2))
    claim = await world.claim()
    book = await world.commands.load(Need([], [order.order_id, other.order_id], [], [], []))
    pay = notice_of(book.orders[order.order_id], reference="夜 'pay' \\ ;")
    patch = asked(PatchProduct, product_id=B, sale_price="1.50", sale_from=NOON, name="Name 'é' 夜")
    obeyed = await world.obey(
        claim, pay, step_of(book.orders[other.order_id], "cancel"), None, pay, patch,
        asked(Restock, product_id=A, units=5, why="found"), asked(Restock, product_id=NEW, units=1),
        asked(PutProduct, product_id=NEW, name="New", price="2.00", currency="EUR", stock=4),
    )  # fmt: skip
    after = await world.commands.load(
        need(orders=[order.order_id, other.order_id], commands=[pay.command_id, patch.command_id])
    )
    assert after.orders == obeyed.orders
    assert after.orders[order.order_id].reference == "夜 'pay' \\ ;"
    assert (after.orders[order.order_id].sequence, after.orders[other.order_id].sequence) == (2, 2)
    assert {i: after.products[i] for i in (B, NEW)} == obeyed.products
    assert after.stock == {A: Stock(12, 6), B: Stock(10, 1), NEW: Stock(4, 1)}
    assert after.counts == {A: Counts(0, 0, 3), B: Counts(), NEW: Counts()}
    assert after.decided == {pay.command_id: 0, patch.command_id: 4}
    assert await world.entries() == sorted(obeyed.ledger, key=lambda e: (e.product_id, e.seq))
    assert (await world.ledger.load(LineNeed([], [(A, "buyer-1"), (A, "buyer-2")], []), {})).bought == {
        (A, "buyer-1"): 3,
        (A, "buyer-2"): 0,
    }
    assert await world.claim() == Claim(1, 2, 8)
    assert (await world.ledger.partition_products(0))[NEW] == (after.products[NEW], Stock(4, 1))
    assert (await world.ledger.products([A]))[A][1] == Stock(12, 6)


async def test_what_was_told_is_kept_word_for_word(world: World) -> None:
    claim = await world.open()
    await held_checkout(world, claim)
    obeyed = await world.obey(
        await world.claim(),
        *answers(note="by night, 'quoted' \\ 夜"),
        None,
        asked(Restock, product_id=A, units=5, why="夜 \\u0001 é"),
        asked(Cancel, order_id=uuid_of(7), buyer_id="b"),
    )
    told = [d.told for d in obeyed.decisions]
    assert [(len(t.events), len(t.commands), len(t.results)) for t in told] == [
        (0, 0, 0), (1, 2, 1), (0, 0, 0), (1, 0, 0), (0, 0, 0)
    ]  # fmt: skip
    assert await world.commands.told(0, 0, 100) == told
    assert await world.commands.told(0, 1, 4) == told[1:4]
    assert await world.commands.told(0, 5, 9) == []
    assert await world.commands.told(1, 0, 100) == []


async def test_a_repeated_command_and_a_dead_letter_have_told_nothing(world: World) -> None:
    claim = await world.open()
    restock = asked(Restock, product_id=A, units=5)
    await world.obey(claim, restock)
    obeyed = await world.obey(await world.claim(), restock, None)
    assert [d.first_offset for d in obeyed.decisions] == [0, None]
    assert await world.commands.told(0, 1, 3) == [Told(), Told()]
    assert (await world.commands.load(need())).stock[A] == Stock(15, 2)


async def test_an_order_from_holds(world: World) -> None:
    await held_checkout(world, await world.open())
    obeyed = await world.obey(await world.claim(), *answers())
    (made,) = obeyed.new_orders.values()
    book = await world.commands.load(need(orders=[made.state.order_id]))
    assert book.orders == {made.state.order_id: made.state}
    assert made.state.sequence == 1
    assert book.gatherings[uuid_of(CHECKOUT)] == obeyed.gatherings[uuid_of(CHECKOUT)]
    settles = [
        asked(Settle, checkout_id=uuid_of(CHECKOUT), product_id=i, to="pending", order_id=made.state.order_id)
        for i in (A, B)
    ]
    await world.obey(await world.claim(), *settles)
    book = await world.commands.load(need())
    assert {(h.state, h.order_id) for h in book.holds.values()} == {("pending", made.state.order_id)}
    assert book.counts == {A: Counts(0, 1, 0), B: Counts(0, 2, 0)}
    assert [(e.kind, e.delta, e.order_id) for e in await world.entries()] == [
        ("confirm", 0, made.state.order_id)
    ] * 2


@pytest.mark.parametrize("reason", ["", "sold_out"])
async def test_a_cart_is_cleared_of_what_was_ordered_all_or_nothing(world: World, reason: str) -> None:
    """With the last answer, of the lines that say so; with a refusal nothing leaves."""
    await held_checkout(world, await world.open())
    buyer_id = f"buyer-{CHECKOUT}"
    for product_id in (A, B):
        await world.base.carts.put(buyer_id, product_id, 1, NOON, lines_max=9)
    first, second = answers(from_cart=True)
    third = answer_of(CHECKOUT, 1, 2, B, reason=reason, from_cart=True) if reason else second
    await world.obey(await world.claim(), first)
    assert len(await world.base.carts.lines(buyer_id)) == 2
    await world.obey(await world.claim(), third)
    assert len(await world.base.carts.lines(buyer_id)) == (2 if reason else 0)


async def test_an_order_made_and_paid_in_one_batch(world: World) -> None:
    """As when a log is decided anew whose orders were known before."""
    await held_checkout(world, await world.open())
    claim = await world.claim()
    _, dry = await world.decide(claim, *answers())
    (made,) = dry.new_orders.values()
    await world.obey(claim, *answers(), notice_of(made.state))
    (paid,) = (await world.commands.load(need(orders=[made.state.order_id]))).orders.values()
    assert (paid.status, paid.payment, paid.reference, paid.sequence) == (
        OrderStatus.PAID,
        PaymentStatus.PAID,
        "pay-1",
        2,
    )


async def test_a_gathering_grows_and_ends(world: World) -> None:
    claim = await world.open()
    await held_checkout(world, claim)
    first, second = answers(note="夜")
    await world.obey(await world.claim(), first)
    (open_one,) = (await world.commands.load(need())).gatherings.values()
    assert (open_one.state, open_one.answers, open_one.decided_at) == ("gathering", (first,), None)
    assert open_one.deadline == NOON + timedelta(seconds=HOLD_TTL_S)
    late = NOON + timedelta(seconds=HOLD_TTL_S)
    await world.obey(await world.claim(), asked(Abandon, checkout_id=uuid_of(CHECKOUT)), second, now=late)
    (ended,) = (await world.commands.load(need())).gatherings.values()
    assert (ended.state, ended.answers, ended.order_id) == ("refused", (first,), None)
    assert (ended.decided_at, ended.decided_offset, ended.deadline) == (late, 1, open_one.deadline)
    release = [asked(Settle, checkout_id=uuid_of(CHECKOUT), product_id=i, to="released") for i in (A, B)]
    await world.obey(await world.claim(), *release)
    book = await world.commands.load(need())
    assert book.counts == {A: Counts(), B: Counts()}
    assert [stock.available for stock in book.stock.values()] == [10, 10]
    assert (await world.ledger.load(LineNeed([], [(A, f"buyer-{CHECKOUT}")], []), {})).bought == {
        (A, f"buyer-{CHECKOUT}"): 0
    }


async def test_another_claim_is_fenced_and_nothing_is_written(world: World) -> None:
    claim = await world.open()
    await world.obey(claim, None, None)
    there = await world.claim()
    before = await world.everything(need())
    for wrong in (Claim(0, 0, 2), Claim(2, 0, 2), Claim(1, 0, 1), Claim(1, 0, 3)):
        advances, obeyed = await world.decide(wrong, asked(Restock, product_id=A, units=5))
        with pytest.raises(FenceLost):
            await world.commands.persist(advances, obeyed)
        assert await world.everything(need()) == before
    await world.ledger.claim([0], "b", NOON)
    advances, obeyed = await world.decide(there, asked(Restock, product_id=A, units=5))
    with pytest.raises(FenceLost):
        await world.commands.persist(advances, obeyed)


async def test_the_lanes_go_on_independently_of_each_other(world: World) -> None:
    claim = await world.open()
    await world.sell(claim, line_of(1, A))
    await world.obey(claim, None)
    assert await world.claim() == Claim(1, 1, 1)
    await world.sell(Claim(1, 1, 0), line_of(2, A))
    await world.obey(Claim(1, 0, 1), None)
    assert await world.claim() == Claim(1, 2, 2)


async def test_one_lost_partition_fences_the_whole_batch(world: World) -> None:
    await world.open()
    claims = await world.ledger.claim([0, 1], "a", NOON)
    await world.ledger.claim([1], "b", NOON)
    before = await world.everything(need())
    given = [Given(0, 0, asked(Restock, product_id=A, units=5)), Given(1, 0, None, "x")]
    obeyed = obey(given, await world.commands.load(need_of(given)), NOON, PARTITIONS, HOLD_TTL_S)
    with pytest.raises(FenceLost):
        await world.commands.persist([Advance(p, claims[p], 1) for p in (0, 1)], obeyed)
    assert await world.everything(need()) == before


PUT = {"product_id": NEW, "name": "New", "price": "2.00", "currency": "EUR"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(
            asked(Restock, product_id=A, units=1), asked(Restock, product_id=A, units=2), id="stock"
        ),
        pytest.param(
            asked(PatchProduct, product_id=A, name="X"), asked(PatchProduct, product_id=A, cover="Y"), id="product"
        ),
        pytest.param(
            asked(PatchProduct, product_id=A, name="X"), asked(Restock, product_id=A, units=2), id="version"
        ),
        pytest.param(asked(PutProduct, **PUT), asked(PutProduct, **PUT, stock=4), id="new product"),
    ],
)  # fmt: skip
async def test_what_was_loaded_before_another_commit_is_stale(
    world: World, first: Command, second: Command
) -> None:
    claim = await world.open()
    advances, stale = await world.decide(Claim(claim.epoch, 0, 1), second)
    await world.obey(claim, first)
    before = await world.everything(need())
    with pytest.raises(StaleView):
        await world.commands.persist(advances, stale)
    assert await world.everything(need()) == before
    await world.obey(Claim(claim.epoch, 0, 1), second)


async def test_an_order_that_went_on_is_stale(world: World) -> None:
    claim = await world.open()
    (order,) = await world.sell(claim, line_of(1, A))
    state = (await world.commands.load(need(orders=[order.order_id]))).orders[order.order_id]
    await world.obey(claim, notice_of(state))
    advances, stale = await world.decide(Claim(1, 1, 2), step_of(state, "pick"))
    await world.obey(Claim(1, 1, 1), step_of(state, "pick"))
    before = await world.everything(need(orders=[order.order_id]))
    with pytest.raises(StaleView):
        await world.commands.persist(advances, stale)
    assert await world.everything(need(orders=[order.order_id])) == before


@pytest.mark.parametrize("partition", [0, 1])
async def test_a_command_is_decided_first_only_once(world: World, partition: int) -> None:
    """Whether it was applied or refused, and whichever the partition."""
    await world.open()
    await world.ledger.claim([1], "a", NOON)
    command = asked(Cancel, order_id=uuid_of(7), buyer_id="b")
    there = Claim(1, 0, 1 if partition == 0 else 0)
    advances, stale = await world.decide(there, command, partition=partition)
    obeyed = await world.obey(Claim(1, 0), command)
    assert obeyed.decisions[0].reason is Refusal.UNKNOWN_ORDER
    with pytest.raises(StaleView):
        await world.commands.persist(advances, stale)
    advances, again = await world.decide(there, command, partition=partition)
    await world.commands.persist(advances, again)
    assert again.decisions[0].first_offset == 0


async def test_units_that_are_not_there_cannot_be_given_back(world: World) -> None:
    """The last guard: no count ever falls below zero, whatever was decided."""
    claim = await world.open()
    (order,) = await world.sell(claim, line_of(1, A, 2))
    state = (await world.commands.load(need(orders=[order.order_id]))).orders[order.order_id]
    advances, obeyed = await world.decide(claim, step_of(state, "cancel"))
    wrong = msgspec.structs.replace(obeyed, counts={A: Counts(0, -1, 0)})
    before = await world.everything(need(orders=[order.order_id]))
    with pytest.raises(StaleView):
        await world.commands.persist(advances, wrong)
    assert await world.everything(need(orders=[order.order_id])) == before


async def assert_unavailable(commands: CommandLedger) -> None:
    nothing = obey([Given(0, 0, None, "x")], Book({}, {}, {}, {}, {}, {}, {}), NOON, PARTITIONS, HOLD_TTL_S)
    with pytest.raises(Unavailable):
        await commands.load(need())
    with pytest.raises(Unavailable):
        await commands.told(0, 0, 1)
    with pytest.raises(Unavailable):
        await commands.persist([Advance(0, Claim(1, 0), 1)], nothing)


async def test_memory_is_unavailable_when_switched_off() -> None:
    base = MemoryWorld()
    base.ledger.available = False
    await assert_unavailable(MemoryCommandLedger(base.ledger))


async def test_postgres_is_unavailable_when_nothing_listens(offline_settings: Settings) -> None:
    async with postgres_world(offline_settings) as base:
        await assert_unavailable(PostgresCommandLedger(base.pool, PARTITIONS))
