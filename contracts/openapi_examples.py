"""The examples of the OpenAPI document: a checkout of one product from its request to its order, and one that is all
or nothing.
"""

import base64
import uuid
from datetime import UTC, datetime
from typing import Any

import orjson

from contracts import problems
from contracts.decisions import BY_COMMAND, number_of, order_id_of
from contracts.problems import ProblemType
from contracts.receipts import ReceiptSigner
from contracts.times import to_ms

_PARTITION, _OFFSET = 7, 3468
_ACCEPTED_AT_MS = to_ms(datetime(2025, 11, 1, 9, 30, 11, 520_000, UTC))
_DECIDED_AT = "2025-11-01T09:30:12.400Z"
_EXPIRES_AT = "2025-11-01T09:45:12.400Z"

CHECKOUT_ID = "5b0c7a52-9d0e-8c61-a3c4-2f1f6f0f9b10"
ORDER_ID = order_id_of(_ACCEPTED_AT_MS + 880, _PARTITION, _OFFSET)
RECEIPT = ReceiptSigner("example").sign(CHECKOUT_ID, "buyer-1", _ACCEPTED_AT_MS, [(_PARTITION, _OFFSET)])
_CURSOR = base64.urlsafe_b64encode(uuid.UUID(ORDER_ID).bytes).rstrip(b"=").decode()

_PRICE = {"amount": "129.00", "currency": "CNY"}
_TOTAL = {"amount": "258.00", "currency": "CNY"}
_SHIPPING = {"contact_name": "Wang Fang", "phone": "+86 138 0000 0000", "address": "1 Example Road, Hangzhou"}
_PRODUCT = {"product_id": "sku-1001", "quantity": 2}
_SNAPSHOT = {"name": "Kettle", "cover": "covers/kettle.jpg", "price": _PRICE}
_PAYMENT = {"status": "pending", "method": "wechat", "expires_at": _EXPIRES_AT}
_PLACE = {"partition": _PARTITION, "offset": _OFFSET}

REQUEST: dict[str, Any] = {
    "items": [_PRODUCT],
    "shipping": _SHIPPING,
    "payment_method": "wechat",
    "expected_total": _TOTAL,
}
FROM_CART: dict[str, Any] = {"items": [{**_PRODUCT, "from_cart": True}], "address_id": "home"}
ACCEPTED: dict[str, Any] = {
    "checkout_id": CHECKOUT_ID,
    "status_url": f"/v1/checkouts/{CHECKOUT_ID}?receipt={RECEIPT}",
    "accepted_at": "2025-11-01T09:30:11.520Z",
    "idempotency_key": "cart-7f3a",
    "idempotency_key_source": "client",
    "receipt": RECEIPT,
    "lines": [{**_PRODUCT, **_PLACE}],
}
_WAIT = {"ahead": 1200, "eta_s": 0.8}
QUEUED: dict[str, Any] = {
    "checkout_id": CHECKOUT_ID,
    "status": "queued",
    "lines": [{"status": "queued", "line": 0, **_PLACE, **_WAIT}],
    **_WAIT,
}
_DECIDED = {"line": 0, **_PLACE, "decided_at": _DECIDED_AT, **_PRODUCT}
_LINE_ORDER = {
    "order_id": ORDER_ID,
    "number": number_of(ORDER_ID),
    **_SNAPSHOT,
    "total": _TOTAL,
    "payment": _PAYMENT,
}
CREATED: dict[str, Any] = {
    "checkout_id": CHECKOUT_ID,
    "status": "created",
    "lines": [{"status": "created", **_DECIDED, "order": _LINE_ORDER}],
    "ahead": 0,
    "eta_s": 0.0,
}
REFUSED: dict[str, Any] = {
    "checkout_id": CHECKOUT_ID,
    "status": "refused",
    "lines": [{"status": "refused", **_DECIDED, "reason": "sold_out", "retryable": True}],
    "ahead": 0,
    "eta_s": 0.0,
}
ORDER: dict[str, Any] = {
    "order_id": ORDER_ID,
    "number": number_of(ORDER_ID),
    "checkout_id": CHECKOUT_ID,
    "status": "pending_payment",
    "total": _TOTAL,
    "shipping": _SHIPPING,
    "note": "",
    "created_at": _DECIDED_AT,
    "items": [{"line": 0, **_PRODUCT, **_SNAPSHOT}],
    "payment": {**_PAYMENT, "amount": _TOTAL, "reference": None, "refunds": []},
    "sequence": 1,
}
_OTHER = {"product_id": "sku-2002", "quantity": 1}
_OTHER_SNAPSHOT = {
    "name": "Tea set",
    "cover": "covers/tea-set.jpg",
    "price": {"amount": "88.00", "currency": "CNY"},
}
_OTHER_PLACE = {"partition": 2, "offset": 915}
_WHOLE_ID = order_id_of(_ACCEPTED_AT_MS + 895, 5, 61 | BY_COMMAND)
_WHOLE_TOTAL = {"amount": "346.00", "currency": "CNY"}
_WHOLE_AT = "2025-11-01T09:30:12.415Z"
_WHOLE_ORDER = {
    "order_id": _WHOLE_ID,
    "number": number_of(_WHOLE_ID),
    "total": _WHOLE_TOTAL,
    "payment": _PAYMENT,
}
_FIRST_LINE = {"line": 0, **_PLACE, **_PRODUCT}
_SECOND_LINE = {"line": 1, **_OTHER_PLACE, **_OTHER}
WHOLE_REQUEST: dict[str, Any] = {
    "items": [_PRODUCT, _OTHER],
    "policy": "all_or_nothing",
    "shipping": _SHIPPING,
    "expected_total": _WHOLE_TOTAL,
}
WHOLE_HELD: dict[str, Any] = {
    "checkout_id": CHECKOUT_ID,
    "status": "queued",
    "lines": [
        {"status": "held", **_FIRST_LINE, "decided_at": _DECIDED_AT},
        {"status": "queued", "line": 1, **_OTHER_PLACE, "ahead": 40, "eta_s": 0.1},
    ],
    "ahead": 40,
    "eta_s": 0.1,
}
WHOLE_CREATED: dict[str, Any] = {
    "checkout_id": CHECKOUT_ID,
    "status": "created",
    "lines": [
        {"status": "created", **_FIRST_LINE, "decided_at": _WHOLE_AT, "order": {**_SNAPSHOT, **_WHOLE_ORDER}},
        {
            "status": "created",
            **_SECOND_LINE,
            "decided_at": _WHOLE_AT,
            "order": {**_OTHER_SNAPSHOT, **_WHOLE_ORDER},
        },
    ],
    "ahead": 0,
    "eta_s": 0.0,
}
_REFUSED = {"status": "refused", "retryable": True}
WHOLE_REFUSED: dict[str, Any] = {
    "checkout_id": CHECKOUT_ID,
    "status": "refused",
    "lines": [
        {**_REFUSED, **_FIRST_LINE, "decided_at": _WHOLE_AT, "reason": "other_line_refused"},
        {**_REFUSED, **_SECOND_LINE, "decided_at": _DECIDED_AT, "reason": "sold_out"},
    ],
    "ahead": 0,
    "eta_s": 0.0,
}
PAGE: dict[str, Any] = {"orders": [ORDER], "next": f"/v1/orders?limit=20&cursor={_CURSOR}"}

ADDRESS_REQUEST: dict[str, Any] = {**_SHIPPING, "default": True}
ADDRESS: dict[str, Any] = {"address_id": "home", **ADDRESS_REQUEST}
ADDRESSES: dict[str, Any] = {"addresses": [ADDRESS]}
CART_REQUEST: dict[str, Any] = {"quantity": 2}
CART_LINE: dict[str, Any] = {
    **_PRODUCT,
    **_SNAPSHOT,
    "on_shelf": True,
    "sale_from": "2025-11-01T09:30:00Z",
    "sale_to": None,
    "available": 480,
    "added_at": "2025-10-31T20:15:00Z",
    "updated_at": "2025-10-31T20:15:00Z",
}
CART: dict[str, Any] = {"lines": [CART_LINE]}

COMMAND_ID = "7a1c0e2b-3c5d-5e6f-8a7b-9c0d1e2f3a4b"
_ASKED_AT_MS = to_ms(datetime(2025, 11, 1, 9, 39, 59, 930_000, UTC))
COMMAND_RECEIPT = (
    ReceiptSigner("example").of_commands().sign(COMMAND_ID, "buyer-1", _ASKED_AT_MS, [(_PARTITION, 12)])
)
_COMMAND = {"command_id": COMMAND_ID, "partition": _PARTITION, "offset": 12}
_OF_ORDER = {"action": "cancel", "subject": ORDER_ID}
COMMAND_ACCEPTED: dict[str, Any] = {
    **_COMMAND,
    **_OF_ORDER,
    "status_url": f"/v1/commands/{COMMAND_ID}?receipt={COMMAND_RECEIPT}",
}
COMMAND_QUEUED: dict[str, Any] = {
    **_COMMAND,
    "status": "queued",
    "action": "",
    "subject": "",
    "actor": "",
    "asked_at": None,
    "decided_at": None,
    "reason": None,
    "detail": "",
}
COMMAND: dict[str, Any] = {
    **COMMAND_QUEUED,
    **_OF_ORDER,
    "status": "applied",
    "actor": "buyer:buyer-1",
    "asked_at": "2025-11-01T09:39:59.930Z",
    "decided_at": "2025-11-01T09:40:00.000Z",
}
PAYMENT_STARTED: dict[str, Any] = {
    "order_id": ORDER_ID,
    "provider": "wechat",
    "kind": "qr",
    "value": "weixin://wxpay/bizpayurl?pr=p4lpSuKzz",
}
PRODUCT_REQUEST: dict[str, Any] = {
    "name": "Kettle",
    "price": "159.00",
    "sale_price": "129.00",
    "currency": "CNY",
    "buyer_limit": 2,
    "stock": 500,
}
NDJSON_FILE = orjson.dumps({"product_id": "sku-1001", **PRODUCT_REQUEST}).decode() + "\n"
PRODUCT_VIEW: dict[str, Any] = {
    "product_id": "sku-1001",
    "name": "Kettle",
    "cover": "covers/kettle.jpg",
    "price": _PRICE,
    "regular_price": {"amount": "159.00", "currency": "CNY"},
    "on_shelf": True,
    "buyer_limit": 2,
    "payment_ttl_s": 900,
    "sale_from": None,
    "sale_to": None,
    "stock_source": None,
    "available": 412,
    "version": 3,
    "slices": 2,
}
CSV_FILE = """product_id,name,price,sale_price,currency,buyer_limit,stock
sku-1001,Kettle,159.00,129.00,CNY,2,500
sku-1002,"Kettle, large",199.00,,CNY,,120
"""
_PUT = {
    **_COMMAND,
    "action": "put_product",
    "subject": "sku-1001",
    "status_url": f"/v1/commands/{COMMAND_ID}",
}
IMPORT_ACCEPTED: dict[str, Any] = {"products": 1, "commands": [_PUT]}
PRODUCT_PAGE: dict[str, Any] = {
    "products": [PRODUCT_VIEW],
    "next": "/v1/products?limit=20&cursor=sku-1001",
}
PRODUCT_STOCK: dict[str, Any] = {
    "product_id": "sku-1001",
    "available": 412,
    "held": 1,
    "pending_payment": 37,
    "paid": 50,
    "total": 500,
    "slices": [
        {"slice": 0, "available": 204, "held": 1, "pending_payment": 20, "paid": 25, "total": 250},
        {"slice": 1, "available": 208, "held": 0, "pending_payment": 17, "paid": 25, "total": 250},
    ],
}


_MEMBERS = {problems.NOT_ACKNOWLEDGED: {"idempotency_key": ACCEPTED["idempotency_key"]}}


def problem(kind: ProblemType) -> dict[str, Any]:
    """A problem document of this kind."""
    return {
        "type": problems.BASE + kind.code,
        "title": kind.title,
        "status": kind.status,
        "detail": "what is wrong here, and what to do",
        "code": kind.code,
        **_MEMBERS.get(kind, {}),
    }
