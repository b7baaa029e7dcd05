"""The HTTP stock source against a shop that is slow, wrong, down, flapping; its circuit breaker; its bounds."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import orjson
import pytest
from purgatory.domain import model as breaker_model

from contracts.settings import Settings
from stock_ledger.upstream.http import ANSWER_BYTES_MAX, HttpStockSource, connect_stock_source
from stock_ledger.upstream.source import Answer, GiveBack, Granted, Reserve, Unanswered, Why
from tests.conftest import examples
from tests.harness import Wall, eventually
from tests.stock_server import Fault, Held, Shop, hangs_up, open_shop, says

OPEN_S = 5.0
CALLS_MAX = 4
DEADLINE_S = 1000.0  # passes by turning the clock
DEEP = b'{"product_id": "sku-1001", "granted": 1, "more": ' + b"[" * 20_000 + b"]" * 20_000 + b"}"
BAD = {path.stem: path.read_bytes() for path in sorted(examples().glob("stock-source.reserved.bad.*.json"))}


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with open_shop(dict.fromkeys("pqrstuvw", 100)) as opened:
        yield opened


@pytest.fixture
def settings(offline_settings: Settings, shop: Shop) -> Settings:
    return msgspec.structs.replace(
        offline_settings,
        stock_source_url=shop.url,
        stock_source_token="secret",
        stock_source_deadline_s=DEADLINE_S,
        stock_source_calls_max=CALLS_MAX,
        stock_source_failures_max=3,
        stock_source_retry_s=OPEN_S,
    )


@pytest.fixture
async def source(settings: Settings, wall: Wall) -> AsyncIterator[HttpStockSource]:
    async with connect_stock_source(settings) as connected:
        yield connected


async def reserve(source: HttpStockSource, products: str = "p", batch: str = "0-0") -> list[Answer]:
    """One unit of each product, in a batch."""
    answers = await source.reserve([Reserve(product_id, batch, 1) for product_id in products])
    return [answers[product_id] for product_id in products]


def example(name: str) -> bytes:
    return (examples() / f"stock-source.{name}.json").read_bytes()


def has_seen(shop: Shop, *, asked: int, answered: int = 0) -> Callable[[], bool]:
    """Whether so many requests came in, and so many were done."""
    return lambda: (len(shop.asked), len(shop.answers)) == (asked, answered)


def why(answer: object) -> Why | None:
    return answer.why if isinstance(answer, Unanswered) else None


async def test_one_call_per_product_with_key_and_token(source: HttpStockSource, shop: Shop) -> None:
    assert await reserve(source, "pq", "3-1042") == [Granted(1), Granted(1)]
    await source.give_back([GiveBack("p", "unused-3-1042", 1)])
    assert await source.available(["q"]) == {"q": 99}
    assert sorted(shop.asked[:2]) == [
        ("POST", "/api/reservations", f"reserve-3-1042-{i}", "Bearer secret") for i in "pq"
    ]
    assert shop.asked[2:] == [
        ("POST", "/api/returns", "return-unused-3-1042-p", "Bearer secret"),
        ("GET", "/api/stock/q", None, "Bearer secret"),
    ]


async def test_the_examples_are_what_is_said(source: HttpStockSource, shop: Shop) -> None:
    """The same files that the documentation shows."""
    shop.stock["sku-1001"] = 482
    request, back = Reserve("sku-1001", "3-1042", 2), GiveBack("sku-1001", "unused-3-1042", 1)
    assert await source.reserve([request]) == {"sku-1001": Granted(2)}
    assert await source.available(["sku-1001"]) == {"sku-1001": 480}
    assert await source.give_back([back]) == {back.key(): None}
    for key, (asked, answered) in {
        request.key(): ("reservation", "reserved"),
        back.key(): ("return", "returned"),
    }.items():
        body, answer = shop.answers[key]
        assert orjson.loads(body) == orjson.loads(example(asked))
        assert orjson.loads(example(answered)).items() <= answer.items()
    shop.before[None] = says(200, example("reserved"))
    assert await source.reserve([request]) == {"sku-1001": Granted(2)}
    shop.before[None] = says(200, example("returned"))
    assert await source.give_back([back]) == {back.key(): None}
    shop.before[None] = says(200, example("in-stock"))
    assert await source.available(["sku-1001"]) == {"sku-1001": 480}


@pytest.mark.parametrize(
    "body",
    [*BAD.values(), b"\xff\xfe", b" " * ANSWER_BYTES_MAX + b"{}", DEEP],
    ids=[*BAD, "not-text", "endless", "deep"],
)
async def test_an_answer_that_makes_no_sense_is_told_and_counts_as_a_failure(
    source: HttpStockSource, shop: Shop, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    shop.before[None] = says(200, body)
    asked = [Reserve("sku-1001", "3-1042", 2)]
    assert [why((await source.reserve(asked))["sku-1001"]) for _ in range(4)] == [Why.WRONG] * 3 + [
        Why.CIRCUIT_OPEN
    ]
    assert len(shop.asked) == 3
    told = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(told) == 3
    assert "wrong" in told[0].getMessage()


async def test_wrong_answers_about_returns_and_stock_are_seen_too(
    source: HttpStockSource, shop: Shop
) -> None:
    back = GiveBack("p", "x", 2)
    shop.before[None] = says(200, b'{"product_id": "p", "units": 1}')
    assert why((await source.give_back([back]))[back.key()]) is Why.WRONG
    shop.before[None] = says(200, b'{"product_id": "q", "available": 1}')
    assert why((await source.available(["p"]))["p"]) is Why.WRONG


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (says(500), Why.FAILING),
        (says(503, b"busy", "text/plain"), Why.FAILING),
        (says(429), Why.FAILING),
        (says(401), Why.FAILING),
        (says(404, b"<html>no such site", "text/html"), Why.FAILING),
        (says(204), Why.WRONG),
        (says(302, Location="/api/stock/q"), Why.WRONG),
        (hangs_up, Why.UNREACHABLE),
    ],
)
async def test_a_server_that_fails_is_left_alone_after_a_while(
    source: HttpStockSource, shop: Shop, fault: Fault, expected: Why
) -> None:
    shop.before[None] = fault
    answers = [(await reserve(source))[0] for _ in range(5)]
    assert [why(a) for a in answers] == [expected] * 3 + [Why.CIRCUIT_OPEN] * 2
    assert len(shop.asked) == (6 if fault is hangs_up else 3), "a lost connection is tried once more"


async def test_a_rejection_is_no_failure(source: HttpStockSource, shop: Shop) -> None:
    for _ in range(5):
        assert why((await reserve(source, "x"))[0]) is Why.REJECTED
    assert await reserve(source) == [Granted(1)]


@pytest.fixture
def pass_the_deadline(turn_on: Callable[[float], None]) -> Callable[[], None]:
    return lambda: turn_on(DEADLINE_S + 1)


async def test_a_slow_server_does_not_hold_a_batch_beyond_the_deadline(
    source: HttpStockSource, shop: Shop, pass_the_deadline: Callable[[], None]
) -> None:
    """The server never lets the request go: the batch did not wait for it."""
    held = shop.before["p"] = Held()
    for number in range(2):
        reserving = asyncio.create_task(reserve(source, "pq", f"0-{number}"))
        await eventually(has_seen(shop, asked=2 * number + 2, answered=number + 1))
        await eventually(lambda: source._calls._value == CALLS_MAX - 1)  # the other call has ended
        pass_the_deadline()
        slow, quick = await reserving
        assert (why(slow), quick) == (Why.DEADLINE, Granted(1))
        assert isinstance(slow, Unanswered)
        assert slow.may_have_been_done()
    held.release()


async def test_ends_of_the_deadline_open_the_circuit(
    source: HttpStockSource, shop: Shop, pass_the_deadline: Callable[[], None]
) -> None:
    held = shop.before["p"] = Held()
    for number in range(3):
        reserving = asyncio.create_task(reserve(source, batch=f"0-{number}"))
        await eventually(has_seen(shop, asked=number + 1))
        pass_the_deadline()
        await reserving
    assert [why(answer) for answer in await reserve(source, "q")] == [Why.CIRCUIT_OPEN]
    held.release()


async def test_the_deadline_counts_while_a_call_waits_for_its_turn(
    source: HttpStockSource, shop: Shop, pass_the_deadline: Callable[[], None]
) -> None:
    held = shop.before[None] = Held()
    reserving = asyncio.create_task(reserve(source, "pqrstuvw"))
    await eventually(lambda: held.waiting == CALLS_MAX)
    pass_the_deadline()
    assert [why(answer) for answer in await reserving] == [Why.DEADLINE] * 8
    assert len(shop.asked) == CALLS_MAX
    held.release()


async def test_only_so_many_calls_are_made_at_once(source: HttpStockSource, shop: Shop) -> None:
    held = shop.before[None] = Held()
    reserving = asyncio.create_task(reserve(source, "pqrstuvw"))
    await eventually(lambda: held.waiting == CALLS_MAX)
    assert len(shop.asked) == CALLS_MAX
    held.release()
    assert await reserving == [Granted(1)] * 8
    assert (held.waiting_max, len(shop.asked)) == (CALLS_MAX, 8)


async def test_the_circuit_opens_and_after_a_while_one_call_tries_and_closes_it(
    source: HttpStockSource, shop: Shop, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    shop.before[None] = says(503)
    for _ in range(3):
        await reserve(source)
    wall.now_s += OPEN_S
    opened = (await reserve(source, "pq"))[1]
    assert isinstance(opened, Unanswered)
    assert (opened.why, opened.may_have_been_done()) == (Why.CIRCUIT_OPEN, False)
    assert len(shop.asked) == 3, "nothing is asked while it is open"

    wall.now_s += 1
    held = shop.before[None] = Held()
    reserving = asyncio.create_task(reserve(source, "pqrs"))
    await eventually(lambda: held.waiting == 1)
    assert len(shop.asked) == 4, "one of them tries"
    held.release()
    assert await reserving == [Granted(1)] * 4
    told = [r.getMessage() for r in caplog.records if getattr(r, "action", "") == "stock_source_circuit"]
    assert [text.rsplit(" ", 1)[1] for text in told] == ["opened", "half-opened", "closed"]
    assert f"127.0.0.1:{shop.port}" in told[0]


async def test_a_try_that_fails_opens_the_circuit_again(
    source: HttpStockSource, shop: Shop, wall: Wall
) -> None:
    shop.before[None] = says(503)
    for _ in range(3):
        await reserve(source)
    for _ in range(2):
        wall.now_s += OPEN_S + 1
        asked = len(shop.asked)
        answers = await reserve(source, "pqrs")
        assert sorted(str(why(answer)) for answer in answers) == ["circuit_open"] * 3 + ["failing"]
        assert len(shop.asked) == asked + 1


async def test_a_server_that_is_down_and_comes_back_is_found(
    source: HttpStockSource, shop: Shop, wall: Wall
) -> None:
    assert await reserve(source) == [Granted(1)]
    await shop.close()
    answers = [(await reserve(source, batch="0-1"))[0] for _ in range(4)]
    assert [why(a) for a in answers] == [Why.UNREACHABLE] * 3 + [Why.CIRCUIT_OPEN]
    await shop.open()
    assert why((await reserve(source, batch="0-1"))[0]) is Why.CIRCUIT_OPEN
    wall.now_s += OPEN_S + 1
    assert await reserve(source, batch="0-1") == [Granted(1)]
    assert shop.stock["p"] == 98


async def test_a_connection_that_was_closed_between_batches_is_no_failure(
    source: HttpStockSource, shop: Shop
) -> None:
    for batch in range(5):
        assert await reserve(source, batch=f"0-{batch}") == [Granted(1)]
        await shop.close()
        await shop.open()


async def test_a_flapping_server_grants_each_request_once(
    source: HttpStockSource, shop: Shop, wall: Wall
) -> None:
    """Every third time it fails, in a way of its own; whoever asks until there is an answer gets the right one."""
    faults: list[Any] = [says(503), hangs_up, says(200, b"oops")]
    answered = 0
    for number in range(12):
        shop.after[None] = faults[number // 3 % 3] if number % 3 == 0 else says_nothing
        answer = (await reserve(source, batch=f"0-{number}"))[0]
        if isinstance(answer, Unanswered):
            shop.after[None] = says_nothing
            answer = (await reserve(source, batch=f"0-{number}"))[0]
        answered += answer == Granted(1)
    assert (answered, shop.stock["p"]) == (12, 88)


async def says_nothing(_: object) -> None:
    """Lets the true answer through."""


async def test_an_open_circuit_costs_no_memory(source: HttpStockSource, shop: Shop) -> None:
    """The library raises one and the same error, to which each raise adds where it came by."""
    shop.before[None] = says(503)
    for _ in range(20):
        await reserve(source)
    error = source._breaker.context._state
    assert isinstance(error, breaker_model.OpenedState)
    assert error.__traceback__ is None
