"""The audit of commands against real servers: a sale with all of them is proven, and what is planted is found."""

from typing import Any

import msgspec
import orjson
import pytest

from contracts import commands as c
from contracts.commands import Command
from contracts.messages import Money
from stock_ledger.audit.report import AuditReport
from tests.conftest import examples
from tests.harness import line_of, uuid_of
from tests.integration.audit_sale import Sale


def told(report: AuditReport) -> str:
    return str([(law.code, law.deviations[:3]) for law in report.laws if not law.ok])


def command(kind: Any, same: str, **fields: Any) -> Command:
    made: Command = kind(command_id=uuid_of(same), actor="merchant:m", asked_at_ms=1, **fields)
    return made


def payment(order_id: str, units: int, **fields: Any) -> Command:
    values = {
        "provider": "wechat",
        "event_id": f"paid {order_id}",
        "reference": f"ref {order_id}",
        "outcome": "paid",
        "amount": Money(f"{129 * units}.00", "CNY"),
        "occurred_at_ms": 1,
    }
    return command(c.Pay, f"pay {order_id}", order_id=order_id, **(values | fields))


@pytest.fixture
async def commanded(sale: Sale) -> Sale:
    """Orders of one and of several products, cancelled, paid, sent and given back; stock changed; garbage sent."""
    plain, hot = sale.plain, sale.hot
    whole: dict[str, Any] = {"lines": 2, "policy": "all_or_nothing"}
    lines = [line_of(n, plain) for n in ("cancelled", "sent", "closed")]
    lines.append(line_of("limited", hot, 3))
    lines += [line_of("together", p, line=n, **whole) for n, p in enumerate((hot, plain))]
    lines += [line_of("apart", p, q, line=n, **whole) for n, (p, q) in enumerate(((hot, 1), (plain, 9000)))]
    lines += [line_of("given-up", p, line=n, **whole) for n, p in enumerate((hot, plain))]
    await sale.send([sale.sent(line) for line in lines])
    async with sale.producing() as producer:
        garbage = (examples() / "command.bad.nul-in-action.json").read_bytes()
        await producer.send_and_wait(sale.topics.commands, garbage, key=b"k", partition=0)
    await sale.ask(
        command(c.Restock, "more", product_id=plain, units=5),
        command(c.Restock, "more", product_id=plain, units=5),
        command(c.Adjust, "fewer", product_id=plain, units=-2, why="broken"),
        command(c.SetStock, "counted", product_id=hot, total=7),
        command(c.PutProduct, "new", product_id="sku-new", name="N", price="5", currency="CNY", stock=3),
    )
    await sale.decide()
    ids = {
        name: await sale.order_of(name) for name in ("cancelled", "sent", "closed", "together", "given-up")
    }
    await sale.ask(
        command(c.Cancel, "c1", order_id=ids["cancelled"], buyer_id="buyer-cancelled"),
        command(c.Cancel, "c2", order_id=ids["cancelled"], buyer_id="buyer-cancelled"),
        command(c.Cancel, "c3", order_id=ids["given-up"], buyer_id="buyer-given-up"),
        *(payment(ids[name], 1) for name in ("sent", "closed")),
        payment(ids["together"], 2),
        command(c.Pick, "pick", order_id=ids["sent"]),
        command(c.Ship, "ship", order_id=ids["sent"]),
        command(c.Close, "close", order_id=ids["closed"]),
    )
    await sale.decide()
    return sale


async def test_a_sale_with_commands_is_proven(commanded: Sale) -> None:
    await commanded.fold_figures()
    report = await commanded.audit(30.0)
    assert report.ok, told(report)
    of_slices = {"forwards", "slice-moves", "slice-entries", "cache-slices"}
    assert {law.code for law in report.laws if not law.checked} == of_slices
    assert report.law("figures").checked > 0
    t = report.totals
    assert (t.created, t.held, t.orders, t.lost, t.oversold) == (3, 5, 5, 0, 0)
    assert (t.commands["refused"], t.commands["repeated"], t.commands["dead_lettered"]) == (1, 1, 1)


async def test_what_is_planted_in_tables_and_cache_is_found(commanded: Sale) -> None:
    pool, order_id = commanded.pool, await commanded.order_of("sent")
    assert (await commanded.audit()).ok

    async def broken(change: str, back: str, *arguments: object) -> list[str]:
        await pool.execute(change, *arguments)
        report = await commanded.audit()
        await pool.execute(back, *arguments)
        return report.broken()

    assert await broken(
        "UPDATE orders SET status = 'completed' WHERE order_id = $1",
        "UPDATE orders SET status = 'shipped' WHERE order_id = $1",
        order_id,
    ) == ["order-life"]
    hold = "WHERE checkout_id = $1 AND product_id = $2"
    assert await broken(
        f"UPDATE holds SET state = 'pending' {hold}",  # noqa: S608
        f"UPDATE holds SET state = 'paid' {hold}",  # noqa: S608
        uuid_of("together"),
        commanded.plain,
    ) == ["holds", "stock-counts"]
    assert await broken(
        "UPDATE stock SET paid = paid - 1, pending = pending + 1 WHERE product_id = $1",
        "UPDATE stock SET paid = paid + 1, pending = pending - 1 WHERE product_id = $1",
        commanded.plain,
    ) == ["stock-counts"]
    assert await broken(
        "UPDATE ledger SET kind = 'adjust' WHERE kind = 'restock' AND product_id = $1",
        "UPDATE ledger SET kind = 'restock' WHERE kind = 'adjust' AND delta > 0 AND product_id = $1",
        commanded.plain,
    ) == ["entry-causes"]
    assert await broken(
        "UPDATE commands SET document = jsonb_set(document, '{units}', '6') WHERE command_id = $1",
        "UPDATE commands SET document = jsonb_set(document, '{units}', '5') WHERE command_id = $1",
        uuid_of("more"),
    ) == ["command-faithful", "entry-causes"]
    assert await broken(
        "UPDATE refunds SET refunded = true WHERE order_id = $1",
        "UPDATE refunds SET refunded = false WHERE order_id = $1",
        await commanded.order_of("closed"),
    ) == ["refunds"]
    for planted, values in (
        ("stock_source_requests (partition, next_offset, product_id, batch, units)", "0, 99, $1, '0-99', 1"),
        ("stock_source_open (kind, product_id, cause, units, sold)", "'request', $1, '0-99', 1, 1"),
    ):
        table = planted.partition(" ")[0]
        assert await broken(
            f"INSERT INTO {planted} VALUES ({values})",  # noqa: S608
            f"DELETE FROM {table} WHERE product_id = $1",  # noqa: S608
            commanded.plain,
        ) == ["stock-source"]
    assert (await commanded.audit()).ok, "planted deviations were not all taken back"
    await _spoil_the_whole_answer(commanded)


async def _spoil_the_whole_answer(sale: Sale) -> None:
    key = sale.keys.result(uuid_of("together"))
    document = await sale.redis.hget(key, "=")
    assert isinstance(document, bytes)
    assert orjson.loads(document)["status"] == "created"
    await sale.redis.hset(key, "=", document.replace(b'"created"', b'"refused"'))
    report = await sale.audit()
    assert report.broken() == ["cache-results"], told(report)
    assert report.law("cache-results").deviations[0].checkout_id == uuid_of("together")


async def test_a_lost_command_and_an_untold_one_are_found(commanded: Sale) -> None:
    """As if a writer had saved a decision, and neither told of it nor asked for what follows."""
    row = await commanded.pool.fetchrow(
        'SELECT partition, "offset", told FROM commands WHERE action = $1 AND subject = $2',
        "pay",
        await commanded.order_of("together"),
    )
    assert row is not None
    kept = orjson.loads(row["told"])
    asked = msgspec.json.decode(row["told"], type=dict[str, Any])["commands"]
    assert len(asked) == 2
    event = kept["events"][0]
    extra = [[h, v] for h, v in event[2]]
    for header in extra:
        if header[0] == "ce_id":
            header[1] = "Y29tbWFuZC0wLTAtNw=="  # command-0-0-7
    kept["events"].append([event[0], event[1], extra])
    await commanded.pool.execute(
        'UPDATE commands SET told = $1 WHERE partition = $2 AND "offset" = $3',
        orjson.dumps(kept),
        row["partition"],
        row["offset"],
    )
    report = await commanded.audit()
    assert report.broken() == ["order-life", "command-events"], told(report)
    (missing,) = report.law("command-events").deviations
    assert (missing.partition, missing.offset) == (row["partition"], row["offset"])


async def test_commands_that_no_one_decides_are_told(sale: Sale) -> None:
    await sale.ask(command(c.Restock, "more", product_id=sale.plain, units=5))
    report = await sale.audit(0.5)
    assert report.broken() == ["commands-drained"], told(report)
    assert report.totals.lost == 1
