"""What providers tell of payments, and what a buyer needs to pay."""

import logging
import uuid
from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from api.desk import Desk
from api.payments.provider import CALLBACK_BYTES_MAX, PaymentProvider
from api.payments.providers import by_method
from api.web import private, route
from contracts import problems
from contracts.asks import PaymentStarted
from contracts.commands import Pay
from contracts.decisions import number_of, order_partition
from contracts.errors import BadSignature, NotAcknowledged, PaymentRefused, UnreadableCallback
from contracts.messages import Money
from contracts.outcomes import OrderStatus
from contracts.payments import Charge, PaymentNotice
from contracts.problems import Problem
from contracts.times import to_ms

logger = logging.getLogger(__name__)

_NOTICES = uuid.UUID("f1c7b6de-7c0f-5a0e-9a4a-0c2b6a2f1d10")


def payment_routes(desk: Desk, providers: Mapping[str, PaymentProvider]) -> list[Route]:
    endpoints = _Endpoints(desk, providers)
    return [
        route("/v1/payments/callbacks/{provider}", post=endpoints.callback),
        route("/v1/orders/{order_id}/payment", post=endpoints.start),
    ]


def command_of(notice: PaymentNotice, now_ms: int) -> Pay:
    """The command that a notice becomes. The same event of the provider is the same command."""
    return Pay(
        command_id=str(uuid.uuid5(_NOTICES, f"{notice.provider}\0{notice.event_id}")),
        actor=f"provider:{notice.provider}",
        asked_at_ms=now_ms,
        order_id=notice.order_id,
        provider=notice.provider,
        event_id=notice.event_id,
        reference=notice.reference,
        outcome=notice.outcome,
        amount=Money(f"{notice.amount:f}", notice.currency),
        occurred_at_ms=to_ms(notice.occurred_at),
    )


class _Endpoints:
    def __init__(self, desk: Desk, providers: Mapping[str, PaymentProvider]) -> None:
        self._desk = desk
        self._providers = providers
        self._by_method = by_method(providers)
        self._refused: dict[str, int] = dict.fromkeys(
            providers, 0
        )  # callbacks with a bad signature, for the log

    async def callback(self, request: Request) -> Response:
        """Acknowledged once it is in the log; until then the provider sends it again."""
        provider = self._providers.get(request.path_params["provider"])
        body = await _raw(request)
        if provider is None:
            raise Problem(problems.NOT_FOUND, "no such payment provider is configured here")
        try:
            notice = provider.read_callback(request.headers, body, self._desk.clock())
        except BadSignature as error:
            self._refused[provider.name] += 1
            logger.warning(
                "callback of %s refused: %s", provider.name, error,
                extra={"action": "bad_signature", "count": self._refused[provider.name]},
            )  # fmt: skip
            raise Problem(problems.BAD_SIGNATURE, str(error)) from error
        except UnreadableCallback as error:
            logger.warning(
                "callback of %s: %s", provider.name, error, extra={"action": "callback_unreadable"}
            )
            raise Problem(problems.CALLBACK_UNREADABLE, str(error)) from error
        if notice is not None and self._is_ours(notice):
            try:
                await self._desk.commands.publish(command_of(notice, to_ms(self._desk.clock())))
            except NotAcknowledged as error:
                raise Problem(
                    problems.NOT_ACKNOWLEDGED, "send it again", headers=[("retry-after", "1")]
                ) from error
        acknowledged = provider.acknowledgement
        return Response(acknowledged.body, acknowledged.status, media_type=acknowledged.media_type)

    async def start(self, request: Request) -> Response:
        buyer_id = self._desk.who(request)
        try:
            order_id = str(uuid.UUID(request.path_params["order_id"]))
        except ValueError as error:
            raise Problem(problems.NOT_FOUND, "you have no such order") from error
        order = await self._desk.reads.order(order_id)
        if order is None or order.buyer_id != buyer_id:
            raise Problem(problems.NOT_FOUND, "you have no such order")
        if order.status != OrderStatus.PENDING_PAYMENT:
            raise Problem(
                problems.TRANSITION_FORBIDDEN, f"the order is {order.status}: there is nothing to pay", order_status=order.status
            )  # fmt: skip
        provider = self._by_method.get(order.method)
        if provider is None:
            raise Problem(problems.PAYMENT_REFUSED, f"no provider for {order.method} is configured here")
        number = number_of(order_id)
        charge = Charge(
            order_id=order_id,
            number=number,
            amount=order.total,
            currency=order.currency,
            method=order.method,
            description=f"Order {number}",
            expires_at=order.expires_at,
        )
        try:
            started = await provider.start(charge)
        except PaymentRefused as error:
            raise Problem(problems.PAYMENT_REFUSED, str(error)) from error
        return private(PaymentStarted(order_id, provider.name, started.kind, started.value))

    def _is_ours(self, notice: PaymentNotice) -> bool:
        """Whether the order can be one of ours; else no retry would help, and it is for an operator to look at."""
        if order_partition(notice.order_id) < self._desk.settings.partitions:
            return True
        logger.error("a payment of order %s, which is not ours: %s", notice.order_id, notice.reference)
        return False


async def _raw(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > CALLBACK_BYTES_MAX:
                raise Problem(
                    problems.TOO_LARGE, f"at most {CALLBACK_BYTES_MAX} bytes are taken", headers=[("connection", "close")]
                )  # fmt: skip
    except ClientDisconnect as error:
        raise Problem(problems.BAD_REQUEST, "the body is not whole") from error
    return bytes(body)
