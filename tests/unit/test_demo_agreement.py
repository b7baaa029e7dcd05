"""The demo's funnel, from both sides: silent where they agree, and never where something is planted."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from contracts.asks import CommandStatus, ProductStock
from contracts.commands import Cancel, Pay
from contracts.messages import Money
from contracts.outcomes import OrderStatus, PaymentStatus
from contracts.requests import (
    CheckoutStatus,
    CreatedLine,
    LineOrder,
    LinePayment,
    OrderItem,
    OrderPayment,
    OrderView,
)
from contracts.requests import Total as Sum
from deploy.demo.agreement import Funnel, HotStock, disagreements, funnel_read, funnel_told, hot_stock
from deploy.demo.life import FATES, Fate, Told, fate_of
from deploy.demo.orders import Bought, orders_in
from stock_ledger.audit.command_facts import CommandRow, ToldEvent
from stock_ledger.audit.facts import (
    CacheFacts,
    Facts,
    ItemRow,
    LedgerRow,
    OrderRow,
    PaymentRow,
    PostgresFacts,
)
from tests.harness import HOME, NOON, uuid_of

# Of three units one is paid, one is cancelled and sold again, and paid when its time was over, in vain.
PAID, CANCELLED, LATE = uuid_of("paid"), uuid_of("cancelled"), uuid_of("late")
ENDS = {
    PAID: ("paid", "paid"),
    CANCELLED: ("closed_by_user", "refunded"),
    LATE: ("closed_by_timeout", "refund_due"),
}
COMMAND = uuid_of("command")
Plant = Callable[[dict[str, Bought], Told, Facts], None]


def bought() -> dict[str, Bought]:
    return {i: Bought(i, "buyer", f"no {i}", Decimal(9), "CNY", "wechat", NOON, {"p": 1}) for i in ENDS}


def seen(order_id: str, status: str, payment: str) -> OrderView:
    nine = Sum("9.00", "CNY")
    return OrderView(
        order_id, f"no {order_id}", uuid_of(order_id), OrderStatus(status), nine, HOME, "", NOON,
        [OrderItem(0, "p", "name", "", nine, 1)], OrderPayment(PaymentStatus(payment), "wechat", nine, NOON, "r"), 2,
    )  # fmt: skip


def told() -> Told:
    return Told(
        paid=set(ENDS),
        commands={COMMAND: CommandStatus(COMMAND, "applied", 0, 1, "cancel", CANCELLED)},
        orders={order_id: seen(order_id, *end) for order_id, end in ENDS.items()},
        stock=ProductStock("p", 2, 0, 0, 1, 3, []),
    )


def command(offset: int, order_id: str, *events: str, **fields: Any) -> CommandRow:
    pay = Pay(
        command_id=uuid_of(offset), actor="provider:sandbox", asked_at_ms=0, order_id=order_id, provider="sandbox",
        event_id=order_id, reference="r", outcome="paid", amount=Money("9.00", "CNY"), occurred_at_ms=0,
    )  # fmt: skip
    made = tuple(ToldEvent("", kind, b"", 2, 0) for kind in events)
    row = CommandRow(
        0, offset, pay.command_id, "pay", order_id, pay.actor, "applied", None, "", None, 0, pay, made
    )
    return row._replace(**fields)


def facts() -> Facts:
    cancel = Cancel(command_id=COMMAND, actor="buyer:b", asked_at_ms=0, order_id=CANCELLED, buyer_id="b")
    moves = [(3, "initial"), (-1, "order"), (-1, "order"), (1, "cancel"), (-1, "order"), (1, "expire")]
    ledger, available = [], 0
    for seq, (delta, kind) in enumerate(moves, 1):
        available += delta
        ledger.append(LedgerRow("p", seq, delta, available, kind, 0, seq, None))
    return Facts(
        partitions=1, target={}, checkouts={}, events_span={}, letters_span={}, messages=[], events=[], letters=[],
        cache=CacheFacts(),
        postgres=PostgresFacts(
            orders=[OrderRow(i, i, "buyer", status, Decimal(9), "CNY") for i, (status, _) in ENDS.items()],
            payments=[PaymentRow(i, Decimal(9), "CNY", payment) for i, (_, payment) in ENDS.items()],
            items=[ItemRow(i, 0, "p", Decimal(9), 1) for i in ENDS],
            ledger=ledger,
            commands=[
                command(0, PAID, "order.paid"),
                command(1, CANCELLED, "order.paid"),
                command(2, CANCELLED, "order.closed", command_id=COMMAND, action="cancel", command=cancel),
                command(3, LATE, "payment.refund_due"),
            ],
        ),
    )  # fmt: skip


def found(plant: Plant) -> list[str]:
    orders, seen, stored = bought(), told(), facts()
    plant(orders, seen, stored)
    return disagreements(orders.values(), seen, stored, "p")


def test_the_same_funnel_from_both_sides() -> None:
    assert found(lambda *_: None) == []
    funnel = funnel_told(told())
    assert funnel == funnel_read(facts())
    assert funnel == Funnel(
        3,
        2,
        {"closed_by_timeout": 1, "closed_by_user": 1, "paid": 1},
        {"paid": 1, "refund_due": 1, "refunded": 1},
    )
    assert funnel.closed == {"closed_by_timeout": 1, "closed_by_user": 1}


def test_units_that_come_back_are_counted_and_those_beyond_what_there_was_too() -> None:
    assert hot_stock(facts(), "p") == HotStock(3, 3, 2, 0, 2)
    sold_on = facts()
    sold_on.postgres.ledger += [LedgerRow("p", 7, -2, 0, "late_payment", 0, 7, None)]
    assert hot_stock(sold_on, "p") == HotStock(3, 5, 2, 2, 0)


def another_status(orders: dict[str, Bought], seen_by: Told, stored: Facts) -> None:
    seen_by.orders[PAID] = seen(PAID, "closed_by_user", "refund_due")


def order_gone(orders: dict[str, Bought], seen_by: Told, stored: Facts) -> None:
    del stored.postgres.orders[0]


def order_untold(orders: dict[str, Bought], seen_by: Told, stored: Facts) -> None:
    del orders[PAID]


def another_quantity(orders: dict[str, Bought], seen_by: Told, stored: Facts) -> None:
    orders[PAID] = msgspec.structs.replace(orders[PAID], units={"p": 2})


def never_paid(orders: dict[str, Bought], seen_by: Told, stored: Facts) -> None:
    stored.postgres.commands[0] = command(0, PAID)


def command_refused(orders: dict[str, Bought], seen_by: Told, stored: Facts) -> None:
    stored.postgres.commands[2] = stored.postgres.commands[2]._replace(outcome="refused")


def notice_gone(orders: dict[str, Bought], seen_by: Told, stored: Facts) -> None:
    del stored.postgres.commands[3]


def other_stock(orders: dict[str, Bought], seen_by: Told, stored: Facts) -> None:
    seen_by.stock = ProductStock("p", 1, 0, 1, 1, 3, [])


def no_stock(orders: dict[str, Bought], seen_by: Told, stored: Facts) -> None:
    seen_by.stock = None


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (another_status, "was told closed_by_user, refund_due; it is paid, paid"),
        (order_gone, "and is gone"),
        (order_untold, "1 orders were made that no buyer was told of"),
        (another_quantity, "was told as {'p': 2}"),
        (never_paid, "the audit read"),
        (command_refused, "was told applied, it is refused"),
        (notice_gone, "1 payments were acknowledged and never decided"),
        (other_stock, "by the ledger"),
        (no_stock, "was told nothing of the stock"),
    ],
)
def test_what_is_planted_is_found(plant: Plant, said: str) -> None:
    differing = found(plant)
    assert any(said in line for line in differing), differing


def line(number: int, product_id: str, order_id: str) -> CreatedLine:
    nine = Sum("9.00", "CNY")
    order = LineOrder(order_id, "no 1", "name", "", nine, nine, LinePayment("pending", "wechat", NOON))
    return CreatedLine(number, 0, number, datetime.now(UTC), product_id, 2, order)


def test_an_order_is_of_one_line_or_of_all() -> None:
    each = CheckoutStatus(uuid_of(1), "created", [line(0, "p", PAID), line(1, "q", LATE)])
    assert [(order.order_id, order.units) for order in orders_in(each, "b")] == [
        (PAID, {"p": 2}),
        (LATE, {"q": 2}),
    ]
    whole = CheckoutStatus(uuid_of(1), "created", [line(0, "p", PAID), line(1, "q", PAID)])
    (order,) = orders_in(whole, "b")
    assert order.units == {"p": 2, "q": 2}
    assert (order.charge().amount, order.charge().order_id) == (Decimal("9.00"), PAID)


def test_an_order_always_meets_the_same_fate_and_every_fate_is_met() -> None:
    met = [fate_of(uuid_of(n), 1) for n in range(1000)]
    assert met == [fate_of(uuid_of(n), 1) for n in range(1000)]
    assert set(met) == set(Fate)
    assert met.count(Fate.LEFT_TO_BUYER) == pytest.approx(1000 * (1 - sum(FATES.values())), rel=0.1)
