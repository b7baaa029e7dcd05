"""Commands on real servers: an order of two partitions from its holds to its end, and what time brings."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer

from api.payments.sandbox import SandboxProvider
from contracts.commands import Cancel, Pay
from contracts.keys import WHOLE
from contracts.messages import Money
from stock_ledger.commands.due import DueStore
from stock_ledger.commands.refunds import PostgresRefunds
from stock_ledger.reads import PostgresReads
from stock_ledger.redis_view import RedisView
from tests.desk import asked
from tests.harness import eventually, line_of, real_writer, results_of, running, uuid_of
from tests.integration.audit_sale import Sale
from workers.asking import Send
from workers.refunds import Refunding
from workers.timers import Timers

Stock = dict[str, tuple[int, int, int, int]]  # product -> available, held, pending, paid


class Later:
    """The time as it is, or so much later."""

    def __init__(self) -> None:
        self.by = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.by


class Desk:
    """A sale with a writer at work, and what is asked of it."""

    def __init__(self, sale: Sale) -> None:
        self.sale = sale

    async def buy(self, name: str, *quantities: tuple[str, int], come: int = 2, buyer: str = "ann") -> None:
        """An all-or-nothing checkout, of which so many lines come into the log."""
        lines = [
            line_of(name, *one, policy="all_or_nothing", line=n, lines=len(quantities), buyer_id=buyer)
            for n, one in enumerate(quantities)
        ]
        await self.sale.send([self.sale.sent(line) for line in lines[:come]])

    async def stock(self) -> Stock:
        rows = await self.sale.pool.fetch("SELECT product_id, available, held, pending, paid FROM stock")
        return {row["product_id"]: tuple(row)[1:] for row in rows}

    async def until_stock(self, hot: tuple[int, ...], plain: tuple[int, ...]) -> None:
        expected = {self.sale.hot: hot, self.sale.plain: plain}

        async def there() -> bool:
            return await self.stock() == expected

        await eventually(there)

    async def states(self) -> dict[str, tuple[str, str]]:
        """Status of order and payment, by checkout."""
        rows = await self.sale.pool.fetch(
            "SELECT o.checkout_id, o.status, p.status AS payment FROM orders AS o JOIN payments AS p USING (order_id)"
        )
        return {str(row["checkout_id"]): (row["status"], row["payment"]) for row in rows}

    async def until_state(self, name: str, status: str, payment: str) -> None:
        async def there() -> bool:
            return (await self.states()).get(uuid_of(name)) == (status, payment)

        await eventually(there)

    async def answer(self, name: str) -> dict[str, Any]:
        """The one answer that the view shows."""
        view = RedisView(self.sale.redis, self.sale.settings)

        async def shown() -> bool:
            return WHOLE in await results_of(view, uuid_of(name))

        await eventually(shown)
        answer: dict[str, Any] = orjson.loads((await results_of(view, uuid_of(name)))[WHOLE])
        return answer

    async def ask_what_is_due(self, timers: Timers, producer: AIOKafkaProducer) -> None:
        await self.round_of(timers.ask, producer)

    async def round_of(self, ask: Callable[[Send], Awaitable[None]], producer: AIOKafkaProducer) -> None:
        """One round of what streams does by time."""

        async def send(key: bytes, value: bytes, partition: int) -> Awaitable[Any]:
            ack: Awaitable[Any] = await producer.send(
                self.sale.topics.commands, value, key=key, partition=partition
            )
            return ack

        await ask(send)

    async def told(self, order_id: str) -> list[tuple[str, int]]:
        """Type and ce_sequence of an order's events, each once."""
        found = {}
        for record in await self.sale.events():
            headers = dict(record.headers)
            if record.key == order_id.encode():
                found[headers["ce_id"]] = (headers["ce_type"].decode(), int(headers["ce_sequence"]))
        return sorted(found.values(), key=lambda told: told[1])


async def test_from_holds_over_an_order_and_its_payment_back_to_the_stock(sale: Sale) -> None:
    desk = Desk(sale)
    async with real_writer(sale.settings, "w") as writer, running(writer):
        await desk.buy("cart", (sale.hot, 2), (sale.plain, 3))
        assert (await desk.answer("cart"))["status"] == "created"
        await desk.until_stock((3, 0, 2, 0), (997, 0, 3, 0))
        order_id = await sale.order_of("cart")
        pay = asked(
            Pay, order_id=order_id, provider="wechat", event_id="e-1", reference="p-1", outcome="paid",
            amount=Money("645.00", "CNY"), occurred_at_ms=1,
        )  # fmt: skip
        await sale.ask(pay, pay)
        await desk.until_stock((3, 0, 0, 2), (997, 0, 0, 3))
        await desk.until_state("cart", "paid", "paid")
        await desk.buy("again", (sale.hot, 1), (sale.plain, 1))
        refused = await desk.answer("again")
        assert {line["product_id"]: line["reason"] for line in refused["lines"]} == {
            sale.hot: "buyer_limit",
            sale.plain: "other_line_refused",
        }
        await sale.ask(asked(Cancel, order_id=order_id, buyer_id="ann"))
        await desk.until_stock((5, 0, 0, 0), (1000, 0, 0, 0))
        await desk.until_state("cart", "closed_by_user", "refund_due")
    await sale.decide()
    assert await desk.told(order_id) == [
        ("order.created", 1), ("order.paid", 2), ("order.closed", 3), ("payment.refund_due", 4)
    ]  # fmt: skip
    report = await sale.audit(10.0)
    assert report.ok, report.broken()


async def test_a_late_payment_without_stock_is_sent_back(sale: Sale) -> None:
    desk, clock = Desk(sale), Later()

    def pay(order_id: str, reference: str) -> Pay:
        return asked(
            Pay, order_id=order_id, provider="sandbox", event_id=reference, reference=reference, outcome="paid",
            amount=Money("258.00", "CNY"), occurred_at_ms=1,
        )  # fmt: skip

    provider = SandboxProvider(["a secret of the sandbox with 32 bytes"], 300)
    refunding = Refunding(PostgresRefunds(sale.pool), [provider], sale.settings, clock.now)
    real = real_writer(sale.settings, "w", now=clock.now)
    async with sale.producing() as producer, real as writer, running(writer):
        await sale.send([sale.sent(line_of("late", sale.hot, 2))])
        await desk.until_state("late", "pending_payment", "pending")
        clock.by = timedelta(hours=1)
        await desk.ask_what_is_due(Timers(DueStore(sale.pool), sale.settings, clock.now), producer)
        await desk.until_state("late", "closed_by_timeout", "expired")
        await sale.send([sale.sent(line_of(name, sale.hot, 2)) for name in ("a", "b")])
        await desk.until_state("b", "pending_payment", "pending")
        late = await sale.order_of("late")
        await sale.ask(pay(late, "p-1"), pay(late, "p-2"), pay(late, "p-2"))
        await desk.until_state("late", "closed_by_timeout", "refund_due")
        reads = PostgresReads(sale.pool)

        async def refunds() -> dict[str, bool]:
            order = await reads.order(late, "buyer-late")
            return {} if order is None else {r.reference: r.refunded for r in order.payment.refunds}

        async def both(refunded: bool) -> bool:
            return await refunds() == {"p-1": refunded, "p-2": refunded}

        await eventually(lambda: both(False))
        for _ in range(2):
            await desk.round_of(refunding.ask, producer)
        await eventually(lambda: both(True))
        await desk.until_state("late", "closed_by_timeout", "refunded")
    await sale.decide()
    assert await desk.told(late) == [
        ("order.created", 1), ("order.closed", 2), ("payment.refund_due", 3), ("payment.refund_due", 4),
        ("payment.refunded", 5), ("payment.refunded", 6),
    ]  # fmt: skip
    report = await sale.audit(10.0)
    assert report.ok, report.broken()


async def test_time_ends_what_is_not_paid_and_what_is_not_answered(sale: Sale) -> None:
    """By the writer's time, an hour later: what the timers' clock says before that ends nothing."""
    desk, clock, ahead = Desk(sale), Later(), Later()
    ahead.by = timedelta(hours=1)
    real = real_writer(sale.settings, "w", now=clock.now)
    async with sale.producing() as producer, real as writer, running(writer):
        await sale.send([sale.sent(line_of("one", sale.plain, 4))])
        await desk.buy("cart", (sale.hot, 2), (sale.plain, 3))
        await desk.buy("half", (sale.hot, 1), (sale.plain, 1), come=1, buyer="bob")
        await desk.until_stock((2, 1, 2, 0), (993, 0, 7, 0))

        async def gathered() -> bool:
            query = "SELECT count(*) FROM gatherings WHERE decided_at IS NULL"
            return bool(await sale.pool.fetchval(query) == 1)

        await eventually(gathered)
        await desk.ask_what_is_due(Timers(DueStore(sale.pool), sale.settings, ahead.now), producer)

        async def refused() -> bool:
            query = "SELECT count(*) FROM commands WHERE outcome = 'refused' AND reason = 'not_due'"
            return bool(await sale.pool.fetchval(query) == 3)

        await eventually(refused)
        clock.by = ahead.by
        timers = Timers(DueStore(sale.pool), sale.settings, clock.now)
        await desk.ask_what_is_due(timers, producer)
        await desk.until_stock((5, 0, 0, 0), (1000, 0, 0, 0))
        answer = await desk.answer("half")
        assert [(line["product_id"], line["reason"]) for line in answer["lines"]] == [
            (sale.hot, "hold_expired")
        ]
        for name in ("one", "cart"):
            await desk.until_state(name, "closed_by_timeout", "expired")
        await desk.ask_what_is_due(timers, producer)  # what was asked lately is not asked again
    await sale.decide()
    query = "SELECT count(*) FROM commands WHERE action IN ('expire', 'abandon') AND outcome = 'applied'"
    assert await sale.pool.fetchval(query) == 3
    report = await sale.audit(10.0)
    assert report.ok, report.broken()
