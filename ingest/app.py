"""The HTTP side of ingest: one hot route and the common pages, as an RSGI application."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from contracts import openapi, problems
from contracts.auth import BearerVerifier
from contracts.errors import (
    BacklogFull,
    IdempotencyConflict,
    Invalid,
    NotAcknowledged,
    Overloaded,
    SluicewayError,
    SoldOut,
)
from contracts.http import (
    JSON,
    ONCE,
    Answer,
    Exchange,
    Pages,
    RequestHeaders,
    Scope,
    encoded,
    health,
    not_allowed,
    respond,
    sent_twice,
)
from contracts.idempotency import idempotency_key
from contracts.kafka import Record
from contracts.problems import Problem
from contracts.receipts import ReceiptSigner
from contracts.requests import Accepted, AcceptedLine
from contracts.settings import Settings
from contracts.slices import stock_ids
from contracts.times import from_ms
from contracts.topics import partition_of
from ingest.admission import Admitted, admit, parse, peek
from ingest.backpressure import Backpressure
from ingest.gate import SoldOutGate
from ingest.publisher import Publisher

PATH = "/v1/checkouts"

_NO_HEADERS: list[tuple[str, bytes]] = []
_encode = msgspec.json.Encoder().encode


class Ingest:
    """The RSGI application of an ingest process."""

    def __init__(
        self,
        settings: Settings,
        verifier: BearerVerifier,
        signer: ReceiptSigner,
        publisher: Publisher,
        gate: SoldOutGate,
        backpressure: Backpressure,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._signer = signer
        self._publisher = publisher
        self._gate = gate
        self._backpressure = backpressure
        self._now_ms = now_ms
        self._retry_after = ("retry-after", str(settings.retry_after_s))
        self._pages = Pages(health(self._ready) | openapi.pages())

    def __rsgi__(self, scope: Scope, exchange: Exchange) -> Coroutine[Any, Any, None]:
        answering = self.checkout(scope, exchange) if scope.path == PATH else self._pages.answer(scope)
        return respond(scope, exchange, answering)

    async def checkout(self, scope: Scope, exchange: Exchange) -> Answer:
        """Who → what → is there any left → is it the same as before → into the log → 202."""
        now_ms = self._now_ms()
        pairs = scope.headers.items()
        given = dict(pairs)
        body = await read_body(exchange, given, self._settings.body_bytes_max)
        if scope.method != "POST":
            raise not_allowed(scope.method, PATH, "POST")
        check_headers(scope.headers, pairs, given)
        self._turn_away(body)
        buyer_id = self._buyer(given.get("authorization"), now_ms)
        given_key = given.get("idempotency-key")
        own_key = given_key is not None
        key = uuid.uuid4().hex if given_key is None else idempotency_key(given_key)
        admitted = admit(parse(body), buyer_id, key, now_ms, self._settings, self._gate.slices)
        try:
            positions = await self._publish(admitted, own_key=own_key)
        except SluicewayError as error:
            raise self._not_taken_in(error, admitted, key) from error
        return self._accepted(admitted, buyer_id, key, positions, own_key=own_key, now_ms=now_ms)

    def _turn_away(self, body: bytes) -> None:
        """Raise Problem 503 for the load: before the token is verified, which costs the most if it is a new one.

        Not before the body is read: the server would cut the client off. What is sold out is not turned away: it is
        told so, and not to come again. Of a product with slices one must be free: whose turn it is the token tells.
        """
        try:
            self._publisher.check()
            if self._backpressure.is_on:
                self._backpressure.check_any()
                request = peek(body)
                if request is None:
                    return  # told what is wrong with it once the token is known
                product_ids = [item.product_id for item in request.items]
                if not self._gate.hopeless(product_ids, request.policy):
                    slices = self._gate.slices
                    self._backpressure.check(i for i in product_ids if i not in slices)
                    for product_id in product_ids:
                        if product_id in slices:
                            self._backpressure.check_slices(stock_ids(product_id, slices[product_id]))
        except Overloaded as error:
            raise overloaded(error, self._retry_after) from error

    def _buyer(self, authorization: str | None, now_ms: int) -> str:
        try:
            return self._verifier.buyer(authorization, now_ms / 1000)
        except Invalid as error:
            raise Problem(problems.UNAUTHORIZED, str(error)) from error

    def _publish(self, admitted: Admitted, *, own_key: bool) -> "asyncio.Future[list[tuple[int, int]]]":
        """(partition, offset) of every line, once all are acknowledged.

        A checkout that the gate has no hope for goes on only if it was taken in before: then it has an answer. Raises
        BacklogFull for the buyer's slices.
        """
        product_ids = [line.product_id for line in admitted.lines]
        sold_out = self._gate.hopeless(product_ids, admitted.lines[0].policy)
        if sold_out and not own_key:
            raise SoldOut(sold_out)
        if self._gate.slices and self._backpressure.is_on and not sold_out:
            self._backpressure.check(line.stock_id for line in admitted.lines)
        count = self._settings.partitions
        records: list[tuple[int, Record]] = []
        for line in admitted.lines:
            record = (line.partition_key(), _encode(line), _NO_HEADERS)
            records.append((partition_of(line.stock_id, count), record))
        payload = (admitted.checkout_id, admitted.payload_hash) if own_key else None
        return self._publisher.submit(records, payload, sold_out=sold_out)

    def _not_taken_in(self, error: SluicewayError, admitted: Admitted, key: str) -> Problem:
        """What the client is told of a checkout that has no place in the log, or of which that is not known."""
        match error:
            case SoldOut():
                independent = admitted.lines[0].policy == "independent"
                return Problem(
                    problems.SOLD_OUT,
                    f"{'nothing' if independent else 'not all'} of it is left, and this request was not taken in. "
                    "If an earlier one with this Idempotency-Key was, its answer is at status_url",
                    product_ids=error.product_ids,
                    checkout_id=admitted.checkout_id,
                    status_url=self._status_url(admitted.checkout_id),
                )
            case IdempotencyConflict():
                return Problem(problems.IDEMPOTENCY_CONFLICT, str(error))
            case NotAcknowledged():
                return Problem(
                    problems.NOT_ACKNOWLEDGED,
                    "whether it was taken in is not known: retry with idempotency_key as the Idempotency-Key, "
                    "it cannot be bought twice",
                    headers=[self._retry_after],
                    idempotency_key=key,
                    checkout_id=admitted.checkout_id,
                    status_url=self._status_url(admitted.checkout_id),
                )
            case Overloaded():
                return overloaded(error, self._retry_after)
        raise error

    def _accepted(
        self,
        admitted: Admitted,
        buyer_id: str,
        key: str,
        positions: list[tuple[int, int]],
        *,
        own_key: bool,
        now_ms: int,
    ) -> Answer:
        lines = []
        for line, (partition, offset) in zip(admitted.lines, positions, strict=True):
            lines.append(AcceptedLine(line.product_id, line.quantity, partition, offset))
        receipt = self._signer.sign(admitted.checkout_id, buyer_id, now_ms, positions)
        status_url = f"{self._status_url(admitted.checkout_id)}?receipt={receipt}"
        accepted = Accepted(
            admitted.checkout_id,
            status_url,
            from_ms(now_ms),
            key,
            "client" if own_key else "server",
            receipt,
            lines,
        )
        return Answer(202, [JSON, ("location", status_url), self._retry_after], _encode(accepted))

    def _status_url(self, checkout_id: str) -> str:
        return f"{self._settings.api_public_url}{PATH}/{checkout_id}"

    async def _ready(self) -> tuple[bool, dict[str, object]]:
        """Why Kafka or the cache does not answer is in the log: it names hosts, and anyone may ask here."""
        away = "does not answer"
        ready = not self._publisher.problem
        return ready, {"kafka": "ok" if ready else away, "gate": away if self._gate.problem else "ok"}


def overloaded(error: Overloaded, retry_after: tuple[str, str]) -> Problem:
    """What a client is told that is turned away for the load; when to come again, if the error does not say."""
    advice = f"{error}; nothing was taken in: retry with the same key, after the time told"
    if isinstance(error, BacklogFull):
        return Problem(problems.BACKLOG_FULL, advice, headers=[("retry-after", str(error.retry_after_s))])
    return Problem(problems.OVERLOADED, advice, headers=[retry_after])


def check_headers(headers: RequestHeaders, pairs: Sequence[tuple[str, str]], given: dict[str, str]) -> None:
    """Raise Problem: 400 if Idempotency-Key or Authorization comes more than once, or is not text; 415 for a body of
    another type. `pairs` are those that are text, `given` their values by name. Not before the body is read: the server
    would cut the client off.
    """
    if len(given) < len(pairs):
        names = [name for name, _ in pairs]
        for once in ONCE:
            if names.count(once) > 1:
                raise sent_twice(once)
    for name in ONCE:
        if name not in given and name in headers:
            raise Problem(problems.BAD_REQUEST, f"send the header {name} in ASCII")
    content_type = given.get("content-type", "")
    if content_type != "application/json" and (
        content_type.split(";", 1)[0].strip().lower() != "application/json"
    ):
        raise Problem(problems.UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json")
    if "content-encoding" in given and (
        problem := encoded(value for name, value in pairs if name == "content-encoding")
    ):
        raise problem


async def read_body(exchange: Exchange, headers: dict[str, str], bytes_max: int) -> bytes:
    """The whole body. Raises Problem 413 as soon as it is too large."""
    content_length = headers.get("content-length")
    if content_length is not None and "transfer-encoding" not in headers:  # which overrides it: RFC 9112 §6.3
        if int(content_length) > bytes_max:
            raise too_large(bytes_max)
        return await exchange()
    body = bytearray()
    async for chunk in exchange:
        body += chunk
        if len(body) > bytes_max:
            raise too_large(bytes_max)
    return bytes(body)


def too_large(bytes_max: int) -> Problem:
    return Problem(
        problems.TOO_LARGE, f"at most {bytes_max} bytes are taken", headers=[("connection", "close")]
    )
