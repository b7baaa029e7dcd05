"""What merchants ask of products and stock over HTTP, and what everyone is shown."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from contracts.commands import (
    Adjust,
    Move,
    PatchProduct,
    PutProduct,
    Restock,
    SetStock,
    encode_command,
    read_command,
)
from contracts.topics import partition_of
from stock_ledger.batch import Stock
from stock_ledger.commands.book import Counts
from stock_ledger.commands.reads import Shelf
from tests.harness import product_of
from tests.unit.api_service import Service, is_problem

MERCHANT = {"buyer": "shop", "token_scope": "profile merchant"}


@pytest.fixture
def service() -> Service:
    made = Service()
    made.command_reads.shelves["p"] = Shelf(product_of("p"), Stock(5, 4), Counts(1, 2, 3))
    return made


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
        "slices": [{"slice": 0, "available": 5, "held": 1, "pending_payment": 2, "paid": 3, "total": 11}],
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


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "p"), ("PATCH", "p"), ("POST", "p/stock"), ("POST", "p/stock/moves")]
)
@pytest.mark.parametrize("body", ['{"no": "field"}', "no JSON", '{"sale_to": "1960-01-01T00:00:00Z"}'])
async def test_what_is_wrong_is_only_told_to_who_may_ask(
    service: Service, method: str, path: str, body: str
) -> None:
    path = f"/v1/products/{path}"
    assert is_problem(await service.send(method, path, body, buyer=None), 401, "unauthorized")
    assert is_problem(await service.send(method, path, body), 403, "forbidden")


async def test_what_sells_is_shown_to_everyone_and_the_rest_to_merchants(service: Service) -> None:
    shelf = service.command_reads.shelves["p"]
    service.command_reads.shelves["q"] = Shelf(product_of("q", on_shelf=False), shelf.stock, shelf.counts)
    answered = await service.get("/v1/products/p", buyer=None)
    assert (answered.status, answered.headers["cache-control"]) == (200, "public, max-age=1")
    assert is_problem(await service.get("/v1/products/q", buyer=None), 404, "unknown_product")
    assert is_problem(await service.get("/v1/products/q"), 404, "unknown_product")
    shown = await service.get("/v1/products/q", **MERCHANT)
    assert (shown.status, shown.headers["cache-control"]) == (200, "private, no-cache")
    for path in ("/v1/products", "/v1/products/p"):
        bad = await service.get(path, buyer=None, headers=[("Authorization", "Bearer x")])
        assert is_problem(bad, 401, "unauthorized")
    assert [p["product_id"] for p in (await service.get("/v1/products", buyer=None)).json["products"]] == [
        "p"
    ]
    assert len((await service.get("/v1/products", **MERCHANT)).json["products"]) == 2


@pytest.mark.parametrize("policy", [None, "refuse", "trust_local"])
async def test_a_second_stock_source_is_shown(service: Service, policy: str | None) -> None:
    shelf = service.command_reads.shelves["p"]
    product = product_of("p", stock_source=policy)
    service.command_reads.shelves["p"] = msgspec.structs.replace(shelf, product=product)
    assert (await service.get("/v1/products/p", buyer=None)).json["stock_source"] == policy


async def test_products_come_in_pages(service: Service) -> None:
    shelf = service.command_reads.shelves["p"]
    service.command_reads.shelves = {
        f"p{n}": Shelf(product_of(f"p{n}"), shelf.stock, shelf.counts) for n in range(5)
    }
    url: str | None = "/v1/products?limit=2"
    seen = []
    while url is not None:
        page = (await service.get(url, buyer=None)).json
        seen.append([product["product_id"] for product in page["products"]])
        url = page["next"]
    assert seen == [["p0", "p1"], ["p2", "p3"], ["p4"]]
    for query, name in (("limit=0", "limit"), ("cursor=a%20b", "cursor")):
        bad = await service.get(f"/v1/products?{query}", buyer=None)
        assert is_problem(bad, 422, "invalid")
        assert bad.json["errors"][0]["parameter"] == name


async def test_what_is_not_there_is_put_but_neither_patched_nor_stocked(service: Service) -> None:
    whole = {"name": "Kettle", "price": "159.00", "currency": "CNY"}
    assert (await service.send("PUT", "/v1/products/new", whole, **MERCHANT)).status == 202
    change = {"kind": "restock", "units": 1}
    for method, path, content in (("PATCH", "new", {}), ("POST", "new/stock", change)):
        answered = await service.send(method, f"/v1/products/{path}", content, **MERCHANT)
        assert is_problem(answered, 404, "unknown_product")
    assert is_problem(
        await service.send("PUT", "/v1/products/a%20b", whole, **MERCHANT), 404, "unknown_product"
    )
    assert len(service.commands.published) == 1


async def test_a_patch_is_a_merge_patch(service: Service) -> None:
    patch = {"sale_price": None, "on_shelf": False}
    how: dict[str, Any] = {"media_type": "application/merge-patch+json; charset=utf-8", **MERCHANT}
    assert (await service.send("PATCH", "/v1/products/p", patch, **how)).status == 202
    [command] = service.commands.published
    assert isinstance(command, PatchProduct)
    assert (command.sale_price, command.on_shelf, command.sale_from) == (None, False, msgspec.UNSET)
    cleared = await service.send("PATCH", "/v1/products/p", {"name": None}, **MERCHANT)
    assert is_problem(cleared, 422, "invalid")
    assert [error["pointer"] for error in cleared.json["errors"]] == ["#/name"]
    other = await service.send("PATCH", "/v1/products/p", patch, media_type="text/plain", **MERCHANT)
    assert is_problem(other, 415, "unsupported_media_type")


async def test_a_sale_that_ends_before_it_begins(service: Service) -> None:
    sale = {"sale_from": "2026-11-11T00:00:00Z", "sale_to": "2026-11-11T00:00:00Z"}
    whole = {"name": "Kettle", "price": "159.00", "currency": "CNY", **sale}
    answered = await service.send("PUT", "/v1/products/p", whole, **MERCHANT)
    assert is_problem(answered, 422, "invalid")
    assert [error["pointer"] for error in answered.json["errors"]] == ["#/sale_to"]


@pytest.mark.parametrize("year", ["0001", "1960", "2100", "9999"])
@pytest.mark.parametrize("name", ["sale_from", "sale_to"])
async def test_a_sale_that_no_writer_could_read_is_refused(service: Service, name: str, year: str) -> None:
    sale = {name: f"{year}-11-11T00:00:00Z"}
    whole = {"name": "Kettle", "price": "159.00", "currency": "CNY"}
    for method, content in (("PUT", whole | sale), ("PATCH", sale)):
        answered = await service.send(method, "/v1/products/p", content, **MERCHANT)
        assert is_problem(answered, 422, "invalid")
        assert [error["pointer"] for error in answered.json["errors"]] == [f"#/{name}"]
    assert service.commands.published == []


async def test_whatever_is_published_can_be_read(service: Service) -> None:
    """Whichever route it came by."""
    sale = {"sale_from": "1970-01-01T00:00:00Z", "sale_to": "2099-12-31T23:59:59Z"}
    whole = {"name": "Kettle", "price": "159.00", "currency": "CNY"}
    for method, path, content in (
        ("PUT", "p", whole | sale),
        ("PATCH", "p", sale),
        ("POST", "p/stock", {"kind": "adjust", "units": 1, "why": "counted"}),
        ("POST", "p/stock/moves", {"from": 0, "to": 1, "units": 1}),
    ):
        answered = await service.send(method, f"/v1/products/{path}", content, **MERCHANT)
        assert answered.status == 202
        command = service.commands.published[-1]
        assert read_command(encode_command(command)) == command


async def test_a_patch_may_not_end_a_sale_before_it_begins(service: Service) -> None:
    """Of either end, and of what is there already."""
    [before, at, after] = [f"2026-11-1{day}T00:00:00Z" for day in (1, 2, 3)]
    there = service.command_reads.shelves["p"]
    begins = msgspec.structs.replace(there.product, sale_from=datetime(2026, 11, 12, tzinfo=UTC))
    service.command_reads.shelves["p"] = msgspec.structs.replace(there, product=begins)
    for wrong in ({"sale_to": before}, {"sale_to": at}, {"sale_from": after, "sale_to": before}):
        answered = await service.send("PATCH", "/v1/products/p", wrong, **MERCHANT)
        assert is_problem(answered, 422, "invalid")
        assert [error["pointer"] for error in answered.json["errors"]] == ["#/sale_to"]
    for right in ({"sale_to": after}, {"sale_from": None, "sale_to": before}, {"name": "Pot"}):
        assert (await service.send("PATCH", "/v1/products/p", right, **MERCHANT)).status == 202


@pytest.mark.parametrize("product_id", ["export", "import"])
async def test_what_is_the_catalogue_as_a_file_is_no_product(service: Service, product_id: str) -> None:
    whole = {"name": "Kettle", "price": "159.00", "currency": "CNY"}
    answered = await service.send("PUT", f"/v1/products/{product_id}", whole, **MERCHANT)
    assert is_problem(answered, 404, "unknown_product")
    assert "no product ids" in answered.json["detail"]


def sliced(product_id: str = "p") -> Shelf:
    """5 and 3 units available."""
    part = Shelf(product_of(f"{product_id}~1", slices=2), Stock(3, 2), Counts(0, 1, 4))
    return Shelf(product_of(product_id, slices=2), Stock(5, 4), Counts(1, 2, 3), (part,))


async def test_the_units_of_a_product_with_slices_are_told_in_all_and_of_each(service: Service) -> None:
    service.command_reads.shelves["p"] = sliced()
    assert (await service.get("/v1/products/p/stock", **MERCHANT)).json == {
        "product_id": "p", "available": 8, "held": 1, "pending_payment": 3, "paid": 7, "total": 19,
        "slices": [
            {"slice": 0, "available": 5, "held": 1, "pending_payment": 2, "paid": 3, "total": 11},
            {"slice": 1, "available": 3, "held": 0, "pending_payment": 1, "paid": 4, "total": 8},
        ],
    }  # fmt: skip
    shown = (await service.get("/v1/products/p", buyer=None)).json
    assert (shown["available"], shown["slices"]) == (8, 2)


async def test_a_product_that_is_being_split_has_its_units_in_the_first_slice(service: Service) -> None:
    """The second one has taken over, the third one has not."""
    part = Shelf(product_of("p~1", slices=3), Stock(0, 1), Counts())
    product = product_of("p", slices=3, slices_open=False)
    service.command_reads.shelves["p"] = Shelf(product, Stock(5, 4), Counts(1, 2, 3), (part,))
    stock = (await service.get("/v1/products/p/stock", **MERCHANT)).json
    assert [(part["slice"], part["available"], part["total"]) for part in stock["slices"]] == [
        (0, 5, 11),
        (1, 0, 0),
    ]
    assert (stock["available"], stock["total"]) == (5, 11)


async def test_units_are_moved_between_slices(service: Service) -> None:
    service.command_reads.shelves["p"] = sliced()
    body = {"from": 1, "to": 0, "units": 2, "why": "sells faster"}
    answered = await service.send("POST", "/v1/products/p/stock/moves", body, **MERCHANT)
    assert answered.status == 202
    [command] = service.commands.published
    assert isinstance(command, Move)
    assert (command.slice, command.to, command.units, command.why) == (1, 0, 2, "sells faster")
    assert answered.json["partition"] == partition_of("p~1", 16)
    assert (answered.json["action"], answered.json["subject"]) == ("move", "p")
    assert is_problem(await service.send("POST", "/v1/products/p/stock/moves", body), 403, "forbidden")
    unknown = await service.send("POST", "/v1/products/q/stock/moves", body, **MERCHANT)
    assert is_problem(unknown, 404, "unknown_product")
    for name, value in (("from", -1), ("to", 64), ("units", 0)):
        wrong = await service.send("POST", "/v1/products/p/stock/moves", body | {name: value}, **MERCHANT)
        assert is_problem(wrong, 422, "invalid")
        assert [error["pointer"] for error in wrong.json["errors"]] == [f"#/{name}"]


async def test_slices_are_put_and_patched_and_are_no_products(service: Service) -> None:
    whole = {"name": "Kettle", "price": "159.00", "currency": "CNY", "slices": 4}
    assert (await service.send("PUT", "/v1/products/p", whole, **MERCHANT)).status == 202
    assert (await service.send("PATCH", "/v1/products/p", {"slices": 8}, **MERCHANT)).status == 202
    put_, patched = service.commands.published
    assert isinstance(put_, PutProduct)
    assert isinstance(patched, PatchProduct)
    assert (put_.slices, patched.slices) == (4, 8)
    for value in (0, 65, None):
        wrong = await service.send("PATCH", "/v1/products/p", {"slices": value}, **MERCHANT)
        assert is_problem(wrong, 422, "invalid")
    service.command_reads.shelves["p~1"] = sliced().others[0]
    assert is_problem(await service.get("/v1/products/p~1", **MERCHANT), 404, "unknown_product")
    assert is_problem(await service.get("/v1/products/p~1/stock", **MERCHANT), 404, "unknown_product")
