"""The buyers of a history, and who gives commands: what they record, and that they try again with the same key until
they know.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from deploy.chaos import askers, clients
from deploy.chaos.askers import Askers
from deploy.chaos.clients import Buyers
from deploy.chaos.operations import History, Line, Told
from deploy.demo.orders import Bought
from deploy.demo.plan import Attempt
from deploy.stack.ports import find_free
from ingest.admission import checkout_id_of
from tests.harness import NOON, eventually, uuid_of

ATTEMPT = Attempt("buyer-1", "a key", b'{"items": [{"product_id": "p", "quantity": 1}]}', well_formed=True)
ACCEPTED = {
    "checkout_id": uuid_of(1),
    "receipt": "the receipt",
    "lines": [{"product_id": "p", "quantity": 1, "partition": 3, "offset": 7}],
}
QUEUED = {
    "checkout_id": uuid_of(1),
    "status": "queued",
    "ahead": 2,
    "lines": [{"status": "queued", "line": 0, "partition": 3, "offset": 7, "ahead": 2, "eta_s": None}],
}
REFUSED = {
    "checkout_id": uuid_of(1),
    "status": "refused",
    "lines": [
        {
            "status": "refused", "line": 0, "partition": 3, "offset": 7, "decided_at": "2026-11-11T12:00:00Z",
            "product_id": "p", "quantity": 1, "reason": "sold_out", "retryable": False,
        }
    ],
}  # fmt: skip

Answer = tuple[int, Any] | None  # status and document, or the body itself; None: the connection breaks


class Shop:
    """Gives prepared answers, the last one again and again, and keeps what was asked."""

    def __init__(self) -> None:
        self.submits: list[Answer] = []
        self.polls: list[Answer] = []
        self.keys: list[str] = []
        self.receipts: list[str | None] = []

    async def submit(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers["Idempotency-Key"])
        return self._next(request, self.submits)

    async def poll(self, request: web.Request) -> web.StreamResponse:
        self.receipts.append(request.query.get("receipt"))
        return self._next(request, self.polls)

    @staticmethod
    def _next(request: web.Request, answers: list[Answer]) -> web.StreamResponse:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        status, content = answer
        if isinstance(content, bytes):
            return web.Response(body=content, status=status)
        return web.json_response(content, status=status)


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def url(shop: Shop) -> AsyncIterator[str]:
    """Where the shop is."""
    app = web.Application()
    app.router.add_post("/v1/{path:.*}", shop.submit)
    app.router.add_get("/v1/{path:.*}", shop.poll)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
def buyers(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Runs the one attempt to its end and gives what was recorded."""
    for name in ("FIRST_PAUSE_S", "PAUSE_MAX_S", "AGAIN_S"):
        monkeypatch.setattr(clients, name, 0.01)
    monkeypatch.setattr(clients, "OTHER_PAYLOAD_SHARE", 0.0)

    async def run(
        ingest: str = url, attempt: Attempt = ATTEMPT, token: Callable[[str], str] = "token of {}".format
    ) -> Any:
        rng = random.Random(1)  # noqa: S311
        found = Buyers([ingest], {"api-1": url}, token, rng, History())
        await found.run([attempt], 100.0, 1.0)
        return found.history

    return run


ITEMS = b'[{"product_id":"p","quantity":1},{"product_id":"q","quantity":2},{"product_id":"p","quantity":3}]'


@pytest.mark.parametrize(
    ("body", "well_formed", "asked", "policy"),
    [
        (b'{"items": %b}' % ITEMS, True, {"p": 4, "q": 2}, "independent"),
        (b'{"items": %b, "policy": "all_or_nothing"}' % ITEMS, True, {"p": 4, "q": 2}, "all_or_nothing"),
        (b'{"items": [', False, {}, ""),
    ],
)
async def test_what_was_asked_for_is_recorded_whatever_is_answered(
    shop: Shop, buyers: Any, body: bytes, well_formed: bool, asked: dict[str, int], policy: str
) -> None:
    shop.submits, shop.polls = [None, (422, {"code": "invalid"})], []
    history = await buyers(attempt=Attempt("buyer-1", "a key", body, well_formed))
    seen = [(submit.derived_id, submit.asked, submit.policy) for submit in history.submits]
    assert seen == [(checkout_id_of("buyer-1", "a key"), asked, policy)] * 2


async def test_what_is_not_known_is_tried_again_with_the_same_key(shop: Shop, buyers: Any) -> None:
    shop.submits = [(503, {"code": "not_acknowledged"}), None, (503, {"code": "overloaded"}), (202, ACCEPTED)]
    shop.polls = [(200, REFUSED)]
    history = await buyers()
    assert [submit.outcome for submit in history.submits] == ["unknown", "unknown", "fail", "ok"]
    assert [submit.status for submit in history.submits] == [503, 0, 503, 202]
    assert shop.keys == ["a key"] * 4
    assert len({submit.operation for submit in history.submits}) == 1
    assert history.submits[-1].lines == [Line("p", 1, 3, 7)]
    assert all(submit.at <= submit.until for submit in history.submits)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("overloaded", "fail"),
        ("backlog_full", "fail"),
        ("not_acknowledged", "unknown"),
        ("unavailable", "unknown"),
    ],
)
async def test_who_is_turned_away_for_the_load_is_surely_not_taken_in(
    shop: Shop, buyers: Any, code: str, outcome: str
) -> None:
    shop.submits, shop.polls = [(503, {"code": code}), (202, ACCEPTED)], [(200, REFUSED)]
    history = await buyers()
    assert [submit.outcome for submit in history.submits] == [outcome, "ok"]


async def test_buyers_poll_with_their_receipt_until_the_answer_is_final(shop: Shop, buyers: Any) -> None:
    shop.submits = [(202, ACCEPTED)]
    shop.polls = [(200, QUEUED), (503, {"code": "unavailable"}), (200, REFUSED)]
    history = await buyers()
    seen = [(poll.outcome, poll.status, poll.ahead) for poll in history.polls]
    assert seen[:3] == [("ok", "queued", 2), ("fail", "", None), ("ok", "refused", None)]
    assert history.polls[2].told == [Told(0, "refused", 3, 7, "p", "sold_out", "")]
    assert set(shop.receipts) == {"the receipt"}


async def test_after_a_doubt_a_refusal_at_the_edge_is_looked_into(shop: Shop, buyers: Any) -> None:
    shop.submits = [
        None,
        (409, {"code": "sold_out", "checkout_id": uuid_of(1), "product_ids": ["p"]}),
    ]
    shop.polls = [(503, {"code": "unavailable"}), (404, {"code": "not_found"})]
    history = await buyers()
    assert [(submit.outcome, submit.status) for submit in history.submits] == [("unknown", 0), ("ok", 409)]
    assert history.submits[1].products == ["p"]
    assert shop.receipts == [None, None]
    assert [poll.code for poll in history.polls] == [503]


async def test_a_refused_connection_has_had_no_effect(buyers: Any) -> None:
    history = await buyers(f"http://127.0.0.1:{find_free(set())}")
    assert {submit.outcome for submit in history.submits[:-1]} == {"fail"}
    assert history.submits[-1].status == 0
    assert history.polls == []


async def test_buyers_who_are_interrupted_all_stop(shop: Shop, buyers: Any) -> None:
    shop.submits, shop.polls = [(202, ACCEPTED)], [(200, QUEUED)]
    buying = asyncio.create_task(buyers())
    await eventually(lambda: len(shop.receipts) > 0)
    buying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await buying
    assert [task for task in asyncio.all_tasks() if "Buyers._buy" in repr(task.get_coro())] == []


async def test_what_a_buyer_failed_with_is_raised(buyers: Any) -> None:
    def no_token(buyer: str) -> str:
        raise LookupError(buyer)

    with pytest.raises(LookupError, match="buyer-1"):
        await buyers(token=no_token)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"Internal Server Error"),
        (202, b'{"checkout_id": "cut in the mid'),
        (202, b'{"lines": [{"product_id": "p"}]}'),
        (422, b"[]"),
        (503, b'{"code": "\xff"}'),
    ],
)
async def test_an_answer_that_cannot_be_understood_is_recorded_and_asked_for_again(
    shop: Shop, buyers: Any, status: int, body: bytes
) -> None:
    shop.submits, shop.polls = (
        [(status, body), (202, ACCEPTED)],
        [(200, b"<html>"), (200, b""), (200, REFUSED)],
    )
    history = await buyers()
    seen = [(submit.outcome, submit.status, submit.unread) for submit in history.submits]
    assert seen == [("unknown", status, repr(body)), ("ok", 202, "")]
    polled = [(poll.outcome, poll.code, poll.unread) for poll in history.polls[:3]]
    assert polled == [("fail", 200, "b'<html>'"), ("fail", 200, "b''"), ("ok", 200, "")]


ORDER = Bought(uuid_of(2), "buyer-1", "1", Decimal(1), "CNY", "sandbox", NOON, {"p": 1})
TAKEN_IN = {"command_id": uuid_of(3), "status_url": "/v1/commands/3", "partition": 3, "offset": 7}
APPLIED = {"command_id": uuid_of(3), "status": "applied", "partition": 3, "offset": 7}


async def test_so_is_an_answer_to_who_gives_commands(
    shop: Shop, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_PAUSE_S", "PAUSE_MAX_S"):
        monkeypatch.setattr(askers, name, 0.01)
    shop.submits = [(500, b"Internal Server Error"), (202, b'{"partition": "3"}'), (202, TAKEN_IN)]
    shop.polls = [(200, b"[]"), (200, APPLIED), (200, APPLIED), (200, b"")]
    history = History()
    async with aiohttp.ClientSession() as http:
        who = Askers(http, {"api-1": url}, "token of {}".format, "secret", random.Random(1), history)  # noqa: S311
        await who._cancel(ORDER)
        assert await who._look(ORDER) is None
    asked = [(ask.outcome, ask.status, ask.place, ask.unread) for ask in history.asks]
    assert asked == [
        ("unknown", 500, None, "b'Internal Server Error'"),
        ("unknown", 202, None, repr(b'{"partition": "3"}')),
        ("ok", 202, (3, 7), ""),
    ]
    assert [(poll.outcome, poll.unread) for poll in history.ask_polls] == [("fail", "b'[]'")] + 2 * [
        ("ok", "")
    ]
    assert [(look.outcome, look.code, look.unread) for look in history.looks] == [("fail", 200, "b''")]
