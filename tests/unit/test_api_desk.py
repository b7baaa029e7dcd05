"""What buyers and merchants ask of orders, stock and the catalogue over HTTP."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from contracts.commands import Adjust, Cancel, Close, PatchProduct, PutProduct, Restock, SetStock, Ship
from contracts.decisions import order_id_of, order_partition
from contracts.outcomes import OrderStatus
from contracts.times import to_ms
from contracts.topics import partition_of
from stock_ledger.commands.book import Counts
from stock_ledger.commands.reads import OrderHead, Shelf, StoredCommand
from stock_ledger.decide import Stock
from stock_ledger.lifecycle import TRANSITIONS, allowed
from tests.harness import product_of
from tests.unit.api_fakes import BUYER, NOW
from tests.unit.api_service import Service, is_problem

ORDER = order_id_of(to_ms(NOW), 7, 3)
MERCHANT = {"buyer": "shop", "token_scope": "profile merchant"}
STEPS = ("cancel", "close", "pick", "ship", "complete")


@pytest.fixture
def service() -> Service:
    made = Service()
    put(made, OrderStatus.PENDING_PAYMENT)
    made.command_reads.shelves["p"] = Shelf(product_of("p"), Stock(5, 4), Counts(1, 2, 3))
    return made


def put(service: Service, status: OrderStatus) -> None:
    service.command_reads.orders[ORDER] = OrderHead(
        ORDER, BUYER, status, Decimal("258.00"), "CNY", "sandbox", "pending", NOW + timedelta(minutes=15)
    )


async def ask(service: Service, action: str, content: Any = None, **how: Any) -> Any:
    return await service.send("POST", f"/v1/orders/{ORDER}/{action}", content or {}, **how)


async def test_a_buyer_cancels(service: Service) -> None:
    answered = await ask(service, "cancel")
    [command] = service.commands.published
    assert isinstance(command, Cancel)
    assert (command.order_id, command.buyer_id, command.actor) == (ORDER, BUYER, f"buyer:{BUYER}")
    assert answered.status == 202
    assert answered.headers["location"] == answered.json["status_url"] == f"/v1/commands/{command.command_id}"
    assert (answered.json["partition"], answered.json["offset"]) == (order_partition(ORDER), 0)


async def test_the_same_key_is_the_same_command_of_the_same_actor_about_the_same_thing(
    service: Service,
) -> None:
    key = [("Idempotency-Key", "once")]
    await ask(service, "cancel", headers=key)
    await ask(service, "cancel", headers=key)
    await ask(service, "close", headers=key, **MERCHANT)
    await ask(service, "cancel")
    ids = [command.command_id for command in service.commands.published]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    bad = await ask(service, "cancel", headers=[("Idempotency-Key", "")])
    assert is_problem(bad, 400, "bad_request")


@pytest.mark.parametrize("status", OrderStatus)
@pytest.mark.parametrize("action", STEPS)
async def test_what_the_state_machine_forbids_is_refused_at_once(
    service: Service, status: OrderStatus, action: str
) -> None:
    put(service, status)
    answered = await ask(service, action, **({} if action == "cancel" else MERCHANT))
    if (status, action) in TRANSITIONS:
        assert answered.status == 202
        return
    assert is_problem(answered, 409, "transition_forbidden")
    assert (answered.json["order_status"], answered.json["allowed"]) == (status, allowed(status))
    assert service.commands.published == []


async def test_the_order_of_another_is_not_there(service: Service) -> None:
    assert is_problem(await ask(service, "cancel", buyer="somebody-else"), 404, "not_found")
    assert is_problem(await service.send("POST", "/v1/orders/none/cancel", {}), 404, "not_found")
    assert is_problem(await ask(service, "cancel", buyer=None), 401, "unauthorized")


@pytest.mark.parametrize("action", [step for step in STEPS if step != "cancel"])
async def test_only_a_merchant_may(service: Service, action: str) -> None:
    assert is_problem(await ask(service, action), 403, "forbidden")
    assert is_problem(await ask(service, action, token_scope="merchants"), 403, "forbidden")
    assert service.commands.published == []


async def test_closing_and_shipping_carry_what_is_said(service: Service) -> None:
    await ask(service, "close", {"why": "damaged"}, **MERCHANT)
    put(service, OrderStatus.PICKED)
    await ask(service, "ship", {"carrier": "SF", "tracking": "1"}, **MERCHANT)
    close, ship = service.commands.published
    assert isinstance(close, Close)
    assert isinstance(ship, Ship)
    assert (close.why, close.actor, ship.carrier, ship.tracking) == ("damaged", "merchant:shop", "SF", "1")
    assert is_problem(await ask(service, "ship", {"by": "SF"}, **MERCHANT), 422, "invalid")


async def test_what_is_not_acknowledged_may_or_may_not_be_done(service: Service) -> None:
    service.commands.available = False
    answered = await ask(service, "cancel")
    assert is_problem(answered, 503, "not_acknowledged")
    assert answered.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"kind": "restock", "units": 3}, Restock),
        ({"kind": "adjust", "units": -3, "why": "counted"}, Adjust),
        ({"kind": "set", "units": 0}, SetStock),
    ],
)
async def test_stock_is_changed(service: Service, asked: dict[str, Any], kind: type[Any]) -> None:
    answered = await service.send("POST", "/v1/products/p/stock", asked, **MERCHANT)
    assert answered.status == 202
    [command] = service.commands.published
    assert isinstance(command, kind)
    assert command.partition(16) == partition_of("p", 16) == answered.json["partition"]


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"kind": "restock", "units": 0}, "#/units"),
        ({"kind": "restock", "units": 1.5}, "#/units"),
        ({"kind": "adjust", "units": 1}, "#/why"),
        ({"kind": "adjust", "units": 0, "why": "x"}, "#/units"),
        ({"kind": "set", "units": -1}, "#/units"),
        ({"kind": "take", "units": 1}, "#/kind"),
        ({"units": 1}, "#/kind"),
    ],
)
async def test_a_change_of_stock_that_says_nothing(
    service: Service, asked: dict[str, Any], pointer: str
) -> None:
    answered = await service.send("POST", "/v1/products/p/stock", asked, **MERCHANT)
    assert is_problem(answered, 422, "invalid")
    assert [error["pointer"] for error in answered.json["errors"]] == [pointer]


async def test_where_the_units_are(service: Service) -> None:
    answered = await service.get("/v1/products/p/stock", **MERCHANT)
    assert answered.json == {
        "product_id": "p", "available": 5, "held": 1, "pending_payment": 2, "paid": 3, "total": 11,
    }  # fmt: skip
    assert is_problem(await service.get("/v1/products/p/stock"), 403, "forbidden")
    assert is_problem(await service.get("/v1/products/q/stock", **MERCHANT), 404, "unknown_product")


async def test_products_are_put_and_patched(service: Service) -> None:
    whole = {"name": "Kettle", "price": "159.00", "currency": "CNY", "stock": 5}
    assert (await service.send("PUT", "/v1/products/p", whole, **MERCHANT)).status == 202
    patch = {"sale_price": "99.00", "buyer_limit": None}
    assert (await service.send("PATCH", "/v1/products/p", patch, **MERCHANT)).status == 202
    put_, patched = service.commands.published
    assert isinstance(put_, PutProduct)
    assert isinstance(patched, PatchProduct)
    assert (put_.name, put_.stock, patched.sale_price, patched.buyer_limit) == ("Kettle", 5, "99.00", None)
    assert not isinstance(patched.name, str)
    assert is_problem(await service.send("PUT", "/v1/products/p", whole), 403, "forbidden")
    assert is_problem(await service.send("PUT", "/v1/products/p", {}, **MERCHANT), 422, "invalid")
    assert (await service.get("/v1/products/p")).json["available"] == 5


async def test_what_became_of_a_command(service: Service) -> None:
    one = StoredCommand(
        "7a1c0e2b-3c5d-5e6f-8a7b-9c0d1e2f3a4b", "cancel", ORDER, f"buyer:{BUYER}", "refused", "not_allowed", 7, 0, NOW
    )  # fmt: skip
    service.command_reads.commands[one.command_id] = one
    answered = await service.get(f"/v1/commands/{one.command_id}")
    assert (answered.json["status"], answered.json["reason"]) == ("refused", "not_allowed")
    path = f"/v1/commands/{one.command_id}"
    assert is_problem(await service.get(path, buyer="somebody-else"), 404, "not_found")
    assert (await service.get(path, **MERCHANT)).status == 200
    assert is_problem(await service.get("/v1/commands/none"), 404, "not_found")
    log = await service.get(f"/v1/orders/{ORDER}/events")
    assert [entry["action"] for entry in log.json["commands"]] == ["cancel"]
    assert is_problem(
        await service.get(f"/v1/orders/{ORDER}/events", buyer="somebody-else"), 404, "not_found"
    )
