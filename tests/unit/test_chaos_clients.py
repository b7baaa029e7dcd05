"""The buyers of a history: what they record, and that they try again with the same key until they know."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from deploy.chaos import clients
from deploy.chaos.clients import Buyers
from deploy.chaos.operations import History, Line, Told
from deploy.demo.plan import Attempt
from deploy.stack.ports import find_free
from ingest.admission import checkout_id_of
from tests.harness import eventually, uuid_of

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

Answer = tuple[int, Any] | None  # status and document; None: the connection breaks


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
        return web.json_response(answer[1], status=answer[0])


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
async def buyers(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[], Any]]:
    """Runs the one attempt to its end and gives what was recorded."""
    for name in ("FIRST_PAUSE_S", "PAUSE_MAX_S", "AGAIN_S"):
        monkeypatch.setattr(clients, name, 0.01)
    monkeypatch.setattr(clients, "OTHER_PAYLOAD_SHARE", 0.0)
    app = web.Application()
    app.router.add_post("/v1/checkouts", shop.submit)
    app.router.add_get("/v1/checkouts/{checkout_id}", shop.poll)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def run(ingest: str = url, attempt: Attempt = ATTEMPT) -> Any:
        rng = random.Random(1)  # noqa: S311
        found = Buyers([ingest], {"api-1": url}, lambda buyer: f"token of {buyer}", rng, History())
        await found.run([attempt], 100.0, 1.0)
        return found.history

    yield run
    await runner.cleanup()


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
