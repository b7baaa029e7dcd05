"""The read side over HTTP: who may see what, parameters, headers, problems."""

import asyncio
import base64
from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest

from api.orders import cursor_of, order_id_of_cursor
from contracts.decisions import BY_COMMAND, number_of, order_id_of
from contracts.errors import SettingsError
from contracts.problems import Problem
from contracts.requests import CheckoutStatus, OrderPage, OrderRefund, OrderView
from contracts.times import to_ms
from stock_ledger.reads import StoredRefund
from stock_ledger.view import CheckoutsView, Progress
from tests.unit.api_fakes import CHECKOUT, created, stored_order
from tests.unit.api_service import Service, is_problem


@pytest.fixture
def service() -> Service:
    return Service()


async def test_a_queued_checkout_says_when_to_ask_again_and_is_not_kept(service: Service) -> None:
    service.view.shown = {7: Progress(1, 100, 20, 1)}
    answered = await service.get(service.location((7, 150)))
    assert (answered.status, answered.headers["content-type"]) == (200, "application/json")
    assert (answered.headers["retry-after"], answered.headers["cache-control"]) == ("3", "no-store")
    assert answered.json["lines"] == [
        {"status": "queued", "line": 0, "partition": 7, "offset": 150, "ahead": 50, "eta_s": 2.5}
    ]


async def test_a_final_answer_is_the_buyers_to_keep(service: Service) -> None:
    service.view.show(created(7, 150))
    answered = await service.get(service.location((7, 150)))
    assert answered.headers["cache-control"] == "private"
    assert "retry-after" not in answered.headers
    status = msgspec.json.decode(answered.body, type=CheckoutStatus)
    assert status.status == "created"
    head = await service.get(service.location((7, 150)), method="HEAD")
    assert (head.status, head.headers) == (200, answered.headers)


async def test_a_token_is_needed(service: Service) -> None:
    for path in (service.location((7, 150)), "/v1/orders", "/v1/orders/x"):
        answered = await service.get(path, buyer=None)
        assert is_problem(answered, 401, "unauthorized")
        assert answered.headers["www-authenticate"].startswith("Bearer")
    assert service.reads.calls == service.view.calls == []


async def test_anothers_checkout_answers_as_one_that_is_not_there(service: Service) -> None:
    absent = await service.get(f"/v1/checkouts/{CHECKOUT}", buyer="buyer-2")
    service.view.show(created(7, 150))
    service.reads.decisions = [created(7, 150)]
    anothers = await service.get(f"/v1/checkouts/{CHECKOUT}", buyer="buyer-2")
    assert is_problem(absent, 404, "not_found")
    assert (anothers.status, anothers.headers, anothers.body) == (absent.status, absent.headers, absent.body)
    assert "Location" in absent.json["detail"]
    assert (await service.get(f"/v1/checkouts/{CHECKOUT}")).json["status"] == "created"


@pytest.mark.parametrize("text", ["", "x", "AAAA", "ä"])
async def test_a_bad_receipt_is_named(service: Service, text: str) -> None:
    answered = await service.get(f"/v1/checkouts/{CHECKOUT}?receipt={text}")
    assert is_problem(answered, 422, "invalid")
    assert answered.json["errors"][0]["parameter"] == "receipt"


async def test_anothers_receipt_is_bad(service: Service) -> None:
    answered = await service.get(service.location((7, 150)), buyer="buyer-2")
    assert is_problem(answered, 422, "invalid")


async def test_the_last_of_several_receipts_counts(service: Service) -> None:
    location = service.location((7, 150))
    path, _, good = location.partition("?receipt=")
    service.view.show(created(7, 150))
    assert (await service.get(f"{path}?receipt=x&receipt={good}&other=1")).status == 200
    assert is_problem(await service.get(f"{path}?receipt={good}&receipt=x"), 422, "invalid")


async def test_a_checkout_is_only_read(service: Service) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answered = await service.get(service.location((7, 150)), method=method)
        assert is_problem(answered, 405, "method_not_allowed")
        assert set(answered.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert service.view.calls == []


async def test_a_slash_too_many_leads_to_the_checkout(service: Service) -> None:
    path, _, query = service.location((7, 150)).partition("?")
    answered = await service.get(f"{path}/?{query}")
    assert (answered.status, answered.headers["location"]) == (307, f"http://test{path}?{query}")
    assert service.view.calls == []


@pytest.mark.parametrize("path", ["/v1/checkouts", "/v1/checkouts/", f"/v1/checkouts/{CHECKOUT}/lines"])
async def test_beside_a_checkout_is_nothing(service: Service, path: str) -> None:
    answered = await service.get(path)
    assert is_problem(answered, 404, "not_found")
    assert answered.json["detail"] == f"nothing is at {path}"


async def test_a_receipt_may_be_percent_encoded(service: Service) -> None:
    service.view.show(created(7, 150))
    path, _, receipt = service.location((7, 150)).partition("?receipt=")
    encoded = "".join(f"%{ord(character):02X}" for character in receipt)
    plain = await service.get(f"{path}?receipt={receipt}")
    for query in (
        f"receipt={encoded}",
        f"%72eceipt={receipt}",
        f"a=1&receipt={receipt}&b",
        f"&receipt={receipt}",
    ):
        assert await service.get(f"{path}?{query}") == plain


async def test_an_empty_receipt_is_bad_and_another_parameter_is_none(service: Service) -> None:
    service.view.show(created(7, 150))
    for query, status in (("receipt=", 422), ("receipt", 422), ("Receipt=x", 200), ("", 200)):
        assert (await service.get(f"/v1/checkouts/{CHECKOUT}?{query}")).status == status


async def test_head_has_the_head_of_get_whatever_the_answer(service: Service) -> None:
    service.view.shown = {7: Progress(1, 100, 20, 1)}
    queued = service.location((7, 150))
    absent = f"/v1/checkouts/{CHECKOUT}"
    seen = []
    for path, buyer in ((queued, "buyer-1"), (queued, "buyer-2"), (queued, None), (absent, "buyer-1")):
        got = await service.get(path, buyer=buyer)
        head = await service.get(path, buyer=buyer, method="HEAD")
        assert (head.status, head.headers) == (got.status, got.headers)
        assert got.headers["content-length"] == str(len(got.body))
        seen.append(got.status)
    assert seen == [200, 422, 401, 404]


async def test_an_error_that_nobody_expected_goes_to_the_log_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> CheckoutsView:
        raise RuntimeError("planted")

    monkeypatch.setattr(service.view, "checkouts", broken)
    answered = await service.get(service.location((7, 150)))
    assert is_problem(answered, 500, "internal")
    assert b"planted" not in answered.body
    assert "planted" in caplog.text


@pytest.mark.parametrize("name", [CHECKOUT.upper(), CHECKOUT + "0", CHECKOUT.replace("-", ""), "x"])
async def test_what_is_no_id_is_not_there(service: Service, name: str) -> None:
    assert is_problem(await service.get(f"/v1/checkouts/{name}"), 404, "not_found")
    assert is_problem(await service.get(f"/v1/orders/{name}"), 404, "not_found")
    assert service.reads.calls == service.view.calls == []


async def test_both_servers_away_is_503(service: Service) -> None:
    service.reads.down = service.view.down = True
    for path in (service.location((7, 150)), f"/v1/checkouts/{CHECKOUT}", "/v1/orders"):
        answered = await service.get(path)
        assert is_problem(answered, 503, "unavailable")
        assert answered.headers["retry-after"] == "1"
        assert "Postgres" not in answered.json["detail"]


async def test_an_order_is_its_buyers_alone(service: Service) -> None:
    order = stored_order(1)
    service.reads.stored = [order]
    path = f"/v1/orders/{order.order_id}"
    answered = await service.get(path)
    view = msgspec.json.decode(answered.body, type=OrderView)
    assert (view.total.amount, view.total.currency) == ("258", "CNY")
    assert view.number == "20260301-120001-0007-000000000001"
    assert [item.price.amount for item in view.items] == ["129.00"]
    assert answered.headers["cache-control"] == "private, no-cache"
    anothers = await service.get(path, buyer="buyer-2")
    service.reads.stored = []
    assert is_problem(anothers, 404, "not_found")
    assert anothers.body == (await service.get(path)).body


async def test_an_order_of_several_items_made_by_a_command_is_told_whole(service: Service) -> None:
    one = stored_order(1)
    other = msgspec.structs.replace(one.items[0], line=1, product_id="sku-2", price=Decimal("1.50"))
    refunds = [StoredRefund("wx-2", refunded=False), StoredRefund("wx-3", refunded=True)]
    payment = msgspec.structs.replace(one.payment, status="paid", reference="wx-1", refunds=refunds)
    order_id = order_id_of(to_ms(one.created_at), 2, 5 | BY_COMMAND)
    order = msgspec.structs.replace(
        one, order_id=order_id, items=[*one.items, other], payment=payment, sequence=2
    )
    service.reads.stored = [order]
    told = msgspec.json.decode((await service.get(f"/v1/orders/{order_id}")).body, type=OrderView)
    assert [(item.line, item.product_id, item.price.amount) for item in told.items] == [
        (0, "sku-1", "129.00"),
        (1, "sku-2", "1.50"),
    ]
    assert (told.number, told.sequence) == (number_of(order_id), 2)
    assert told.number.endswith("0002-000000000005C")
    assert (told.payment.status, told.payment.reference) == ("paid", "wx-1")
    assert told.payment.refunds == [OrderRefund("wx-2", "due"), OrderRefund("wx-3", "refunded")]


async def test_pages_give_every_order_once_newest_first(service: Service) -> None:
    service.reads.stored = [*(stored_order(i) for i in range(5)), stored_order(9, "buyer-2")]
    seen: list[str] = []
    path: str | None = "/v1/orders?limit=2"
    sizes = []
    while path is not None:
        page = msgspec.json.decode((await service.get(path)).body, type=OrderPage)
        sizes.append(len(page.orders))
        seen += [order.order_id for order in page.orders]
        path = page.next
    assert sizes == [2, 2, 1]
    assert seen == [stored_order(i).order_id for i in (4, 3, 2, 1, 0)]


async def test_a_full_last_page_has_no_next(service: Service) -> None:
    service.reads.stored = [stored_order(i) for i in range(20)]
    answered = await service.get("/v1/orders")
    assert (len(answered.json["orders"]), answered.json["next"]) == (20, None)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "1.0", "", "x", "٣", "1e1", "99999"])
async def test_a_wrong_limit_is_named(service: Service, limit: str) -> None:
    answered = await service.get(f"/v1/orders?limit={limit}")
    assert is_problem(answered, 422, "invalid")
    assert answered.json["errors"][0]["parameter"] == "limit"


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "!" * 22, "A" * 23, "A" * 21 + "B", "ä"])
async def test_a_broken_cursor_is_named(service: Service, cursor: str) -> None:
    answered = await service.get(f"/v1/orders?cursor={cursor}")
    assert is_problem(answered, 422, "invalid")
    assert answered.json["errors"][0]["parameter"] == "cursor"


def test_a_cursor_is_read_back() -> None:
    order_id = stored_order(1).order_id
    assert order_id_of_cursor(cursor_of(order_id)) == order_id
    padded = base64.urlsafe_b64encode(bytes(16)).decode()
    with pytest.raises(Problem):
        order_id_of_cursor(padded)


async def test_wrong_methods_and_paths_are_problems(service: Service) -> None:
    for path in ("/v1/orders", f"/v1/checkouts/{CHECKOUT}", "/openapi.json", "/readyz"):
        answered = await service.get(path, method="POST")
        assert is_problem(answered, 405, "method_not_allowed")
        assert set(answered.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert is_problem(await service.get("/v2"), 404, "not_found")


async def test_ready_while_either_server_answers(service: Service) -> None:
    told = []
    for service.reads.down, service.view.down in ((False, False), (True, False), (False, True), (True, True)):
        answered = await service.get("/readyz", buyer=None)
        told.append((answered.status, answered.json["postgres"], answered.json["cache"]))
    away = "does not answer"
    assert told == [(200, "ok", "ok"), (200, away, "ok"), (200, "ok", away), (503, away, away)]
    assert (await service.get("/livez", buyer=None)).status == 200


async def test_a_database_that_is_not_migrated_is_not_ready_and_the_log_says_what_to_do(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def next_offsets(partitions: Sequence[int]) -> dict[int, int]:
        raise SettingsError("Postgres: no such table; run `sluiceway migrate`")

    monkeypatch.setattr(service.reads, "next_offsets", next_offsets)
    answered = await service.get("/readyz", buyer=None)
    assert (answered.status, answered.json["postgres"], answered.json["cache"]) == (
        503,
        "is not as configured",
        "ok",
    )
    assert [(r.getMessage(), r.exc_info) for r in caplog.records] == [
        ("not ready: Postgres: no such table; run `sluiceway migrate`", None)
    ]


async def test_readiness_waits_for_no_connection_to_be_given_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a Postgres that stands still: the other server is enough, and a load balancer does not wait."""
    given_back = asyncio.Event()

    async def next_offsets(partitions: Sequence[int]) -> dict[int, int]:
        try:
            return await asyncio.Event().wait() and {}
        finally:
            await given_back.wait()

    monkeypatch.setattr(service.reads, "next_offsets", next_offsets)
    answered = await asyncio.wait_for(service.get("/readyz", buyer=None), 10)
    assert (answered.status, answered.json["postgres"], answered.json["cache"]) == (
        200,
        "does not answer",
        "ok",
    )
    given_back.set()


async def test_the_description_is_open_to_all(service: Service) -> None:
    document = await service.get("/openapi.json", buyer=None)
    assert document.json["openapi"] == "3.1.0"
    docs = await service.get("/docs", buyer=None)
    assert docs.headers["content-type"] == "text/html; charset=utf-8"
    assert docs.headers["content-security-policy"].startswith("default-src 'none'")
