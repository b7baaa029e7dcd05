"""Catalogue files: what is written can be read, every error is told with its line, and what is taken in is all or none."""

import asyncio
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import catalogue, catalogue_files
from contracts.asks import ProductLine
from contracts.commands import PutProduct, encode_command
from contracts.errors import Unavailable
from contracts.problems import Problem
from stock_ledger.batch import Product, Stock
from stock_ledger.commands.book import Counts
from stock_ledger.commands.reads import Shelf, StoredCommand
from tests.harness import product_of
from tests.unit.api_fakes import NOW
from tests.unit.api_service import Service, is_problem

MERCHANT: dict[str, Any] = {"buyer": "shop", "token_scope": "merchant"}
CSV: dict[str, Any] = {"media_type": "text/csv; charset=utf-8", **MERCHANT}
NDJSON: dict[str, Any] = {"media_type": "application/x-ndjson", **MERCHANT}
HEAD = "product_id,name,price,currency"

amounts = st.decimals(0, 10**12 - 1, places=2).map(abs)
moments = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001
products = st.builds(
    Product,
    product_id=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=100),
    cover=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    price=amounts,
    currency=st.sampled_from(["CNY", "EUR"]),
    on_shelf=st.booleans(),
    buyer_limit=st.none() | st.integers(1, 10**12),
    payment_ttl_s=st.integers(1, 2**31 - 1),
    version=st.just(1),
    sale_price=st.none() | amounts,
    sale_from=st.none() | moments.filter(lambda moment: moment.year < 2050),
    sale_to=st.none() | moments.filter(lambda moment: moment.year >= 2050),
    stock_source=st.sampled_from([None, "refuse", "trust_local"]),
    slices=st.integers(1, 64),
)
shelves = st.lists(
    st.builds(Shelf, products, st.builds(Stock, st.integers(0, 10**12), st.just(1)), st.just(Counts())),
    min_size=1, max_size=6, unique_by=lambda shelf: shelf.product.product_id,
)  # fmt: skip


def shelf_of(product_id: str) -> Shelf:
    return Shelf(product_of(product_id), Stock(5, 1), Counts(1, 2, 3))


def wrong(
    content: str | bytes, kind: catalogue.Format = "csv", lines_max: int = 100
) -> list[tuple[Any, Any, str]]:
    """(line, field, detail) of each error."""
    body = content.encode() if isinstance(content, str) else content
    with pytest.raises(Problem) as caught:
        catalogue.read(body, kind, lines_max)
    assert caught.value.kind.code == "invalid"
    return [(e["line"], e.get("field"), str(e["detail"])) for e in caught.value.errors or []]


@pytest.mark.parametrize("kind", catalogue.FORMATS)
@given(shelves=shelves)
def test_what_is_written_is_read_as_it_was(kind: catalogue.Format, shelves: list[Shelf]) -> None:
    first, rest = shelves[:1], shelves[1:]
    content = catalogue.write(first, kind, head=True) + catalogue.write(rest, kind, head=False)
    lines = catalogue.read(content, kind, len(shelves))
    assert len(lines) == len(shelves)
    for line, shelf in zip(lines, shelves, strict=True):
        p = shelf.product
        assert (line.product_id, line.name, line.cover, Decimal(line.price)) == (
            p.product_id,
            p.name,
            p.cover,
            p.price,
        )
        assert (line.on_shelf, line.buyer_limit, line.payment_ttl_s) == (
            p.on_shelf,
            p.buyer_limit,
            p.payment_ttl_s,
        )
        assert (None if line.sale_price is None else Decimal(line.sale_price)) == p.sale_price
        assert (line.sale_from, line.sale_to, line.stock) == (p.sale_from, p.sale_to, shelf.stock.available)
        assert (line.stock_source, line.slices) == (p.stock_source, p.slices)


@pytest.mark.parametrize("kind", catalogue.FORMATS)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda t: f"{HEAD}\n{t}".encode()))
def test_whatever_is_in_a_file_it_is_read_or_told_what_is_wrong(
    kind: catalogue.Format, content: bytes
) -> None:
    told: list[Any] = []
    try:
        lines = catalogue.read(content, kind, 10)
    except Problem as problem:
        lines, told = [], list(problem.errors or [])
    ends = content.count(b"\n") + content.count(b"\r")
    assert bool(lines) != bool(told)
    assert all(1 <= error["line"] <= ends + 1 for error in told)


def test_empty_values_are_not_given_and_a_quoted_one_may_go_over_lines() -> None:
    text = f'\ufeff{HEAD},stock,on_shelf,cover\r\np,"Kettle,\r\n""large""",1.50,CNY,,,\r\n\r\nq,Pot,2,CNY,7,FALSE,c\r\n'
    p, q = catalogue.read(text.encode(), "csv", 10)
    assert p == ProductLine(product_id="p", name='Kettle,\r\n"large"', price="1.50", currency="CNY")
    assert (q.stock, q.on_shelf, q.cover) == (7, False, "c")


def test_every_error_of_every_line_is_told_by_line_and_field() -> None:
    text = f'{HEAD},stock\np,Kettle,1.50,CNY,5\np,Pot,1.50,CNY,5\n"q",,free,cny,-1\nr,"a\nb",1\ns,Cup,1,CNY,many\n'
    assert {(line, field) for line, field, _ in wrong(text)} == {
        (3, "product_id"), (4, "name"), (4, "currency"), (4, "price"), (4, "stock"), (5, None), (7, "stock"),
    }  # fmt: skip
    ndjson = '{"product_id":"p"}\n\nnot json\n{"product_id":"q","name":"Cup","price":"1","currency":"CNY","colour":1}\n'
    found = wrong(ndjson, "ndjson")
    assert {(line, field) for line, field, _ in found} == {
        (1, "name"), (1, "price"), (1, "currency"), (3, None), (4, "colour"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("head", "field"),
    [
        ("product_id,name,price", "currency"),
        (f"{HEAD},colour", "colour"),
        (f"{HEAD},name", "name"),
        ("", "product_id"),
    ],
)
def test_a_first_line_that_does_not_name_the_columns(head: str, field: str) -> None:
    told = wrong(f"{head}\np,Kettle,1.50,CNY\n")
    assert (1, field) in [(line, name) for line, name, _ in told]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (f"{HEAD}\n".encode(), 1),
        (b"", 1),
        (f'{HEAD}\np,"Kettle,1.50,CNY\n'.encode(), 2),
        (f"{HEAD}\np,K\xff".encode("latin-1"), 2),
        (f"{HEAD}\np,K,1,CNY\nq,K,1,CNY\nr,K,1,CNY\n".encode(), 4),
    ],
)
def test_a_file_that_cannot_be_taken_as_a_whole(content: bytes, line: int) -> None:
    assert [told[0] for told in wrong(content, "csv", lines_max=2)][-1] == line


def test_errors_beyond_what_is_told_are_not_looked_for() -> None:
    assert len(wrong(b"x\n" * 100_000, "ndjson")) == catalogue.ERRORS_MAX
    assert len(wrong(f"{HEAD}\n" + "x\n" * 100_000)) == catalogue.ERRORS_MAX


def test_a_sale_that_ends_before_it_begins() -> None:
    sale = "2026-11-11T00:00:00Z"
    told = wrong(f"{HEAD},sale_from,sale_to\np,Kettle,1,CNY,{sale},{sale}\n")
    assert [(line, field) for line, field, _ in told] == [(2, "sale_to")]


async def test_a_sale_that_no_writer_could_read_is_told_by_line_and_field() -> None:
    good, early, late = "2026-11-11T00:00:00Z", "0001-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
    told = wrong(f"{HEAD},sale_from,sale_to\np,A,1,CNY,{early},{good}\nq,B,1,CNY,{good},{late}\n")
    assert [(line, field) for line, field, _ in told] == [(2, "sale_from"), (3, "sale_to")]
    line = {"product_id": "p", "name": "A", "price": "1", "currency": "CNY", "sale_to": late}
    service = Service()
    answered = await service.send("POST", "/v1/products/import", line, **NDJSON)
    assert is_problem(answered, 422, "invalid")
    assert [(error["line"], error["field"]) for error in answered.json["errors"]] == [(1, "sale_to")]
    assert service.commands.published == []


async def test_a_file_becomes_a_command_a_line() -> None:
    service = Service()
    answered = await service.send(
        "POST", "/v1/products/import", f"{HEAD}\np,Kettle,1.50,CNY\nq,Pot,2,CNY\n", **CSV
    )
    assert answered.status == 202
    assert answered.json["products"] == 2
    p, q = service.commands.published
    assert isinstance(p, PutProduct)
    assert isinstance(q, PutProduct)
    assert (p.product_id, p.name, p.actor, q.product_id) == ("p", "Kettle", "merchant:shop", "q")
    assert [c["command_id"] for c in answered.json["commands"]] == [p.command_id, q.command_id]
    queued = await service.get(answered.json["commands"][0]["status_url"], **MERCHANT)
    assert queued.json["status"] == "queued"


async def test_the_same_file_under_the_same_key_is_the_same_commands_as_a_put() -> None:
    service = Service()
    key: dict[str, Any] = {"headers": [("Idempotency-Key", "file-1")]}
    for _ in range(2):
        await service.send("POST", "/v1/products/import", f"{HEAD}\np,Kettle,1.50,CNY\n", **CSV, **key)
    whole = {"name": "Kettle", "price": "1.50", "currency": "CNY"}
    await service.send("PUT", "/v1/products/p", whole, **MERCHANT, **key)
    first, *others = service.commands.published
    assert others == [first] * 2


def done(service: Service) -> None:
    """What was published is decided."""
    for offset, command in enumerate(service.commands.published):
        service.command_reads.commands[command.command_id] = StoredCommand(
            command.command_id, "put_product", command.subject(), command.actor, "applied", None, 0, offset, NOW, NOW,
            "", encode_command(command).decode(),
        )  # fmt: skip


async def test_a_file_that_is_done_is_answered_as_the_first_time() -> None:
    service = Service()
    key: dict[str, Any] = {"headers": [("Idempotency-Key", "file-1")]}
    file, more = f"{HEAD}\np,Kettle,1.50,CNY\nq,Pot,2,CNY\n", "r,Cup,1,CNY\n"
    first = await service.send("POST", "/v1/products/import", file, **CSV, **key)
    done(service)
    again = await service.send("POST", "/v1/products/import", file + more, **CSV, **key)
    assert again.status == 202
    names = [command["subject"] for command in again.json["commands"]]
    assert names == ["p", "q", "r"]
    ids = [command["command_id"] for command in again.json["commands"]]
    assert ids[:2] == [command["command_id"] for command in first.json["commands"]]
    assert [command.subject() for command in service.commands.published] == ["p", "q", "r"], (
        "only the new line"
    )


async def test_a_file_that_was_not_acknowledged_is_the_same_commands_under_the_key_that_is_told() -> None:
    service = Service()
    file = f"{HEAD}\np,Kettle,1.50,CNY\nq,Pot,2,CNY\n"
    service.commands.available = False
    failed = await service.send("POST", "/v1/products/import", file, **CSV)
    assert is_problem(failed, 503, "not_acknowledged")
    service.commands.available = True
    key: dict[str, Any] = {"headers": [("Idempotency-Key", failed.json["idempotency_key"])]}
    again = await service.send("POST", "/v1/products/import", file, **CSV, **key)
    assert again.status == 202
    assert failed.json["command_id"] in [c["command_id"] for c in again.json["commands"]]


async def test_another_file_under_the_same_key_is_a_conflict() -> None:
    """Nothing of it is done, not even its new lines."""
    service = Service()
    key: dict[str, Any] = {"headers": [("Idempotency-Key", "file-1")]}
    await service.send("POST", "/v1/products/import", f"{HEAD}\np,Kettle,1.50,CNY\n", **CSV, **key)
    done(service)
    other = f"{HEAD}\nr,Cup,1,CNY\np,Kettle,1.60,CNY\n"
    answered = await service.send("POST", "/v1/products/import", other, **CSV, **key)
    assert is_problem(answered, 422, "idempotency_conflict")
    assert len(service.commands.published) == 1


def test_the_names_of_the_catalogue_are_no_products() -> None:
    assert wrong(f"{HEAD}\nexport,Kettle,1,CNY\n") == [
        (2, "product_id", "export and import are no product ids")
    ]


async def test_nothing_of_a_file_with_an_error_is_taken_in() -> None:
    service = Service()
    bad = await service.send("POST", "/v1/products/import", f"{HEAD}\np,Kettle,1.50,CNY\nq,,2,CNY\n", **CSV)
    assert is_problem(bad, 422, "invalid")
    assert bad.json["errors"] == [{"line": 3, "field": "name", "detail": "this field is required"}]
    assert service.commands.published == []


async def test_who_may_import_what() -> None:
    service = Service()
    good = '{"product_id":"p","name":"Kettle","price":"1","currency":"CNY"}\n'
    path = "/v1/products/import"
    assert (await service.send("POST", path, good, **NDJSON)).status == 202
    assert is_problem(
        await service.send("POST", path, good, **NDJSON | {"token_scope": ""}), 403, "forbidden"
    )
    assert is_problem(await service.send("POST", path, good, **MERCHANT), 415, "unsupported_media_type")
    assert is_problem(await service.get(path, **MERCHANT), 404, "unknown_product")
    service.commands.available = False
    assert is_problem(await service.send("POST", path, good, **NDJSON), 503, "not_acknowledged")
    assert len(service.commands.published) == 1


@pytest.mark.parametrize("who", [{"buyer": None}, {"token_scope": ""}])
async def test_the_file_of_who_may_not_import_is_read_to_its_end_but_not_held(who: dict[str, Any]) -> None:
    service = Service()
    chunk, left = b"x" * 64 * 1024, iter(range(127))
    chunks = (chunk for _ in left)
    tracemalloc.start()
    try:
        answered = await service.send("POST", "/v1/products/import", b"", chunks=chunks, **CSV | who)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answered.status == (401 if "buyer" in who else 403)
    assert next(left, None) is None
    assert held < 2_000_000


async def test_too_large_a_file_of_who_may_not_import_is_not_read_to_its_end() -> None:
    service = Service()
    endless = iter(lambda: b"x" * 64 * 1024, b"")
    answered = await service.send("POST", "/v1/products/import", b"", chunks=endless, **CSV | {"buyer": None})
    assert is_problem(answered, 413, "content_too_large")


async def test_only_some_files_are_held_at_once() -> None:
    service = Service()
    under_way: set[int] = set()
    held: list[int] = []

    async def send(number: int) -> int:
        def chunks() -> Iterator[bytes]:
            for part in (f"{HEAD}\n", f"p{number},", "Kettle,1.50,CNY\n"):
                under_way.add(number)
                held.append(len(under_way))
                yield part.encode()

        answered = await service.send("POST", "/v1/products/import", b"", chunks=chunks(), **CSV)
        under_way.remove(number)
        return answered.status

    assert await asyncio.gather(*map(send, range(6))) == [202] * 6
    assert max(held) == 2


@pytest.mark.parametrize("kind", catalogue.FORMATS)
async def test_everything_is_exported_in_pages(
    monkeypatch: pytest.MonkeyPatch, kind: catalogue.Format
) -> None:
    monkeypatch.setattr(catalogue_files, "EXPORT_PAGE", 2)
    service = Service()
    ids = [f"p{n}" for n in range(5)]
    service.command_reads.shelves = {i: shelf_of(i) for i in ids}
    hidden = service.command_reads.shelves["p3"]
    service.command_reads.shelves["p3"] = msgspec.structs.replace(
        hidden, product=msgspec.structs.replace(hidden.product, on_shelf=False)
    )
    answered = await service.get(f"/v1/products/export?format={kind}", **MERCHANT)
    assert answered.headers["content-disposition"] == f'attachment; filename="products.{kind}"'
    assert answered.headers["content-length"] == str(len(answered.body))
    lines = catalogue.read(answered.body, kind, 100)
    assert [line.product_id for line in lines] == ids
    assert [line.on_shelf for line in lines] == [True, True, True, False, True]
    again = await service.send(
        "POST", "/v1/products/import", answered.body, **(CSV if kind == "csv" else NDJSON)
    )
    assert again.status == 202


async def test_an_export_that_cannot_be() -> None:
    service = Service()
    assert (await service.get("/v1/products/export", **MERCHANT)).body == b""
    assert is_problem(await service.get("/v1/products/export"), 403, "forbidden")
    odd = await service.get("/v1/products/export?format=xml", **MERCHANT)
    assert is_problem(odd, 422, "invalid")
    assert odd.json["errors"][0]["parameter"] == "format"

    async def away(*_: Any, **__: Any) -> list[Shelf]:
        raise Unavailable("Postgres: refused")

    service.command_reads.product_page = away  # type: ignore[method-assign]
    assert is_problem(await service.get("/v1/products/export", **MERCHANT), 503, "unavailable")


async def test_an_export_of_which_a_later_page_fails_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_files, "EXPORT_PAGE", 2)
    service = Service()
    service.command_reads.shelves = {i: shelf_of(i) for i in ("p", "q", "r")}
    page = service.command_reads.product_page

    async def away_later(after: str, limit: int, *, off_shelf_too: bool) -> list[Shelf]:
        if after:
            raise Unavailable("Postgres: refused")
        return await page(after, limit, off_shelf_too=off_shelf_too)

    monkeypatch.setattr(service.command_reads, "product_page", away_later)
    assert is_problem(await service.get("/v1/products/export", **MERCHANT), 503, "unavailable")


def test_an_export_has_products_with_what_all_their_slices_have() -> None:
    part = Shelf(product_of("p~1", slices=2), Stock(3, 1), Counts(1, 1, 1))
    shelf = Shelf(product_of("p", slices=2), Stock(4, 1), Counts(), (part,))
    (line,) = catalogue.read(catalogue.write([shelf], "csv", head=True), "csv", 9)
    assert (line.product_id, line.stock, line.slices) == ("p", 7, 2)


def test_a_line_without_slices_leaves_them_as_they_are() -> None:
    (line,) = catalogue.read(f"{HEAD}\na,A,1,CNY\n".encode(), "csv", 9)
    assert line.slices is None
    assert wrong(f"{HEAD},slices\na,A,1,CNY,0\nb~1,B,1,CNY,2\n")[0][:2] == (2, "slices")
    assert [found[:2] for found in wrong(f"{HEAD},slices\na,A,1,CNY,2\nb~1,B,1,CNY,2\n")] == [
        (3, "product_id")
    ]
