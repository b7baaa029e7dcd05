"""What clients of ingest get, over RSGI, on fakes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from contracts import kafka_clients
from contracts.errors import SettingsError
from contracts.messages import decode_checkout_line
from contracts.settings import Settings
from contracts.topics import partition_of
from stock_ledger.batch import Stock
from stock_ledger.view import Progress, Shown
from tests.harness import eventually, product_of
from tests.unit.ingest_fakes import NOW_MS, Edge

ONE: dict[str, Any] = {"items": [{"product_id": "sku-1", "quantity": 1}], "address_id": "home"}


@pytest.fixture
def edge(offline_settings: Settings) -> Edge:
    return Edge(msgspec.structs.replace(offline_settings, produce_ack_deadline_s=0.3))


def keyed(key: str) -> dict[str, Any]:
    return {"headers": {"idempotency-key": key}}


async def show_sold_out(edge: Edge, product_id: str, beat: int = 1) -> None:
    """By a writer that is seen to live."""
    partition = partition_of(product_id, edge.settings.partitions)
    for now in (beat - 1, beat):
        progress = Progress(1, 5, 0, now)
        stock, products = {product_id: Stock(0, 2)}, {product_id: product_of(product_id)}
        await edge.view.show([Shown(partition, progress, stock, products)], [])
        await edge.gate.refresh()


async def test_an_accepted_checkout_is_in_the_log_and_signed(edge: Edge) -> None:
    answer = await edge.post(ONE, **keyed("k1"))
    assert answer.status == 202
    document = answer.json()
    partition = partition_of("sku-1", edge.settings.partitions)
    assert document["lines"] == [{"product_id": "sku-1", "quantity": 1, "partition": partition, "offset": 0}]
    assert document["idempotency_key"] == "k1"
    assert document["idempotency_key_source"] == "client"
    assert answer.headers["location"] == document["status_url"]
    assert answer.headers["retry-after"] == "1"
    receipt = edge.signer.verify(document["receipt"], document["checkout_id"], "buyer-1")
    assert receipt.positions == ((partition, 0),)
    key, value = edge.log[partition][0]
    line = decode_checkout_line(value, key, partition, edge.settings.partitions)
    assert (line.checkout_id, line.buyer_id, line.accepted_at_ms) == (
        document["checkout_id"],
        "buyer-1",
        NOW_MS,
    )


async def test_without_a_key_the_server_makes_one_and_says_so(edge: Edge) -> None:
    first, second = (await edge.post(ONE)).json(), (await edge.post(ONE)).json()
    assert first["idempotency_key_source"] == "server"
    assert first["checkout_id"] != second["checkout_id"]
    again = (await edge.post(ONE, **keyed(first["idempotency_key"]))).json()
    assert again["checkout_id"] == first["checkout_id"]


async def test_duplicate_products_are_merged_before_anything_is_checked(edge: Edge) -> None:
    items = [{"product_id": "sku-1", "quantity": 1}] * 60 + [{"product_id": "sku-2", "quantity": 2}]
    answer = await edge.post({"items": items, "address_id": "home"})
    assert [(line["product_id"], line["quantity"]) for line in answer.json()["lines"]] == [
        ("sku-1", 60),
        ("sku-2", 2),
    ]


async def test_several_products_are_all_acknowledged_before_the_202(edge: Edge) -> None:
    await edge.publisher.connect()
    edge.producer.hold = True
    items = [{"product_id": f"sku-{i}", "quantity": 1} for i in range(8)]
    posting = asyncio.create_task(edge.post({"items": items, "address_id": "home"}))
    await eventually(lambda: len(edge.producer.held) == len({partition_of(f"sku-{i}", 4) for i in range(8)}))
    assert not posting.done()
    edge.producer.acknowledge()
    assert (await posting).status == 202
    assert sum(map(len, edge.log.values())) == 8


async def test_requests_that_arrive_together_share_a_batch(edge: Edge) -> None:
    answers = await asyncio.gather(*(edge.post(ONE, **keyed(f"k{i}")) for i in range(50)))
    assert {a.status for a in answers} == {202}
    assert sorted(a.json()["lines"][0]["offset"] for a in answers) == list(range(50))
    assert len(edge.producer.batches) <= 3


BAD: list[tuple[Any, int, str]] = [
    (b"", 400, ""),
    (b"{", 400, ""),
    (b"\xff\xfe", 400, ""),
    (b"[]", 422, "#"),
    ({}, 422, "#/items"),
    ({**ONE, "items": []}, 422, "#/items"),
    ({**ONE, "adress_id": "x"}, 422, "#/adress_id"),
    ({**ONE, "items": [{"product_id": "a b", "quantity": 1}]}, 422, "#/items/0/product_id"),
    ({**ONE, "items": [{"product_id": "a\n", "quantity": 1}]}, 422, "#/items/0/product_id"),
    ({**ONE, "items": [{"product_id": "a" * 65, "quantity": 1}]}, 422, "#/items/0/product_id"),
    ({**ONE, "items": [{"product_id": "a", "quantity": 0}]}, 422, "#/items/0/quantity"),
    ({**ONE, "items": [{"product_id": "a", "quantity": 1.5}]}, 422, "#/items/0/quantity"),
    ({**ONE, "items": [{"product_id": "a", "quantity": True}]}, 422, "#/items/0/quantity"),
    ({**ONE, "items": [{"product_id": "a", "quantity": 10_001}]}, 422, "#/items/0/quantity"),
    ({**ONE, "items": [{"product_id": "a", "quantity": 6000}] * 2}, 422, "#/items/0/quantity"),
    ({**ONE, "items": [{"product_id": f"a{i}", "quantity": 1} for i in range(51)]}, 422, "#/items"),
    ({**ONE, "note": "x" * 501}, 422, "#/note"),
    ({**ONE, "note": "a\x00b"}, 422, "#/note"),
    ({**ONE, "policy": "some"}, 422, "#/policy"),
    ({**ONE, "expected_total": 12.5}, 422, "#/expected_total"),
    ({**ONE, "expected_total": {"amount": 12.5, "currency": "CNY"}}, 422, "#/expected_total/amount"),
    ({**ONE, "shipping": {"contact_name": "x", "phone": "123", "address": "y"}}, 422, "#"),
    ({"items": ONE["items"]}, 422, "#"),
    ({"items": ONE["items"], "shipping": {"contact_name": "x"}}, 422, "#/shipping/address"),
]


@pytest.mark.parametrize(("body", "status", "pointer"), BAD, ids=[str(b)[:50] for b, _, _ in BAD])
async def test_bad_input_is_a_problem_that_points_at_it(
    edge: Edge, body: Any, status: int, pointer: str
) -> None:
    answer = await edge.post(body)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    if pointer:
        assert pointer in [error["pointer"] for error in problem["errors"]]
    assert edge.producers == []


async def test_all_errors_are_told_at_once(edge: Edge) -> None:
    body = {"items": [{"product_id": "a b", "quantity": "2"}], "foo": 1, "shipping": {"phone": "x"}}
    pointers = {error["pointer"] for error in (await edge.post(body)).json()["errors"]}
    assert {
        "#/items/0/product_id",
        "#/items/0/quantity",
        "#/foo",
        "#/shipping/address",
        "#/shipping/phone",
    } <= pointers


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"method": "GET"}, 405),
        ({"method": "PUT"}, 405),
        ({"headers": {"content-type": "text/plain"}}, 415),
        ({"headers": {"content-type": None}}, 415),
        ({"headers": {"authorization": None}}, 401),
        ({"headers": {"authorization": "Basic abc"}}, 401),
        ({"headers": {"authorization": "Bearer abc"}}, 401),
        ({"headers": {"idempotency-key": ""}}, 400),
        ({"headers": {"idempotency-key": "x" * 256}}, 400),
        ({"headers": {"idempotency-key": "\x7f"}}, 400),
        ({"headers": {"content-length": "70000"}}, 413),
        ({"headers": {"idempotency-key": ["a", "b"]}}, 400),
        ({"headers": {"authorization": ["Bearer a", "Bearer b"]}}, 400),
        ({"headers": {"idempotency-key": b"\xe9"}}, 400),
        ({"headers": {"idempotency-key": "é"}}, 400),
        ({"headers": {"content-encoding": "gzip"}}, 415),
        ({"headers": {"content-encoding": ["gzip", "identity"]}}, 415),
        ({"headers": {"content-encoding": "Identity"}}, 202),
        ({"path": "/v1/nothing"}, 404),
        ({"path": "/docs"}, 405),
        ({"headers": {"content-type": "application/json; charset=utf-8"}}, 202),
        ({"headers": {"idempotency-key": "x" * 255}}, 202),
        ({"chunked": True}, 202),
    ],
)
async def test_each_error_has_its_status(edge: Edge, changes: dict[str, Any], status: int) -> None:
    answer = await edge.post(ONE, **changes)
    assert answer.status == status
    if status == 405:
        assert answer.headers["allow"] == ("GET, HEAD" if "path" in changes else "POST")
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if status != 202:
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert "Traceback" not in answer.body.decode()


async def test_a_body_that_grows_too_large_is_refused_while_it_is_read(edge: Edge) -> None:
    answer = await edge.post({**ONE, "note": "x" * 700_000}, chunked=True)
    assert answer.status == 413
    assert answer.headers["connection"] == "close"
    assert edge.exchange.chunks_read == 7


async def test_a_length_that_chunks_override_bounds_nothing(edge: Edge) -> None:
    answer = await edge.post(
        {**ONE, "note": "x" * 700_000},
        headers={"content-length": "5", "transfer-encoding": "chunked"},
    )
    assert answer.status == 413
    assert edge.exchange.chunks_read == 7


async def test_a_key_is_the_same_quoted_or_not(edge: Edge) -> None:
    plain, quoted = await edge.post(ONE, **keyed("k1")), await edge.post(ONE, **keyed('"k1"'))
    assert plain.json()["checkout_id"] == quoted.json()["checkout_id"]


async def test_another_payload_under_the_same_key_is_refused_at_the_edge(edge: Edge) -> None:
    first = await edge.post(ONE, **keyed("k1"))
    other = await edge.post({**ONE, "note": "other"}, **keyed("k1"))
    reordered = {
        "address_id": "home",
        "items": [{"quantity": 1, "product_id": "sku-1"}],
    }
    same = await edge.post(reordered, **keyed("k1"))
    stranger = await edge.post({**ONE, "note": "other"}, buyer="buyer-2", **keyed("k1"))
    assert (first.status, other.status, same.status, stranger.status) == (202, 422, 202, 202)
    assert other.json()["code"] == "idempotency_conflict"
    assert sum(map(len, edge.log.values())) == 3


async def test_without_the_cache_every_checkout_goes_to_the_log(edge: Edge) -> None:
    await show_sold_out(edge, "sku-1")
    edge.view.available = False
    await edge.gate.refresh()
    assert (await edge.post(ONE, **keyed("k1"))).status == 202
    assert (await edge.post({**ONE, "note": "other"}, **keyed("k1"))).status == 202


async def test_the_gate_refuses_what_is_sold_out_without_touching_kafka(edge: Edge) -> None:
    await show_sold_out(edge, "sku-1")
    answer = await edge.post(ONE, **keyed("k1"))
    assert answer.status == 409
    problem = answer.json()
    assert problem["code"] == "sold_out"
    assert problem["product_ids"] == ["sku-1"]
    assert problem["status_url"].endswith(problem["checkout_id"])
    assert edge.producers == []
    assert (await edge.post(ONE, **keyed("k1"))).status == 409, "a refusal is not remembered as taken in"


async def test_a_retry_of_what_was_taken_in_passes_the_gate(edge: Edge) -> None:
    assert (await edge.post(ONE, **keyed("k1"))).status == 202
    await show_sold_out(edge, "sku-1")
    assert (await edge.post(ONE, **keyed("k1"))).status == 202
    assert (await edge.post(ONE, **keyed("k2"))).status == 409


async def test_a_checkout_with_something_left_passes_the_gate(edge: Edge) -> None:
    await show_sold_out(edge, "sku-1")
    items = [{"product_id": "sku-1", "quantity": 1}, {"product_id": "sku-2", "quantity": 1}]
    assert (await edge.post({**ONE, "items": items})).status == 202


async def test_an_all_or_nothing_checkout_with_anything_sold_out_is_refused_at_the_gate(edge: Edge) -> None:
    await show_sold_out(edge, "sku-1")
    items = [{"product_id": "sku-1", "quantity": 1}, {"product_id": "sku-2", "quantity": 1}]
    answer = await edge.post({**ONE, "items": items, "policy": "all_or_nothing"})
    assert (answer.status, answer.json()["product_ids"]) == (409, ["sku-1"])
    assert edge.producers == []
    assert (await edge.post({**ONE, "items": items[1:], "policy": "all_or_nothing"})).status == 202


async def test_a_refusal_names_what_was_sold_out_when_the_gate_was_asked(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what is when it answers: the gate may have opened meanwhile."""
    remember = edge.view.remember_payloads

    async def restocked_meanwhile(payloads: Sequence[tuple[str, str]]) -> dict[int, str]:
        edge.clock.tick(edge.settings.gate_stale_s + 1)
        await edge.gate.refresh()
        return await remember(payloads)

    await show_sold_out(edge, "sku-1")
    monkeypatch.setattr(edge.view, "remember_payloads", restocked_meanwhile)
    items = [{"product_id": "sku-1", "quantity": 1}, {"product_id": "sku-2", "quantity": 1}]
    answer = await edge.post({**ONE, "items": items, "policy": "all_or_nothing"}, **keyed("k1"))
    assert (answer.status, answer.json()["product_ids"]) == (409, ["sku-1"])
    assert edge.gate.hopeless(["sku-1"], "independent") == ()


async def test_a_retry_of_an_all_or_nothing_checkout_passes_the_gate(edge: Edge) -> None:
    items = [{"product_id": "sku-1", "quantity": 1}, {"product_id": "sku-2", "quantity": 1}]
    body = {**ONE, "items": items, "policy": "all_or_nothing"}
    assert (await edge.post(body, **keyed("k1"))).status == 202
    await show_sold_out(edge, "sku-1")
    assert (await edge.post(body, **keyed("k1"))).status == 202
    assert (await edge.post(body, **keyed("k2"))).status == 409


async def test_the_gate_stays_open_until_a_writer_is_seen_to_live(edge: Edge) -> None:
    """What a new process finds may have stood still for long."""
    partition = partition_of("sku-1", edge.settings.partitions)
    shown = Shown(partition, Progress(1, 5, 0, 7), {"sku-1": Stock(0, 2)}, {"sku-1": product_of("sku-1")})
    await edge.view.show([shown], [])
    for _ in range(2):
        await edge.gate.refresh()
        assert (await edge.post(ONE)).status == 202
    await show_sold_out(edge, "sku-1", beat=8)
    assert (await edge.post(ONE)).status == 409


async def test_the_gate_opens_when_no_writer_is_seen_to_live(edge: Edge) -> None:
    await show_sold_out(edge, "sku-1")
    assert (await edge.post(ONE)).status == 409
    edge.clock.tick(edge.settings.gate_stale_s + 1)
    await edge.gate.refresh()
    assert (await edge.post(ONE)).status == 202
    await show_sold_out(edge, "sku-1", beat=2)
    assert (await edge.post(ONE)).status == 409


async def test_the_gate_opens_for_who_was_stopped_since_it_looked(edge: Edge) -> None:
    """A process that is let go on answers what came meanwhile before it looks again."""
    await show_sold_out(edge, "sku-1")
    edge.clock.tick(edge.settings.gate_stale_s + 1)
    assert (await edge.post(ONE)).status == 202


async def test_a_cache_that_is_away_from_the_start_is_told_of_once(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    edge.view.available = False
    for _ in range(3):
        await edge.gate.refresh()
    assert len([r for r in caplog.records if "gate stands open" in r.getMessage()]) == 1
    told = (await edge.post(b"", method="GET", path="/readyz")).json()
    assert told["gate"] == "does not answer"
    edge.view.available = True
    await edge.gate.refresh()
    told = (await edge.post(b"", method="GET", path="/readyz")).json()
    assert told["gate"] == "ok"


@pytest.mark.parametrize("given", [{}, keyed("k1")])
async def test_no_ack_in_time_is_503_with_the_key_to_retry_under(edge: Edge, given: dict[str, Any]) -> None:
    """Also of who gave none: under another one it would be bought twice."""
    await edge.publisher.connect()
    edge.producer.hold = True
    answer = await edge.post(ONE, **given)
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    problem = answer.json()
    assert not given or problem["idempotency_key"] == "k1"
    assert problem["status_url"] == f"/v1/checkouts/{problem['checkout_id']}"
    await eventually(lambda: edge.producers[0].stopped)
    again = await edge.post(ONE, **keyed(problem["idempotency_key"]))
    assert (again.status, again.json()["checkout_id"]) == (202, problem["checkout_id"])


async def test_an_ack_that_never_comes_holds_nobody_else_up(edge: Edge) -> None:
    await edge.publisher.connect()
    edge.producer.hold = True
    assert (await edge.post(ONE, **keyed("k1"))).status == 503
    await eventually(lambda: edge.producers[0].stopped)
    assert (await edge.post(ONE, **keyed("k2"))).status == 202
    assert (await edge.post(ONE, **keyed("k1"))).status == 202
    assert len(edge.producers) == 2


async def test_a_broken_producer_is_503_and_replaced(edge: Edge) -> None:
    edge.make_broken = True
    assert (await edge.post(ONE)).status == 503
    edge.make_broken = False
    assert (await edge.post(ONE)).status == 202
    assert edge.producers[0].stopped
    assert len(edge.producers) == 2


async def test_a_full_queue_is_503(edge: Edge, offline_settings: Settings) -> None:
    small = Edge(msgspec.structs.replace(offline_settings, produce_queue_max=2, produce_linger_ms=50.0))
    answers = await asyncio.gather(*(small.post(ONE, **keyed(f"k{i}")) for i in range(5)))
    assert sorted(a.status for a in answers) == [202, 202, 503, 503, 503]
    assert {a.json()["code"] for a in answers if a.status == 503} == {"overloaded"}


async def is_ready(edge: Edge) -> bool:
    return (await edge.post(b"", method="GET", path="/readyz")).status == 200


async def test_readiness_follows_the_producer(edge: Edge) -> None:
    assert not await is_ready(edge)
    await edge.publisher.connect()
    assert await is_ready(edge)
    assert (await edge.post(b"", method="GET", path="/livez")).status == 200
    edge.publisher.problem = "Unable to bootstrap from [('10.1.2.3', 9092)]"
    away = await edge.post(b"", method="GET", path="/readyz")
    assert (away.status, away.json()["kafka"]) == (503, "does not answer")


async def test_who_is_given_no_checkouts_is_ready_once_kafka_is_back(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load balancer gives none to a process that is not ready."""
    monkeypatch.setattr(kafka_clients, "_CONNECT_EVERY_S", 0.0)
    running = asyncio.create_task(edge.publisher.run())
    await eventually(lambda: is_ready(edge))
    edge.producer.broken = edge.away = True
    assert (await edge.post(ONE)).status == 503
    assert not await is_ready(edge)
    edge.away = False
    await eventually(lambda: is_ready(edge))
    running.cancel()
    assert (await edge.post(ONE)).status == 202


async def test_who_connects_by_a_producer_that_is_replaced_meanwhile_is_ready_once_kafka_is_back(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks for a topic that is not there yet, and a checkout that fails has the producer stopped: no answer comes."""
    monkeypatch.setattr(kafka_clients, "_CONNECT_EVERY_S", 0.0)
    edge.make_broken = edge.silent = True
    running = asyncio.create_task(edge.publisher.run())
    await eventually(lambda: bool(edge.producers))
    edge.make_broken = edge.silent = False
    assert (await edge.post(ONE)).status == 503
    await eventually(lambda: is_ready(edge))
    assert edge.producers[0].stopped
    running.cancel()


async def test_another_partition_count_than_the_topic_has_ends_it(edge: Edge) -> None:
    """Products would have another writer."""
    edge.partitions = 3
    with pytest.raises(SettingsError, match="SLUICEWAY_PARTITIONS is 4, the topic checkouts has 3"):
        await edge.publisher.run()
