"""What providers tell of payments, and what a buyer needs to pay."""

import logging
import uuid
from collections import Counter
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.desk import Desk
from api.order_desk import order_of
from api.orders import no_order
from api.payments.provider import CALLBACK_BYTES_MAX, PaymentProvider
from api.payments.providers import by_method
from api.web import private, route, whole_body
from contracts import problems
from contracts.asks import PaymentStarted
from contracts.commands import Pay, decode_command, encode_command
from contracts.errors import (
    BadSignature,
    Invalid,
    NotAcknowledged,
    PaymentRefused,
    UndecodableMessage,
    UnreadableCallback,
)
from contracts.messages import Money
from contracts.outcomes import OrderStatus
from contracts.payments import Charge, PaymentNotice
from contracts.problems import Problem
from contracts.times import to_ms
from stock_ledger.commands.reads import OrderHead
from stock_ledger.lifecycle import allowed

logger = logging.getLogger(__name__)

_NOTICES = uuid.UUID("f1c7b6de-7c0f-5a0e-9a4a-0c2b6a2f1d10")


def payment_routes(
    desk: Desk, providers: Mapping[str, PaymentProvider], refused: Counter[str]
) -> list[Route]:
    """`refused` counts callbacks with a bad signature, by provider."""
    endpoints = _Endpoints(desk, providers, refused)
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
    def __init__(self, desk: Desk, providers: Mapping[str, PaymentProvider], refused: Counter[str]) -> None:
        self._desk = desk
        self._providers = providers
        self._by_method = by_method(providers)
        self._refused = refused

    async def callback(self, request: Request) -> Response:
        """Acknowledged once it is in the log; until then the provider sends it again."""
        provider = self._providers.get(request.path_params["provider"])
        body = await whole_body(request, CALLBACK_BYTES_MAX, media_types=())
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
        command = None if notice is None else self._understood(notice)
        if command is not None:
            try:
                await self._desk.commands.publish(command)
            except NotAcknowledged as error:
                raise Problem(
                    problems.NOT_ACKNOWLEDGED, "send it again", headers=[("retry-after", "1")]
                ) from error
        acknowledged = provider.acknowledgement
        return Response(acknowledged.body, acknowledged.status, media_type=acknowledged.media_type)

    async def start(self, request: Request) -> Response:
        buyer_id = self._desk.who(request)
        order = await order_of(self._desk, request)
        if order.buyer_id != buyer_id:
            raise no_order()
        status = OrderStatus(order.status)
        if status is not OrderStatus.PENDING_PAYMENT or order.expires_at <= self._desk.clock():
            why = "its time to pay is over" if status is OrderStatus.PENDING_PAYMENT else f"it is {status}"
            raise Problem(
                problems.TRANSITION_FORBIDDEN, f"there is nothing to pay for the order: {why}",
                order_status=status.value, allowed=allowed(status),
            )  # fmt: skip
        provider = self._by_method.get(order.method)
        if provider is None:
            served = ", ".join(sorted(self._by_method)) or "none"
            raise Problem(
                problems.METHOD_NOT_SERVED,
                f"the order is to be paid by {order.method}; served here: {served}",
            )
        try:
            started = await provider.start(charge_of(order))
        except (PaymentRefused, Invalid) as error:  # Invalid: an amount that the provider has no units for
            logger.warning("order %s: %s", order.order_id, error, extra={"action": "payment_refused"})
            raise Problem(
                problems.PAYMENT_REFUSED, "the payment provider did not take it; try again later"
            ) from error
        return private(PaymentStarted(order.order_id, provider.name, started.kind, started.value))

    def _understood(self, notice: PaymentNotice) -> Pay | None:
        """The command, if the order can be one of ours and the writer could read it; else no retry would help, and it
        is for an operator to look at.
        """
        command = command_of(notice, to_ms(self._desk.clock()))
        partitions = self._desk.settings.partitions
        try:
            if uuid.UUID(notice.order_id).version != 8:  # RFC 9562 §5.8, as order ids are
                raise UndecodableMessage("it is not the id of an order of Sluiceway")
            partition = command.partition(partitions)
            if partition >= partitions:
                raise UndecodableMessage(f"partition {partition} is out of range")
            decode_command(encode_command(command), notice.order_id.encode(), partition, partitions)
        except UndecodableMessage as error:
            logger.error(  # noqa: TRY400 - the message says it all
                "payment %s of %s for order %s is not taken in: %s",
                notice.reference, notice.provider, notice.order_id, error, extra={"action": "callback_not_ours"},
            )  # fmt: skip
            return None
        return command


def charge_of(order: OrderHead) -> Charge:
    """What is to be paid of an order."""
    return Charge.of_order(order.order_id, order.total, order.currency, order.method, order.expires_at)
