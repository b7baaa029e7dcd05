"""Dead letters on a real broker: what was set aside, and again through the pipeline once mended."""

from collections.abc import AsyncIterator

import pytest

from contracts.errors import Invalid
from contracts.settings import Settings
from deploy.deadletters import letters, replay
from stock_ledger.postgres import connect_pool
from stock_ledger.redis_view import connect_redis
from tests.harness import encoded, eventually, line_of, real_writer, running, uuid_of
from tests.integration.audit_sale import Sale


@pytest.fixture
async def sale(settings: Settings) -> AsyncIterator[Sale]:
    pool = await connect_pool(settings)
    redis = connect_redis(settings)
    try:
        opened = Sale(settings, pool, redis)
        await opened.open()
        yield opened
    finally:
        await redis.aclose()
        await pool.close()


async def decide_all(sale: Sale, count: int) -> None:
    async def done() -> bool:
        return await sale.decided() == count

    async with real_writer(sale.settings, "w") as writer, running(writer):
        await eventually(done)


async def kind_of(sale: Sale, number: int) -> list[str]:
    query = 'SELECT kind FROM decisions WHERE checkout_id = $1 ORDER BY partition, "offset"'
    return [row["kind"] for row in await sale.pool.fetch(query, uuid_of(number))]


async def test_none_at_first(sale: Sale) -> None:
    assert await letters(sale.settings) == []


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
    found = await letters(sale.settings)
    assert [letter.place for letter in found] == [(0, 0), (1, 0), (1, 2)]
    assert [bool(letter.still) for letter in found] == [True, True, False]
    assert found[2].reason == "the key is not the product id"
    assert (found[2].key, found[2].value) == (b"another", encoded(misplaced))

    with pytest.raises(Invalid, match="0:0 can still not be decided"):
        await replay(sale.settings, found)
    assert await letters(sale.settings) == found, "nothing was sent"

    assert await replay(sale.settings, [found[2]]) == [(1, 3)]
    assert await replay(sale.settings, [found[1]], encoded(line_of(3, sale.plain))) == [(1, 4)]
    assert await replay(sale.settings, [found[2]]) == [(1, 5)]
    await decide_all(sale, 7)
    assert await kind_of(sale, 2) == ["created", "repeated"]
    assert await kind_of(sale, 3) == ["created"]
    report = await sale.audit(10.0)
    assert report.ok, report.broken()
