"""The cart over HTTP."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from contracts.buyers import CartView
from stock_ledger.batch import Stock
from tests.harness import product_of
from tests.unit.api_fakes import NOW
from tests.unit.api_service import Service, is_problem

PATH = "/v1/cart"


@pytest.fixture
def service() -> Service:
    made = Service()
    for product_id in ("p", "q", "r"):
        made.carts.catalogue[product_id] = (product_of(product_id), Stock(5, 1))
    return made


async def held(service: Service, **how: Any) -> list[tuple[str, int]]:
    answered = await service.get(PATH, **how)
    assert answered.headers["cache-control"] == "private, no-cache"
    lines = msgspec.json.decode(answered.body, type=CartView).lines
    return [(line.product_id, line.quantity) for line in lines]


async def test_a_product_is_put_changed_and_removed(service: Service) -> None:
    assert (await service.send("PUT", f"{PATH}/p", {"quantity": 2})).status == 201
    service.clock.now_s += 1
    assert (await service.send("PUT", f"{PATH}/q", {"quantity": 1})).status == 201
    changed = await service.send("PUT", f"{PATH}/p", {"quantity": 3})
    assert (changed.status, changed.json["quantity"]) == (200, 3)
    assert await held(service) == [("q", 1), ("p", 3)]
    removed = await service.send("DELETE", f"{PATH}/p")
    assert (removed.status, removed.body) == (204, b"")
    assert is_problem(await service.send("DELETE", f"{PATH}/p"), 404, "not_found")
    assert await held(service) == [("q", 1)]
    for _ in range(2):
        assert (await service.send("DELETE", PATH)).status == 204
    assert await held(service) == []


async def test_a_line_shows_its_product_as_it_is_now(service: Service) -> None:
    await service.send("PUT", f"{PATH}/p", {"quantity": 2})
    sale = {"sale_price": Decimal("8E+1"), "sale_from": NOW, "sale_to": NOW + timedelta(hours=1)}
    service.carts.catalogue["p"] = (product_of("p", on_shelf=False, **sale), Stock(0, 2))
    assert (await service.get(PATH)).json["lines"] == [
        {
            "product_id": "p",
            "quantity": 2,
            "name": "Name of p",
            "cover": "https://img.example/p.jpg",
            "price": {"amount": "80", "currency": "CNY"},
            "on_shelf": False,
            "sale_from": "2026-03-01T12:00:00Z",
            "sale_to": "2026-03-01T13:00:00Z",
            "available": 0,
            "added_at": "2026-03-01T12:00:00Z",
            "updated_at": "2026-03-01T12:00:00Z",
        }
    ]


@pytest.mark.parametrize("product_id", ["none", "a" * 65, "ä", "p\n", "p q"])
async def test_what_is_not_in_the_catalogue_is_refused(service: Service, product_id: str) -> None:
    answered = await service.send("PUT", f"{PATH}/{product_id}", {"quantity": 1})
    assert is_problem(answered, 404, "unknown_product")
    assert is_problem(await service.send("DELETE", f"{PATH}/{product_id}"), 404, "not_found")
    assert await held(service) == []


async def test_what_is_not_on_the_shelf_is_told_as_what_is_not_there(service: Service) -> None:
    service.carts.catalogue["p"] = (product_of("p", on_shelf=False), Stock(5, 1))
    hidden = await service.send("PUT", f"{PATH}/p", {"quantity": 1})
    assert is_problem(hidden, 404, "unknown_product")
    assert hidden.body == (await service.send("PUT", f"{PATH}/none", {"quantity": 1})).body


async def test_a_full_cart_says_so_and_takes_changes(service: Service) -> None:
    for product_id in ("p", "q"):
        await service.send("PUT", f"{PATH}/{product_id}", {"quantity": 1})
    full = await service.send("PUT", f"{PATH}/r", {"quantity": 1})
    assert is_problem(full, 409, "limit_reached")
    assert "2 products" in full.json["detail"]
    assert (await service.send("PUT", f"{PATH}/q", {"quantity": 5})).status == 200


@pytest.mark.parametrize("quantity", [0, -1, 1.5, "1", None, True, 10_001, 1_000_001])
async def test_a_quantity_that_is_none_is_named(service: Service, quantity: object) -> None:
    answered = await service.send("PUT", f"{PATH}/p", {"quantity": quantity})
    assert is_problem(answered, 422, "invalid")
    assert answered.json["errors"][0]["pointer"] == "#/quantity"
    assert await held(service) == []


async def test_carts_are_their_buyers_alone(service: Service) -> None:
    await service.send("PUT", f"{PATH}/p", {"quantity": 1})
    assert await held(service, buyer="buyer-2") == []
    assert is_problem(await service.send("DELETE", f"{PATH}/p", buyer="buyer-2"), 404, "not_found")
    await service.send("DELETE", PATH, buyer="buyer-2")
    assert await held(service) == [("p", 1)]


async def test_a_token_is_needed(service: Service) -> None:
    for method, path in (("GET", PATH), ("DELETE", PATH), ("PUT", f"{PATH}/p"), ("DELETE", f"{PATH}/p")):
        content = {"quantity": 1} if method == "PUT" else None
        assert is_problem(await service.send(method, path, content, buyer=None), 401, "unauthorized")


async def test_other_methods_are_named_as_not_allowed(service: Service) -> None:
    for path, allowed in ((PATH, {"GET", "HEAD", "DELETE"}), (f"{PATH}/p", {"PUT", "DELETE"})):
        answered = await service.send("POST", path)
        assert is_problem(answered, 405, "method_not_allowed")
        assert set(answered.headers["allow"].split(", ")) == allowed


async def test_a_server_away_is_503(service: Service) -> None:
    service.carts.available = False
    for method, path in (("GET", PATH), ("DELETE", PATH), ("PUT", f"{PATH}/p"), ("DELETE", f"{PATH}/p")):
        content = {"quantity": 1} if method == "PUT" else None
        assert is_problem(await service.send(method, path, content), 503, "unavailable")
