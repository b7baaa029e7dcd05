"""What payment providers tell over HTTP, and what buyers need to pay."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from api.payments import sandbox
from contracts.commands import Pay
from contracts.decisions import order_id_of
from contracts.errors import Invalid, PaymentRefused
from contracts.outcomes import OrderStatus
from contracts.payments import Charge, Started
from contracts.times import to_ms
from stock_ledger.commands.reads import OrderHead
from tests.unit.api_fakes import BUYER, NOW, SECRET
from tests.unit.api_service import Service, is_problem

ORDER = order_id_of(to_ms(NOW), 7, 3)
PATH = "/v1/payments/callbacks/sandbox"


@pytest.fixture
def service() -> Service:
    made = Service()
    made.command_reads.orders[ORDER] = OrderHead(
        ORDER, BUYER, OrderStatus.PENDING_PAYMENT, Decimal("258.00"), "CNY", "sandbox", "pending",
        NOW + timedelta(minutes=15),
    )  # fmt: skip
    return made


def event(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "id": "event-1", "type": "payment.paid", "order_id": ORDER, "payment_id": "payment-1", "amount": "258.00",
        "currency": "CNY", "occurred_at": NOW,
    }  # fmt: skip
    return sandbox.SandboxEvent(**fields | changes).body()


async def tell(service: Service, body: bytes, signed: bytes | None = None, path: str = PATH) -> Any:
    signature = sandbox.sign(body if signed is None else signed, [SECRET], service.clock.now())
    return await service.send("POST", path, body, buyer=None, headers=[(sandbox.HEADER, signature)])


async def test_a_notice_becomes_a_command_of_the_orders_partition(service: Service) -> None:
    answered = await tell(service, event())
    assert answered.status == service.providers["sandbox"].acknowledgement.status
    [command] = service.commands.published
    assert isinstance(command, Pay)
    assert (command.order_id, command.outcome, command.reference) == (ORDER, "paid", "payment-1")
    assert (command.amount.amount, command.amount.currency) == ("258.00", "CNY")
    assert (command.actor, command.partition(16)) == ("provider:sandbox", 7)


async def test_the_same_event_is_the_same_command(service: Service) -> None:
    for body in (event(), event(), event(id="event-2")):
        await tell(service, body)
    ids = [command.command_id for command in service.commands.published]
    assert ids[0] == ids[1] != ids[2]


async def test_a_bad_signature_is_401_and_nothing_is_done(service: Service) -> None:
    assert is_problem(await tell(service, event(), event(amount="1.00")), 401, "bad_signature")
    unsigned = await service.send("POST", PATH, event(), buyer=None)
    assert is_problem(unsigned, 401, "bad_signature")
    assert "www-authenticate" not in unsigned.headers, "no bearer token would help"
    old = event()
    service.clock.now_s -= 1000
    signature = sandbox.sign(old, [SECRET], service.clock.now())
    service.clock.now_s += 1000
    replayed = await service.send("POST", PATH, old, buyer=None, headers=[(sandbox.HEADER, signature)])
    assert is_problem(replayed, 401, "bad_signature")
    assert service.commands.published == []


async def test_what_is_signed_but_cannot_be_understood(service: Service) -> None:
    assert is_problem(await tell(service, b'{"type":"payment.paid"}'), 422, "callback_unreadable")


async def test_an_order_that_cannot_be_ours_is_acknowledged_and_forgotten(service: Service) -> None:
    foreign = order_id_of(to_ms(NOW), 16, 3)
    assert (await tell(service, event(order_id=foreign))).status < 300
    assert service.commands.published == []


@pytest.mark.parametrize(
    "foreign", ["5b0c7a52-9d0e-4c61-a3c4-2f1f6f0f9b10", "00000000-0000-0000-0000-000000000000"]
)
async def test_an_id_that_no_order_has(
    service: Service, foreign: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await tell(service, event(order_id=foreign))).status < 300
    assert service.commands.published == []
    assert [getattr(r, "action", "") for r in caplog.records] == ["callback_not_ours"]


async def test_bad_signatures_are_counted(service: Service) -> None:
    assert "bad_signatures" not in (await service.get("/readyz")).json
    for _ in range(2):
        await tell(service, event(), event(amount="1.00"))
    told = await service.get("/readyz")
    assert (told.status, told.json["bad_signatures"]) == (200, {"sandbox": 2})


async def test_whether_commands_reach_kafka_is_told(service: Service) -> None:
    """But not why: that names brokers."""
    service.commands.available = False
    await tell(service, event())
    assert "switched off" in service.commands.problem
    told = await service.get("/readyz")
    assert (told.status, told.json["kafka"]) == (200, "does not answer")
    service.commands.available = True
    await tell(service, event())
    assert (await service.get("/readyz")).json["kafka"] == "ok"


async def test_nothing_is_acknowledged_that_is_not_in_the_log(service: Service) -> None:
    service.commands.available = False
    assert is_problem(await tell(service, event()), 503, "not_acknowledged")


async def test_unknown_providers_and_large_bodies(service: Service) -> None:
    assert is_problem(await tell(service, event(), path="/v1/payments/callbacks/gold"), 404, "not_found")
    assert is_problem(await tell(service, b"x" * (256 * 1024 + 1)), 413, "content_too_large")


async def test_a_buyer_starts_to_pay(service: Service) -> None:
    answered = await service.send("POST", f"/v1/orders/{ORDER}/payment", {})
    assert (answered.status, answered.json["provider"]) == (200, "sandbox")
    other = await service.send("POST", f"/v1/orders/{ORDER}/payment", {}, buyer="somebody-else")
    assert is_problem(other, 404, "not_found")


async def test_the_time_to_pay_is_over(service: Service) -> None:
    service.clock.now_s += 15 * 60
    answered = await service.send("POST", f"/v1/orders/{ORDER}/payment", {})
    assert is_problem(answered, 409, "transition_forbidden")


@pytest.mark.parametrize("error", [PaymentRefused("the account is closed"), Invalid("no such unit")])
async def test_a_provider_that_says_no(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def start(charge: Charge) -> Started:
        raise error

    monkeypatch.setattr(service.providers["sandbox"], "start", start)
    answered = await service.send("POST", f"/v1/orders/{ORDER}/payment", {})
    assert is_problem(answered, 502, "payment_refused")
    assert str(error) not in answered.json["detail"]


async def test_an_order_that_is_not_to_be_paid(service: Service) -> None:
    head = service.command_reads.orders[ORDER]
    for status, method, code, name in (
        (OrderStatus.PAID, "sandbox", 409, "transition_forbidden"),
        (OrderStatus.PENDING_PAYMENT, "gold", 409, "payment_method_not_served"),
    ):
        service.command_reads.orders[ORDER] = OrderHead(
            head.order_id, head.buyer_id, status, head.total, head.currency, method, "pending", head.expires_at
        )  # fmt: skip
        answered = await service.send("POST", f"/v1/orders/{ORDER}/payment", {})
        assert is_problem(answered, code, name)
