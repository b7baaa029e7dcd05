"""The catalogue as a file from the command line, on Kafka, Postgres and Valkey."""

from pathlib import Path

import pytest

from api import catalogue
from contracts.errors import Invalid
from contracts.settings import Settings
from deploy.catalogue import format_of, give_out, take_in
from deploy.local import prepare
from stock_ledger.catalogue import read_products, store
from stock_ledger.commands.reads import PostgresCommandReads
from stock_ledger.pool import connect_pool
from tests.harness import real_writer, running

HEAD = "product_id,name,price,currency,stock\n"


async def test_a_file_is_put_once_and_comes_out_again(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text(HEAD + "".join(f"p{n},Cup {n},{n}.50,CNY,{n}\n" for n in range(1, 251)))
    async with real_writer(settings, "writer") as writer, running(writer):
        for _ in range(2):
            done = await take_in(settings, file, "key-1", 30)
            assert (done.applied, done.refused, done.waiting) == (250, [], 0)
        other = tmp_path / "others.csv"
        other.write_text(f"{HEAD}p1,Cup 1,1.60,CNY,1\np2,Cup 2,2.50,CNY,2\n")
        done = await take_in(settings, other, "key-1", 30)
        assert (done.applied, done.refused) == (1, ["p1: idempotency_conflict"])
    lines = catalogue.read(await give_out(settings, "ndjson"), "ndjson", 1000)
    assert {(line.product_id, line.name, line.price, line.stock) for line in lines} == {
        (f"p{n}", f"Cup {n}", f"{n}.50", n) for n in range(1, 251)
    }


async def test_what_no_worker_decides_is_told_to_wait(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text(f"{HEAD}p,Cup,1,CNY,1\n")
    done = await take_in(settings, file, "", 0.01)
    assert (done.applied, done.refused, done.waiting) == (0, [], 1)


async def test_a_file_that_cannot_be_taken_in_says_why(offline_settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "products.csv"
    file.write_text(f"{HEAD}p,,1,CNY,1\n")
    with pytest.raises(Invalid, match="line 2, name: this field is required"):
        await take_in(offline_settings, file, "", 1)
    with pytest.raises(Invalid, match="No such file"):
        await take_in(offline_settings, tmp_path / "none.csv", "", 1)
    with pytest.raises(Invalid, match="must end in"):
        format_of(tmp_path / "products.xlsx")


async def test_a_sample_leaves_a_catalogue_as_it_is(settings: Settings) -> None:
    cup, mug = (
        read_products(b'{"product_id":"p","name":"%s","price":"1","currency":"CNY","stock":1}' % name)
        for name in (b"Cup", b"Mug")
    )
    names = []
    for products in (cup, mug):
        await prepare(settings, products, (), unless_any=True)
        [line] = catalogue.read(await give_out(settings, "ndjson"), "ndjson", 10)
        names.append(line.name)
    assert names == ["Cup", "Cup"]


async def test_what_is_stored_before_the_first_sale_has_its_second_stock_source(
    database_settings: Settings,
) -> None:
    with_it = (
        b'{"product_id":"p","name":"Cup","price":"1","currency":"CNY","stock":1,"stock_source":"refuse"}'
    )
    pool = await connect_pool(database_settings)
    reads = PostgresCommandReads(pool)
    found = []
    try:
        for ndjson in (with_it, with_it, with_it.replace(b',"stock_source":"refuse"', b"")):
            await store(pool, read_products(ndjson), (), 4)
            [shelf] = await reads.products(["p"])
            found.append((shelf.product.stock_source, shelf.product.version))
    finally:
        await pool.close()
    assert found == [("refuse", 1), ("refuse", 1), (None, 2)]
