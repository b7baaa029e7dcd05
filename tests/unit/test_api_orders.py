"""Which orders a buyer asks for: statuses, times, pages of them."""

from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import pytest

from contracts.outcomes import OrderStatus
from contracts.requests import OrderPage
from tests.unit.api_fakes import stored_order
from tests.unit.api_service import Service, is_problem


@pytest.fixture
def service() -> Service:
    return Service()


async def listed(service: Service, query: str) -> list[int]:
    """Which of the stored orders are on the page, by their place among them."""
    page = msgspec.json.decode((await service.get(f"/v1/orders?{query}")).body, type=OrderPage)
    ids = [order.order_id for order in service.reads.stored]
    return [ids.index(order.order_id) for order in page.orders]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=paid", [3, 1]),
        ("status=paid&status=shipped", [3, 2, 1]),
        ("status=shipped,paid", [3, 2, 1]),
        ("status=paid,shipped&status=pending_payment", [3, 2, 1, 0]),
        ("status=paid,paid", [3, 1]),
        ("status=closed_by_user", []),
    ],
)
async def test_orders_are_filtered_by_status(service: Service, query: str, expected: list[int]) -> None:
    statuses = ("pending_payment", "paid", "shipped", "paid")
    service.reads.stored = [stored_order(i, status=status) for i, status in enumerate(statuses)]
    assert await listed(service, query) == expected


@pytest.mark.parametrize("status", ["", "unknown", "paid,", "PAID", "paid;shipped"])
async def test_an_unknown_status_is_named_with_those_there_are(service: Service, status: str) -> None:
    answered = await service.get(f"/v1/orders?status={quote(status)}")
    assert is_problem(answered, 422, "invalid")
    assert answered.json["errors"][0]["parameter"] == "status"
    for known in OrderStatus:
        assert known in answered.json["detail"]
    assert service.reads.calls == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("from=2026-03-01T12:00:01Z", [3, 2, 1]),
        ("to=2026-03-01T12:00:02Z", [1, 0]),
        ("from=2026-03-01T12:00:01Z&to=2026-03-01T12:00:02Z", [1]),
        ("from=2026-03-01T20:00:01%2B08:00&to=2026-03-01T20:00:03%2B08:00", [2, 1]),
        ("from=2026-03-01T12:00:00.000001Z", [3, 2, 1]),
        ("to=2026-03-01T12:00:01.000001Z", [1, 0]),
    ],
)
async def test_orders_are_filtered_by_time(service: Service, query: str, expected: list[int]) -> None:
    service.reads.stored = [stored_order(i) for i in range(4)]
    assert await listed(service, query) == expected


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-03-01", "2026-03-01T12:00:00", "2026-03-01T12:00:00+08:00", "1772366400"]
)
async def test_a_time_that_is_none_is_named(service: Service, name: str, text: str) -> None:
    """The plus of the last but one is a space as it stands in a URL."""
    answered = await service.get(f"/v1/orders?{name}={text}")
    assert is_problem(answered, 422, "invalid")
    assert answered.json["errors"][0]["parameter"] == name
    assert "%2B" in answered.json["detail"]


async def test_a_time_range_that_is_none_is_told(service: Service) -> None:
    answered = await service.get("/v1/orders?from=2026-03-01T12:00:00Z&to=2026-03-01T13:00:00%2B01:00")
    assert is_problem(answered, 422, "invalid")
    assert answered.json["errors"][0]["parameter"] == "to"


async def test_the_next_page_is_of_the_same_orders(service: Service) -> None:
    statuses = ("paid", "shipped", "completed", "paid", "shipped", "paid")
    service.reads.stored = [stored_order(i, status=status) for i, status in enumerate(statuses)]
    since, until = (quote(f"2026-03-01T20:00:0{second}+08:00") for second in (0, 5))
    path: str | None = f"/v1/orders?limit=1&status=paid,shipped&from={since}&to={until}"
    pages = []
    while path is not None:
        page = msgspec.json.decode((await service.get(path)).body, type=OrderPage)
        pages.append([order.order_id for order in page.orders])
        path = page.next
        if path is not None:
            given = parse_qs(urlsplit(path).query)
            assert (given["limit"], given["status"]) == (["1"], ["paid", "shipped"])
            assert given.keys() == {"limit", "status", "from", "to", "cursor"}
    assert pages == [[stored_order(i).order_id] for i in (4, 3, 1, 0)]
