"""Examples for the AsyncAPI document: one sale, told event by event; headers and data as they come over Kafka."""

from typing import Any

from contracts.decisions import BY_COMMAND, number_of, order_id_of
from contracts.events import SOURCE

_AT = "2025-11-01T09:30:12.400Z"
_EXPIRES_AT = "2025-11-01T09:45:12.400Z"
_AT_MS = 1_761_989_412_400
_PARTITION = 3
_CHECKOUT_ID = "5b0c7a52-9d0e-8c61-a3c4-2f1f6f0f9b10"
_COMMAND_ID = "5b0d6a7e-2f1c-5d3e-8a90-617283940a1b"
_ORDER_ID = order_id_of(_AT_MS, _PARTITION, 1042)
_WHOLE_ID = order_id_of(_AT_MS, _PARTITION, 61 | BY_COMMAND)
_CNY = "CNY"
_PRICE = {"amount": "129.00", "currency": _CNY}
_TOTAL = {"amount": "258.00", "currency": _CNY}
_LINE = {
    "checkout_id": _CHECKOUT_ID,
    "buyer_id": "buyer-1",
    "line": 0,
    "lines": 1,
    "product_id": "sku-1001",
    "quantity": 2,
    "partition": _PARTITION,
    "offset": 1042,
    "accepted_at": "2025-11-01T09:30:11.520Z",
    "decided_at": _AT,
}
_SHOWN = {"name": "Kettle", "cover": "covers/kettle.jpg", "price": _PRICE}
_WHOLE_LINES = [
    {"line": 0, "product_id": "sku-1001", "quantity": 1, **_SHOWN},
    {
        "line": 1,
        "product_id": "sku-2002",
        "quantity": 1,
        "name": "Tea set",
        "cover": "covers/tea-set.jpg",
        "price": _PRICE,
    },
]


def _example(name: str, subject: str, event_id: str, sequence: int, data: dict[str, Any]) -> dict[str, Any]:
    headers = {
        "ce_specversion": "1.0",
        "ce_type": name,
        "ce_source": SOURCE,
        "ce_id": event_id,
        "ce_time": _AT,
        "ce_subject": subject,
        "content-type": "application/json",
    }
    if sequence:
        headers["ce_sequence"] = str(sequence)
    return {"headers": headers, "payload": data}


def _commanded(name: str, subject: str, offset: int, sequence: int, /, **data: Any) -> dict[str, Any]:
    """An event that a command brought about."""
    caused = {
        "type": name,
        "at": _AT,
        "command_id": _COMMAND_ID,
        "partition": _PARTITION,
        "command_offset": offset,
    }
    return _example(name, subject, f"command-{_PARTITION}-{offset}-0", sequence, {**data, **caused})


def _of_order(
    name: str,
    offset: int,
    sequence: int,
    status: str,
    payment: str,
    *,
    order_id: str = _ORDER_ID,
    **more: Any,
) -> dict[str, Any]:
    items = [{"product_id": "sku-1001", "quantity": 2, "price": "129.00"}]
    if order_id == _WHOLE_ID:
        items = [{"product_id": i, "quantity": 1, "price": "129.00"} for i in ("sku-1001", "sku-2002")]
    return _commanded(
        name, order_id, offset, sequence, order_id=order_id, number=number_of(order_id), checkout_id=_CHECKOUT_ID,
        buyer_id="buyer-1", status=status, total=_TOTAL,
        payment={"status": payment, "method": "wechat", "expires_at": _EXPIRES_AT}, items=items, **more,
    )  # fmt: skip


_CREATED = {
    **_LINE,
    "status": "created",
    "order": {
        "order_id": _ORDER_ID,
        "number": number_of(_ORDER_ID),
        **_SHOWN,
        "total": _TOTAL,
        "payment": {"status": "pending", "method": "wechat", "expires_at": _EXPIRES_AT},
    },
}
_REFUSED = {**_LINE, "status": "refused", "reason": "sold_out", "retryable": True}
_OTHER_REFUSED = {"reason": "other_line_refused", "retryable": True}
_OWN_REFUSAL = {"line": 1, "product_id": "sku-2002", "quantity": 1, "reason": "sold_out", "retryable": True}

OF: dict[str, list[dict[str, Any]]] = {
    "order.created": [
        _example("order.created", _ORDER_ID, "3-1042", 1, _CREATED),
        _of_order("order.created", 61, 1, "pending_payment", "pending", order_id=_WHOLE_ID, lines=_WHOLE_LINES),
    ],
    "order.paid": [_of_order("order.paid", 62, 2, "paid", "paid", reference="4200001", late=False)],
    "order.closed": [_of_order("order.closed", 66, 3, "closed_by_merchant", "refund_due", why="damaged")],
    "order.picked": [_of_order("order.picked", 63, 3, "picked", "paid")],
    "order.shipped": [_of_order("order.shipped", 64, 4, "shipped", "paid", carrier="SF", tracking="SF1021")],
    "order.completed": [_of_order("order.completed", 65, 5, "completed", "paid")],
    "payment.failed": [_of_order("payment.failed", 62, 2, "pending_payment", "failed", reference="4200001")],
    "payment.refund_due": [
        _of_order("payment.refund_due", 66, 4, "closed_by_merchant", "refund_due", reference="4200001")
    ],
    "payment.refunded": [
        _of_order("payment.refunded", 67, 5, "closed_by_merchant", "refunded", reference="4200001")
    ],
    "payment.amount_mismatch": [
        _of_order(
            "payment.amount_mismatch", 62, 2, "pending_payment", "pending", reference="4200001", outcome="paid",
            noticed={"amount": "257.99", "currency": _CNY},
        )
    ],
    "checkout.refused": [
        _example("checkout.refused", _CHECKOUT_ID, "3-1042", 0, _REFUSED),
        _commanded(
            "checkout.refused", _CHECKOUT_ID, 61, 0, checkout_id=_CHECKOUT_ID, buyer_id="buyer-1", status="refused",
            decided_at=_AT, lines=[{**_WHOLE_LINES[0], **_OTHER_REFUSED}, _OWN_REFUSAL],
        ),
    ],
    "stock.changed": [
        _commanded(
            "stock.changed", "sku-1001", 68, 0, product_id="sku-1001", kind="restock", units=100, why="delivery 4711",
            actor="merchant:shop", available=580, held=0, pending=12, paid=8,
        )
    ],
    "product.changed": [
        _commanded(
            "product.changed", "sku-1001", 69, 0, product_id="sku-1001", name="Kettle", cover="covers/kettle.jpg",
            price="129.00", currency=_CNY, on_shelf=True, buyer_limit=2, payment_ttl_s=900, version=2,
            sale_price="99.00", sale_from=None, sale_to=None, stock_source=None,
        )
    ],
}  # fmt: skip
