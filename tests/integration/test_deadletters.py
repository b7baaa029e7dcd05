"""Dead letters on a real broker: what was set aside, and again through the pipeline once mended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.commands import Restock, encode_command
from contracts.errors import Invalid
from contracts.slices import slice_of_buyer
from contracts.topics import Stream, Topics, partition_of
from deploy.deadletters import letters, replay
from tests.desk import asked
from tests.harness import (
    encoded,
    eventually,
    insert_product,
    line_of,
    product_of,
    real_writer,
    running,
    uuid_of,
)
from tests.integration.audit_sale import Sale

_PICK = (
    b'"action": "pick", "actor": "merchant:m", "asked_at_ms": 1, "command_id": "%s"}' % uuid_of(9).encode()
)


async def decide_all(sale: Sale, count: int) -> None:
    async def done() -> bool:
        return await sale.decided() == count

    async with real_writer(sale.settings, "w") as writer, running(writer):
        await eventually(done)


def called(sale: Sale, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`sluiceway deadletters`, done."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "deadletters", *arguments],
        env=os.environ | sale.settings.as_env() | {"COLUMNS": "200"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def cli(sale: Sale, *arguments: str) -> tuple[int, str]:
    """Its exit code and output."""
    done = called(sale, *arguments)
    return done.returncode, done.stdout + done.stderr


async def kind_of(sale: Sale, number: int) -> list[str]:
    query = 'SELECT kind FROM decisions WHERE checkout_id = $1 ORDER BY partition, "offset"'
    return [row["kind"] for row in await sale.pool.fetch(query, uuid_of(number))]


async def test_none_at_first(sale: Sale) -> None:
    assert await letters(sale.settings) == ([], [])


async def test_what_was_set_aside_goes_through_once_mended(sale: Sale) -> None:
    good = line_of(1, sale.plain)
    misplaced = line_of(2, sale.plain)  # decodable, but sent under another product's key
    await sale.send(
        [
            (1, sale.plain.encode(), b"{"),
            sale.sent(good),
            (1, b"another", encoded(misplaced)),
            (0, b"k", b"\xff"),
        ]
    )
    await decide_all(sale, 4)
    found, _ = await letters(sale.settings)
    assert [letter.where for letter in found] == ["0:0", "1:0", "1:2"]
    assert [bool(letter.still) for letter in found] == [True, True, False]
    assert found[2].reason == "the key is not the product id"
    assert (found[2].key, found[2].value) == (b"another", encoded(misplaced))

    with pytest.raises(Invalid, match="0:0 can still not be decided"):
        await replay(sale.settings, found)
    assert (await letters(sale.settings))[0] == found, "nothing was sent"

    assert await replay(sale.settings, [found[2]]) == [(Stream.CHECKOUTS, 1, 3)]
    assert await replay(sale.settings, [found[1]], encoded(line_of(3, sale.plain))) == [
        (Stream.CHECKOUTS, 1, 4)
    ]
    assert await replay(sale.settings, [found[2]]) == [(Stream.CHECKOUTS, 1, 5)]
    await decide_all(sale, 7)
    assert await kind_of(sale, 2) == ["created", "repeated"]
    assert await kind_of(sale, 3) == ["created"]
    report = await sale.audit(10.0)
    assert report.ok, report.broken()


async def test_a_line_of_a_slice_goes_back_to_the_writer_of_the_slice(sale: Sale) -> None:
    slice_1 = f"{sale.plain}~1"
    place = partition_of(slice_1, sale.settings.partitions)
    await insert_product(sale.pool, product_of(slice_1, slices=2), 5, 1, place)
    await sale.pool.execute("UPDATE products SET slices = 2")
    buyer = next(name for name in map(str, range(99)) if slice_of_buyer(name, 2) == 1)
    line, mended = (line_of(n, sale.plain, slice=1, buyer_id=buyer) for n in (2, 3))
    await sale.send([(1, sale.plain.encode(), encoded(line)), (1, b"k", b"{")])
    await decide_all(sale, 2)
    found, _ = await letters(sale.settings)
    assert [bool(letter.still) for letter in found] == [False, True]
    assert await replay(sale.settings, [found[0]]) == [(Stream.CHECKOUTS, place, 0)]
    assert await replay(sale.settings, [found[1]], encoded(mended)) == [(Stream.CHECKOUTS, place, 1)]
    await decide_all(sale, 4)
    assert await kind_of(sale, 2) == await kind_of(sale, 3) == ["created"]


async def test_the_command_line_lists_shows_and_replays(sale: Sale, tmp_path: Path) -> None:
    assert cli(sale, "list") == (0, "no dead letters\n")
    await sale.send([(1, b"another", encoded(line_of(2, sale.plain))), (0, b"k", b"[broken")])
    await decide_all(sale, 2)
    code, shown = cli(sale, "list")
    assert code == 0
    assert "0:0" in shown
    assert "the key is not the product id" in shown
    assert "can be replayed" in shown
    code, shown = cli(sale, "show", "0:0")
    assert (code, "[broken" in shown) == (0, True)
    assert called(sale, "show", "0:0").stdout == "[broken", "a file to mend it in"
    code, shown = cli(sale, "show", "3:7")
    assert (code, "no dead letter is of 3:7" in shown) == (1, True)
    code, shown = cli(sale, "replay", "0:0")
    assert (code, "can still not be decided" in shown) == (1, True)
    assert cli(sale, "replay", "--all") == (0, "1:0 is again in the log, at 1:1\n")
    mended = tmp_path / "mended.json"
    mended.write_bytes(encoded(line_of(3, sale.plain)))
    assert cli(sale, "replay", "0:0", "--value", str(mended)) == (0, "0:0 is again in the log, at 1:2\n")
    await decide_all(sale, 4)
    assert await kind_of(sale, 2) == await kind_of(sale, 3) == ["created"]
    code, shown = cli(sale, "replay", "--all", "--value", str(mended))
    assert (code, "name one place" in shown) == (2, True)


async def test_what_is_no_dead_letter_hides_none(sale: Sale) -> None:
    """Anyone may put anything into the topic, which keeps it for ever."""
    good = (1, b"another", encoded(line_of(2, sale.plain)))
    await sale.send([good])
    await decide_all(sale, 1)
    strays: list[list[tuple[str, bytes | None]]] = [
        [],
        [("partition", None), ("offset", b"0")],
        [("partition", b"1"), ("offset", b"[red]\x1b")],
        [("partition", b"1"), ("offset", b"0"), ("stream", b"nowhere")],
    ]
    async with sale.producing() as producer:
        for headers in strays:
            await producer.send_and_wait(sale.topics.dead_letters, b"x", partition=2, headers=headers)
    code, shown = cli(sale, "list")
    assert code == 0
    assert "can be replayed" in shown
    for number, why in enumerate(["no header 'partition'", "b''", "[red]\\x1b", "'nowhere' is not a valid"]):
        (row,) = [line for line in shown.splitlines() if f"dead-letters:2:{number}" in line]
        assert "no dead letter: " in row
        assert why in row
    for command in ("show", "replay"):
        code, shown = cli(sale, command, "dead-letters:2:0")
        assert (code, "at dead-letters:2:0 is no dead letter: it has no header" in shown) == (1, True)
    assert called(sale, "show", "1:0").stdout.encode() == good[2]
    code, shown = cli(sale, "replay", "--all")
    assert (code, shown.count("is left out, no dead letter")) == (0, 4)
    assert shown.endswith("1:0 is again in the log, at 1:1\n")


async def test_a_command_goes_back_to_the_commands(sale: Sale) -> None:
    """Letters of both streams, from equal places; those of before there were streams have no header for theirs."""
    restock = asked(Restock, product_id=sale.hot, units=7)
    line = line_of(1, sale.hot)
    topics = Topics(sale.settings)
    async with sale.producing() as producer:
        for value, key in ((b"{", b"k"), (encode_command(restock), b"another")):
            await producer.send_and_wait(topics.commands, value, key=key, partition=0)
        header = [("partition", b"0"), ("offset", b"0"), ("reason", b"the key is not the product id")]
        await producer.send_and_wait(
            topics.dead_letters, encoded(line), key=b"k", partition=0, headers=header
        )
    await sale.decide()
    found, _ = await letters(sale.settings)
    assert [(letter.where, bool(letter.still)) for letter in found] == [
        ("0:0", False),
        ("commands:0:0", True),
        ("commands:0:1", False),
    ]
    assert (found[2].key, found[2].value) == (b"another", encode_command(restock))
    with pytest.raises(Invalid, match="commands:0:0 can still not be decided"):
        await replay(sale.settings, found)
    assert await replay(sale.settings, [found[2], found[0], found[2]]) == [
        (Stream.COMMANDS, 0, 2),
        (Stream.CHECKOUTS, 0, 0),
        (Stream.COMMANDS, 0, 3),
    ]
    other = asked(Restock, product_id=sale.plain, units=1)
    assert await replay(sale.settings, [found[1]], encode_command(other)) == [(Stream.COMMANDS, 1, 0)]
    elsewhere = b'{"order_id": "ffffffff-ffff-8fff-bfff-ffffffffffff", ' + _PICK
    with pytest.raises(Invalid, match="not an order of these partitions"):
        await replay(sale.settings, [found[1]], elsewhere)
    code, shown = cli(sale, "replay", "commands:0:1")
    assert (code, shown) == (0, "commands:0:1 is again in the log, at commands:0:4\n")
    code, shown = cli(sale, "show", "commands:0:0")
    assert (code, "{" in shown) == (0, True)
    await sale.decide()
    query = 'SELECT partition, outcome FROM commands ORDER BY partition, "offset"'
    assert [tuple(row) for row in await sale.pool.fetch(query)] == [
        (0, "dead_lettered"), (0, "dead_lettered"), (0, "applied"), (0, "repeated"), (0, "repeated"), (1, "applied")
    ]  # fmt: skip
    units = {row["product_id"]: row["available"] for row in await sale.pool.fetch("SELECT * FROM stock")}
    assert units == {sale.hot: 5 + 7 - 1, sale.plain: 1001}
