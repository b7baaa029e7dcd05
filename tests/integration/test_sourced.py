"""A product with a second stock source on real servers: asked by a writer, given back what came back, compared."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from contracts.commands import Cancel
from deploy.stock import differences
from stock_ledger.upstream.agree import Finding
from stock_ledger.upstream.http import connect_stock_source
from stock_ledger.upstream.source import Outstanding, StockSource
from stock_ledger.upstream.store import PostgresOpen
from tests.desk import asked
from tests.harness import eventually, line_of, real_writer, running
from tests.integration.audit_sale import Sale
from tests.stock_server import Shop, open_shop, says
from workers.making_good import MakingGood


@asynccontextmanager
async def asking(sale: Sale, shop: Shop) -> AsyncIterator[StockSource]:
    """A writer that asks the shop for the hot product."""
    await sale.pool.execute("UPDATE products SET stock_source = 'refuse' WHERE product_id = $1", sale.hot)
    sale.settings = msgspec.structs.replace(
        sale.settings, stock_source_url=shop.url, stock_source_deadline_s=4.0
    )
    async with (
        connect_stock_source(sale.settings) as source,
        real_writer(sale.settings, "w", source) as writer,
        running(writer),
    ):
        yield source


async def decided(sale: Sale, count: int) -> None:
    async def done() -> bool:
        return await sale.decided() == count

    await eventually(done)


async def test_both_sides_agree_after_a_sale_a_fault_and_a_return(sale: Sale) -> None:
    async with open_shop({sale.hot: 5}) as shop:
        async with asking(sale, shop) as source:
            await sale.send([sale.sent(line_of("a", sale.hot, 2)), sale.sent(line_of("plain", sale.plain))])
            await decided(sale, 2)
            shop.after[None] = says(503)  # it has reserved, and does not say so
            await sale.send([sale.sent(line_of("b", sale.hot, 1))])
            await decided(sale, 3)
            shop.after.clear()
            await sale.send([sale.sent(line_of("c", sale.hot, 1))])
            await decided(sale, 4)
            assert shop.stock[sale.hot] == 1
            assert await differences(sale.settings) == [], "what is on its way counts"
            await sale.ask(asked(Cancel, order_id=await sale.order_of("a"), buyer_id="buyer-a"))
            open_ = PostgresOpen(sale.pool)

            async def came_back() -> bool:
                return len((await open_.open(9)).give_back) == 1

            await eventually(came_back)
            await MakingGood(source, open_, sale.settings).round()
            assert await open_.open(9) == Outstanding([], [])
        assert (await open_.local(), shop.stock) == ({sale.hot: 4}, {sale.hot: 4})
        assert await differences(sale.settings) == []
        shop.stock[sale.hot] = 3
        (found,) = await differences(sale.settings)
        assert (found.finding, found.units) == (Finding.SOURCE_HAS_LESS, 1)
    reasons = await sale.pool.fetch("SELECT reason FROM decisions WHERE product_id = $1 ORDER BY 1", sale.hot)
    assert [row["reason"] for row in reasons] == ["stock_source_down", None, None]
    await sale.decide()
    report = await sale.audit(10.0)
    assert report.ok, report.broken()


async def test_what_the_source_does_not_grant_is_refused_for_good_reason(sale: Sale) -> None:
    """It has sold elsewhere what is still offered here: the audit knows the stock here alone."""
    async with open_shop({sale.hot: 1}) as shop, asking(sale, shop):
        await sale.send([sale.sent(line_of(n, sale.hot, 1)) for n in range(2)])
        await decided(sale, 2)
    reasons = await sale.pool.fetch("SELECT reason FROM decisions ORDER BY 1")
    assert [row["reason"] for row in reasons] == ["sold_out", None]
    await sale.decide()
    report = await sale.audit(10.0)
    assert report.ok, report.broken()
    assert report.law("refusals").not_checkable == 1
