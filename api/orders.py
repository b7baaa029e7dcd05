"""GET /v1/orders and /v1/orders/{order_id}: a buyer's own orders."""

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Protocol
from urllib.parse import urlencode

import msgspec

from contracts import problems
from contracts.decisions import number_of
from contracts.messages import Moment
from contracts.outcomes import OrderStatus, PaymentStatus
from contracts.problems import Problem
from contracts.requests import OrderItem, OrderPage, OrderPayment, OrderRefund, OrderView, Total
from stock_ledger.reads import OrderFilter, Reads, StoredOrder

LIMIT_DEFAULT = 20
LIMIT_MAX = 100

_LIMIT = re.compile(r"[0-9]{1,3}\Z")


class Query(Protocol):
    """What is used of the parameters of a URL."""

    def get(self, name: str) -> str | None: ...

    def getlist(self, name: str) -> list[str]: ...


def no_order() -> Problem:
    return Problem(problems.NOT_FOUND, "you have no such order")


async def order_page(reads: Reads, buyer_id: str, query: Query) -> OrderPage:
    """The page that the query asks for, newest order first. Raises Problem for a bad parameter, Unavailable."""
    count = limit_of(query.get("limit"))
    wanted = filter_of(query)
    found = await reads.orders(buyer_id, wanted, count + 1)  # one more tells whether there is a next page
    page = [order_view(order) for order in found[:count]]
    more = len(found) > count
    return OrderPage(page, next_url(count, wanted, page[-1].order_id) if more else None)


def filter_of(query: Query) -> OrderFilter:
    """The orders that the query wants. Raises Problem, 422, that names the wrong parameter."""
    since, until = (moment_of(name, query.get(name)) for name in ("from", "to"))
    if since is not None and until is not None and since >= until:
        raise wrong_parameter("to", "to must be later than from")
    cursor = query.get("cursor")
    return OrderFilter(
        statuses=statuses_of(query.getlist("status")),
        since=since,
        until=until,
        before=None if cursor is None else order_id_of_cursor(cursor),
    )


def statuses_of(given: Sequence[str]) -> tuple[str, ...]:
    """The statuses of a parameter that is repeated, or has commas. Raises Problem, 422, that names those there are."""
    names = dict.fromkeys(name for text in given for name in text.split(","))
    if unknown := sorted(names.keys() - set(OrderStatus)):
        raise wrong_parameter(
            "status", f"no order is {', '.join(map(repr, unknown))}; an order is {', '.join(OrderStatus)}"
        )
    return tuple(names)


def moment_of(name: str, text: str | None) -> datetime | None:
    """The time in a parameter. Raises Problem, 422, unless it is of RFC 3339."""
    if text is None:
        return None
    try:
        return msgspec.convert(text, Moment)
    except msgspec.ValidationError as error:
        example = "2025-11-01T00:00:00Z or 2025-11-01T08:00:00%2B08:00"
        raise wrong_parameter(name, f"{name} must be a time with its offset, such as {example}") from error


def next_url(limit: int, wanted: OrderFilter, last: str) -> str:
    """The URL of the page after the order `last`, of the same orders."""
    parameters = [("limit", str(limit)), *(("status", status) for status in wanted.statuses)]
    parameters += [
        (name, moment.isoformat())
        for name, moment in (("from", wanted.since), ("to", wanted.until))
        if moment is not None
    ]
    return f"/v1/orders?{urlencode([*parameters, ('cursor', cursor_of(last))])}"


def order_view(order: StoredOrder) -> OrderView:
    """The order as clients get it; amounts as plain decimal strings, never in exponent form."""
    return OrderView(
        order_id=order.order_id,
        number=number_of(order.order_id),
        checkout_id=order.checkout_id,
        status=OrderStatus(order.status),
        total=money(order.total, order.currency),
        shipping=order.shipping,
        note=order.note,
        created_at=order.created_at,
        items=[
            OrderItem(i.line, i.product_id, i.name, i.cover, money(i.price, order.currency), i.quantity)
            for i in order.items
        ],
        payment=OrderPayment(
            PaymentStatus(order.payment.status),
            order.payment.method,
            money(order.payment.amount, order.payment.currency),
            order.payment.expires_at,
            order.payment.reference or None,
            [OrderRefund(r.reference, "refunded" if r.refunded else "due") for r in order.payment.refunds],
        ),
        sequence=order.sequence,
    )


def limit_of(text: str | None) -> int:
    """The page size asked for, LIMIT_DEFAULT if none. Raises Problem, 422, if it is not 1 to LIMIT_MAX."""
    if text is None:
        return LIMIT_DEFAULT
    if not _LIMIT.match(text) or not 1 <= int(text) <= LIMIT_MAX:
        raise wrong_parameter("limit", f"limit must be a whole number from 1 to {LIMIT_MAX}")
    return int(text)


def cursor_of(order_id: str) -> str:
    """An opaque cursor: the 16 bytes of the last order's id as base64url without padding (RFC 4648 §5)."""
    return base64.urlsafe_b64encode(uuid.UUID(order_id).bytes).rstrip(b"=").decode()


def order_id_of_cursor(text: str) -> str:
    """The order id in a cursor. Raises Problem, 422, if no answer ever held this cursor."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
        order_id = str(uuid.UUID(bytes=raw))
    except (ValueError, binascii.Error) as error:
        raise wrong_parameter("cursor", "use the cursor of a page's next as it is") from error
    if cursor_of(order_id) != text:
        raise wrong_parameter("cursor", "use the cursor of a page's next as it is")
    return order_id


def wrong_parameter(name: str, detail: str) -> Problem:
    """422 that names the parameter of the query or the path."""
    return Problem(problems.INVALID, detail, errors=[{"detail": detail, "parameter": name}])


def money(amount: Decimal, currency: str) -> Total:
    """The amount as a plain decimal string, never in exponent form."""
    return Total(f"{amount:f}", currency)
