"""From HTTP to the end of commands, on Kafka, Postgres and Valkey: an order's life, and its product's stock."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer

from api import catalogue
from api.app import Asked, Kept, build
from api.payments import sandbox
from api.payments.providers import build as build_providers
from api.publisher import KafkaCommands
from contracts.auth import BearerVerifier
from contracts.kafka import Record, producer_options, send
from contracts.kafka_clients import start_producer
from contracts.receipts import ReceiptSigner
from contracts.settings import Settings
from contracts.topics import Topics, partition_of
from stock_ledger.buyer_fakes import MemoryAddressBook, MemoryCarts
from stock_ledger.commands.reads import PostgresCommandReads
from stock_ledger.pool import connect_pool
from stock_ledger.reads import PostgresReads
from stock_ledger.redis_view import RedisView, connect_redis
from tests.harness import encoded, eventually, line_of, real_writer, running
from tests.unit.api_fakes import SECRET, Answered, call

PRODUCT = "sku-life"
BUYER: dict[str, Any] = {"buyer": "b1"}
MERCHANT: dict[str, Any] = {"buyer": "shop", "token_scope": "merchant"}


class Shop:
    """The api on real servers, asked as its clients ask it."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def ask(
        self, method: str, path: str, body: bytes = b"{}", headers: Sequence[tuple[str, str]] = (), **who: Any
    ) -> str:
        """Ask for something, and wait for its end: "applied", or the reason why not."""
        answered = await call(self.app, path, method=method, body=body, headers=headers, **who)
        assert answered.status == 202, answered.body
        return await self.end_of(answered.json["status_url"], **who)

    async def end_of(self, status_url: str, **who: Any) -> str:
        end: list[Answered] = []

        async def is_decided() -> bool:
            end[:] = [await call(self.app, status_url, **who)]
            assert end[0].status == 200, end[0].body
            return bool(end[0].json["status"] != "queued")

        await eventually(is_decided)
        return str(end[0].json["reason"] or end[0].json["status"])

    async def stock(self) -> tuple[int, int, int]:
        told = (await call(self.app, f"/v1/products/{PRODUCT}/stock", **MERCHANT)).json
        return told["available"], told["pending_payment"], told["paid"]


async def buy(settings: Settings, number: int) -> None:
    producer = AIOKafkaProducer(**producer_options(settings))
    await producer.start()
    try:
        line = line_of(number, PRODUCT, 2, buyer_id=BUYER["buyer"])
        place = partition_of(PRODUCT, settings.partitions)
        records: list[Record] = [(line.partition_key(), encoded(line), [])]
        for _, ack in await send(producer, Topics(settings).checkouts, place, records, 1):
            await ack
    finally:
        await producer.stop()


async def check_files(shop: Shop) -> None:
    """A catalogue file is taken in, and comes out again beside what was there."""
    file = b"product_id,name,price,sale_price,currency,on_shelf,stock\na,Cup,12.00,9.50,CNY,true,7\nb,Pot,80.00,,CNY,false,\n"
    imported = await call(
        shop.app, "/v1/products/import", method="POST", body=file, media_type="text/csv", **MERCHANT
    )
    assert imported.status == 202, imported.body
    for command in imported.json["commands"]:
        await shop.end_of(command["status_url"], **MERCHANT)
    exported = await call(shop.app, "/v1/products/export?format=csv", **MERCHANT)
    a, b, life = catalogue.read(exported.body, "csv", 10)
    assert (a.product_id, a.price, a.sale_price, a.on_shelf, a.stock) == ("a", "12.00", "9.50", True, 7)
    assert (b.product_id, b.sale_price, b.on_shelf, b.stock) == ("b", None, False, 0)
    assert (life.product_id, life.stock) == (PRODUCT, 5)
    shown = (await call(shop.app, "/v1/products?limit=1", buyer=None)).json
    assert [(p["product_id"], p["price"]["amount"]) for p in shown["products"]] == [("a", "9.50")]
    rest = (await call(shop.app, shown["next"], buyer=None)).json
    assert ([p["product_id"] for p in rest["products"]], rest["next"]) == ([PRODUCT], None)


async def check_keys(shop: Shop) -> None:
    """Of two different things asked at once under one key only one is done, and the other is told so."""
    path, key = "/v1/products/a/stock", [("Idempotency-Key", "once")]
    units = (1, 1000)
    both = await asyncio.gather(
        *(
            call(
                shop.app,
                path,
                method="POST",
                body=b'{"kind":"restock","units":%d}' % n,
                headers=key,
                **MERCHANT,
            )
            for n in units
        )
    )
    ends = [
        await shop.end_of(answered.json["status_url"], **MERCHANT)
        if answered.status == 202
        else answered.json["type"].rpartition(":")[2]
        for answered in both
    ]
    assert sorted(ends) == ["applied", "idempotency_conflict"]
    told = (await call(shop.app, path, **MERCHANT)).json
    assert told["available"] == 7 + units[ends.index("applied")]


async def check_slices(shop: Shop, settings: Settings) -> None:
    """The product is split; its buyer and its merchant see one product, and where its units are."""
    path = f"/v1/products/{PRODUCT}"

    async def until(*units: int) -> None:
        async def is_so() -> bool:
            told = (await call(shop.app, f"{path}/stock", **MERCHANT)).json
            return [part["available"] for part in told["slices"]] == list(units)

        await eventually(is_so)

    assert await shop.ask("PATCH", path, b'{"slices":3}', **MERCHANT) == "applied"
    await until(3, 1, 1)
    await buy(settings, 2)  # only the first slice has two, whosever the buyer is
    await until(1, 1, 1)
    assert await shop.stock() == (3, 2, 0)
    [order, _] = (await call(shop.app, "/v1/orders", **BUYER)).json["orders"]
    assert [item["product_id"] for item in order["items"]] == [PRODUCT]
    move = b'{"from":2,"to":0,"units":1}'
    assert await shop.ask("POST", f"{path}/stock/moves", move, **MERCHANT) == "applied"
    await until(2, 1, 0)
    assert await shop.ask("POST", f"{path}/stock/moves", move, **MERCHANT) == "below_committed"
    assert await shop.ask("POST", f"{path}/stock", b'{"kind":"restock","units":7}', **MERCHANT) == "applied"
    await until(5, 3, 2)
    for slices in (1, 2, 4):
        body = b'{"slices":%d}' % slices
        assert await shop.ask("PATCH", path, body, **MERCHANT) == "slices_not_allowed"
    assert await shop.ask("POST", f"/v1/orders/{order['order_id']}/cancel", **BUYER) == "applied"
    await until(7, 3, 2)
    exported = await call(shop.app, "/v1/products/export?format=ndjson", **MERCHANT)
    lines = catalogue.read(exported.body, "ndjson", 10)
    assert [(line.product_id, line.stock, line.slices) for line in lines][-1] == (PRODUCT, 12, 3)
    assert len(lines) == 3


async def test_an_order_is_paid_cancelled_and_its_units_are_back(settings: Settings) -> None:
    settings = msgspec.structs.replace(
        settings, jwt_hs256_secret=SECRET, receipt_secret=SECRET, sandbox_secrets=SECRET
    )
    pool = await connect_pool(settings)
    redis = connect_redis(settings)

    commands = KafkaCommands(lambda: start_producer(settings, "desk"), settings)
    app = build(
        settings, PostgresReads(pool), RedisView(redis, settings), BearerVerifier(settings),
        ReceiptSigner(settings.receipt_secret), lambda: datetime.now(UTC), time.monotonic,
        Kept(MemoryAddressBook(), MemoryCarts(), lambda: uuid.uuid4().hex),
        Asked(commands, PostgresCommandReads(pool), build_providers(settings)),
    )  # fmt: skip
    shop = Shop(app)
    try:
        async with real_writer(settings, "writer") as writer, running(writer):
            whole = b'{"name":"Kettle","price":"129.00","currency":"CNY","stock":1}'
            assert await shop.ask("PUT", f"/v1/products/{PRODUCT}", whole, **MERCHANT) == "applied"
            more = b'{"kind":"restock","units":4}'
            assert await shop.ask("POST", f"/v1/products/{PRODUCT}/stock", more, **MERCHANT) == "applied"
            await buy(settings, 1)
            found: list[Any] = []

            async def is_ordered() -> bool:
                found[:] = await pool.fetch("SELECT order_id FROM orders")
                return bool(found)

            await eventually(is_ordered)
            order_id = str(found[0]["order_id"])
            assert await shop.stock() == (3, 2, 0)
            less = b'{"kind":"adjust","units":-4,"why":"lost"}'
            refused = await shop.ask("POST", f"/v1/products/{PRODUCT}/stock", less, **MERCHANT)
            assert refused == "below_committed"

            paid = sandbox.SandboxEvent(
                id="e1", type="payment.paid", order_id=order_id, payment_id="p1", amount="258.00", currency="CNY",
                occurred_at=datetime.now(UTC),
            ).body()  # fmt: skip
            for _ in range(2):  # a provider tells more than once
                signature = sandbox.sign(paid, [SECRET], datetime.now(UTC))
                told = await call(
                    app, "/v1/payments/callbacks/sandbox", method="POST", body=paid, buyer=None,
                    headers=[(sandbox.HEADER, signature)],
                )  # fmt: skip
                assert told.status < 300

            async def is_paid() -> bool:
                return await shop.stock() == (3, 0, 2)

            await eventually(is_paid)
            once: dict[str, Any] = {"headers": [("Idempotency-Key", "cancel-1")], **BUYER}
            for _ in range(2):  # a retry is told what became of it the first time
                assert await shop.ask("POST", f"/v1/orders/{order_id}/cancel", **once) == "applied"
            assert await shop.stock() == (5, 0, 0)
            shown = (await call(app, f"/v1/orders/{order_id}", **BUYER)).json
            assert (shown["status"], shown["payment"]["status"]) == ("closed_by_user", "refund_due")
            log = (await call(app, f"/v1/orders/{order_id}/events", **BUYER)).json["commands"]
            assert [entry["action"] for entry in log] == ["pay", "cancel"]
            again = await call(app, f"/v1/orders/{order_id}/cancel", method="POST", body=b"{}", **BUYER)
            assert (again.status, again.json["code"]) == (409, "transition_forbidden")
            await check_files(shop)
            await check_keys(shop)
            await check_slices(shop, settings)
    finally:
        await commands.stop()
        await redis.aclose()
        await pool.close()
