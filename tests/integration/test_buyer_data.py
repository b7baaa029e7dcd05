"""A buyer's data on real servers: given out whole, erased everywhere, and the books still add up."""

import gzip
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from contracts.commands import Cancel, Close
from contracts.errors import Invalid
from deploy import buyer
from deploy.processes import now
from deploy.retention import retain
from stock_ledger import buyer_data
from tests.harness import NOON, line_of, uuid_of
from tests.integration.audit_sale import Sale
from tests.integration.test_audit import told
from tests.integration.test_retention import DAYS, end_period

EVE = "buyer-eve-7f"
HERS: dict[str, Any] = {"buyer_id": EVE, "note": "ring twice"}


@pytest.fixture
def kept(sale: Sale, tmp_path: Path) -> Sale:
    sale.settings = msgspec.structs.replace(
        sale.settings, retention_days=DAYS, archive_dir=str(tmp_path / "archive")
    )
    return sale


async def buy(sale: Sale, *names: str) -> None:
    """A single line of the limited product, and both products or nothing, under each name."""
    whole: dict[str, Any] = {**HERS, "policy": "all_or_nothing", "lines": 2}
    for name in names:
        lines = [
            line_of(f"{name}-single", sale.hot, 1, **HERS),
            line_of(f"{name}-whole", sale.hot, 1, line=0, **whole),
            line_of(f"{name}-whole", sale.plain, 3, line=1, **whole),
        ]
        await sale.send([sale.sent(line) for line in lines])
    await sale.send([sale.sent(line_of(f"other-{names[0]}", sale.plain, 1))])
    await sale.decide()


async def cancel_all(sale: Sale) -> None:
    """Every order that waits is ended by its buyer, or the merchant."""
    for row in await sale.pool.fetch(
        "SELECT order_id::text, buyer_id FROM orders WHERE status = 'pending_payment'"
    ):
        order_id, buyer_id = row
        base = {"command_id": uuid_of(f"end {order_id}"), "asked_at_ms": 1, "order_id": order_id}
        if buyer_id == EVE:
            await sale.ask(Cancel(**base, actor=f"buyer:{EVE}", buyer_id=EVE))
        else:
            await sale.ask(Close(**base, actor="merchant:m"))
    await sale.decide()


async def test_a_buyer_is_exported_and_erased(kept: Sale) -> None:
    await buy(kept, "first")
    await cancel_all(kept)
    assert len((await retain(kept.settings, await end_period(kept))).dropped) == 1
    await buy(kept, "second")
    await kept.pool.execute("INSERT INTO addresses VALUES ($1, 'home', 'Eve', '123', 'Here')", EVE)
    await kept.pool.execute("INSERT INTO carts VALUES ($1, $2, 1, $3, $3)", EVE, kept.plain, NOON)
    with pytest.raises(Invalid, match="4 orders, holds and lines of buyer-eve-7f have not ended"):
        await buyer.erase(kept.settings, EVE)
    await cancel_all(kept)
    await _is_exported(kept)

    erased = await buyer.erase(kept.settings, EVE)
    assert erased.rows["orders"] == 2
    assert len(erased.archived) == 1
    assert erased.cache_keys
    await _is_nowhere(kept)
    assert (await buyer.erase(kept.settings, EVE)).pseudonym == ""
    others = await kept.pool.fetch("SELECT contact_name FROM orders WHERE buyer_id <> $1", erased.pseudonym)
    assert {row["contact_name"] for row in others} == {"Li Lei"}
    report = await kept.audit()
    assert report.ok, told(report)
    await kept.pool.execute(
        "UPDATE decisions SET quantity = 9 WHERE buyer_id = $1 AND kind = 'created'", erased.pseudonym
    )
    assert "decision-faithful" in (await kept.audit(0.0)).broken()
    await kept.pool.execute(
        "UPDATE decisions SET quantity = 1 WHERE buyer_id = $1 AND kind = 'created'", erased.pseudonym
    )

    await kept.send([kept.sent(line_of("third", kept.hot, 2, **HERS))])  # the limit of 2 counts from zero
    await kept.decide()
    assert await kept.order_of("third")
    with pytest.raises(Invalid, match="have not ended"):
        await buyer.erase(kept.settings, EVE)
    assert (await buyer.erase(kept.settings, EVE, force=True)).rows["orders"] == 1
    report = await kept.audit()
    assert report.ok, told(report)


async def _is_exported(sale: Sale) -> None:
    document = orjson.loads(orjson.dumps(await buyer.export(sale.settings, EVE, now()), default=str))
    counts = {table: len(rows) for table, rows in document.items() if isinstance(rows, list)}
    assert counts["orders"] == counts["payments"] == 2
    assert counts["order_items"] == counts["decisions"] == 3
    assert counts["holds"] == 2
    assert counts["gatherings"] == counts["addresses"] == counts["carts"] == 1
    assert {command["action"] for command in document["commands"]} >= {"cancel", "hold_answer"}
    assert {order["note"] for order in document["orders"]} == {"ring twice"}
    (archived,) = document["archived"].values()
    assert len(archived["orders"]) == 2
    assert "other" not in str(document)


async def _is_nowhere(sale: Sale) -> None:
    tables = await sale.pool.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    for (table,) in tables:
        found = await sale.pool.fetchval(
            f"SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%' || $1 || '%' OR t::text LIKE '%ring twice%'",  # noqa: S608
            EVE,
        )
        assert not found, table
    commands = await sale.pool.fetch("SELECT * FROM commands")
    assert EVE not in str(buyer_data.document_of({"commands": [dict(row) for row in commands]}))
    contents = _archived(sale)
    assert len(contents) == 9
    assert not [name for name, content in contents.items() if EVE.encode() in content]
    shown = [
        await sale.redis.exists(sale.keys.result(uuid_of(f"second-{kind}"))) for kind in ("single", "whole")
    ]
    assert shown == [0, 0]


def _archived(sale: Sale) -> dict[str, bytes]:
    files = Path(sale.settings.archive_dir).rglob("*.csv.gz")
    return {file.name: gzip.decompress(file.read_bytes()) for file in files}
