"""What HTTP clients send and get. The OpenAPI document is made from these types, and they validate."""

from typing import Annotated, Literal

import msgspec

from contracts.messages import Currency, Id, Moment, Money, Note, PaymentMethod, Shipping, Uuid
from contracts.outcomes import OrderStatus, PaymentStatus, Reason


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many units of a product. A product named twice counts as one item with the sum.

    With `from_cart` the product's line leaves the buyer's cart the moment it becomes an order, whatever its quantity
    there is by then; a line that is refused stays in the cart.
    """

    product_id: Id
    quantity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    from_cart: bool = False


class CheckoutRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkout. Exactly one of `address_id` and `shipping` is given.

    `policy` tells what several products are to each other: `independent`, each is bought or refused by itself;
    `all_or_nothing`, all become one order or all are refused.

    `expected_total` is the sum over all items that the buyer saw; every line is refused with `price_changed` if the
    catalogue has come to another one.
    """

    items: Annotated[list[Item], msgspec.Meta(min_length=1)]
    policy: Literal["independent", "all_or_nothing"] = "independent"
    address_id: Id | None = None
    shipping: Shipping | None = None
    payment_method: PaymentMethod = "wechat"
    note: Note = ""
    expected_total: Money | None = None


class AcceptedLine(msgspec.Struct, frozen=True):
    """Where a line lies in the log: its place in the queue and its audit trail."""

    product_id: Id
    quantity: int
    partition: int
    offset: int


class Accepted(msgspec.Struct, frozen=True):
    """The checkout is in the log and will be decided. `receipt` signs the lines' positions for this buyer.

    `idempotency_key` is the client's, or one made here (`idempotency_key_source` says which): sending the same
    request with it again is the same checkout.
    """

    checkout_id: Uuid
    status_url: str
    accepted_at: Moment
    idempotency_key: str
    idempotency_key_source: Literal["client", "server"]
    receipt: str
    lines: list[AcceptedLine]


class Total(msgspec.Struct, frozen=True):
    """An amount in the main unit of a currency, exact."""

    amount: str
    currency: Currency


class LinePayment(msgspec.Struct, frozen=True):
    """The payment an order waits for."""

    status: Literal["pending"]
    method: str
    expires_at: Moment


class LineOrder(msgspec.Struct, frozen=True):
    """The order a line became, with the item as it was when it was decided. All lines of an all-or-nothing checkout
    became the same order; `total` is the order's.
    """

    order_id: Uuid
    number: str
    name: str
    cover: str
    price: Total
    total: Total
    payment: LinePayment


class QueuedLine(msgspec.Struct, frozen=True, tag_field="status", tag="queued"):
    """A line that waits. `ahead` messages come before it; it never grows. `eta_s` is None while nothing is measured."""

    line: int
    partition: int
    offset: int
    ahead: int
    eta_s: float | None


class HeldLine(msgspec.Struct, frozen=True, tag_field="status", tag="held"):
    """A line of an all-or-nothing checkout whose units were kept, until the checkout as a whole has its answer."""

    line: int
    partition: int
    offset: int
    decided_at: Moment
    product_id: str
    quantity: int


class CreatedLine(msgspec.Struct, frozen=True, tag_field="status", tag="created"):
    """A line that became an order. `partition` and `offset` are where it was decided, or held; `decided_at` is when
    the order was made.
    """

    line: int
    partition: int
    offset: int
    decided_at: Moment
    product_id: str
    quantity: int
    order: LineOrder


class RefusedLine(msgspec.Struct, frozen=True, tag_field="status", tag="refused"):
    """A line that was refused. `retryable` says whether a new checkout with the same content may succeed.

    Final even where it is of an all-or-nothing checkout that still waits for other lines.
    """

    line: int
    partition: int
    offset: int
    decided_at: Moment
    product_id: str
    quantity: int
    reason: Reason
    retryable: bool


class DeadLetteredLine(msgspec.Struct, frozen=True, tag_field="status", tag="dead_lettered"):
    """A line that could not be decided and was set aside for the operators; `detail` says what was wrong."""

    line: int
    partition: int
    offset: int
    decided_at: Moment
    detail: str


Line = QueuedLine | HeldLine | CreatedLine | RefusedLine | DeadLetteredLine


class CheckoutStatus(msgspec.Struct, frozen=True):
    """What is known of a checkout. `queued` until every line is decided; then `created` if every line became an order,
    `refused` if none did, `partly_created` otherwise. With policy `all_or_nothing` it is `queued` until there is one
    answer for all of it, and never `partly_created`.

    `ahead` and `eta_s` are the largest of the queued lines'; None if a line's is not known, as without a receipt. While
    lines are decided and the one answer is not there, `ahead` is 0 and `eta_s` None.
    """

    checkout_id: Uuid
    status: Literal["queued", "created", "partly_created", "refused"]
    lines: list[Line]
    ahead: int | None = 0
    eta_s: float | None = 0.0


class OrderItem(msgspec.Struct, frozen=True):
    """An item of an order as it was when it was decided."""

    line: int
    product_id: str
    name: str
    cover: str
    price: Total
    quantity: int


class OrderRefund(msgspec.Struct, frozen=True):
    """A payment of the order that is due back or was given back."""

    reference: str
    status: Literal["due", "refunded"]


class OrderPayment(msgspec.Struct, frozen=True):
    """The payment of an order. `reference` is the provider's name for the payment that was taken. An order that was
    paid twice has the second payment among its `refunds` alone.
    """

    status: PaymentStatus
    method: str
    amount: Total
    expires_at: Moment
    reference: str | None = None
    refunds: list[OrderRefund] = []


class OrderView(msgspec.Struct, frozen=True):
    """An order with snapshots of its items and its address. `sequence` is the number of its newest event, from 1."""

    order_id: Uuid
    number: str
    checkout_id: Uuid
    status: OrderStatus
    total: Total
    shipping: Shipping
    note: str
    created_at: Moment
    items: list[OrderItem]
    payment: OrderPayment
    sequence: int


class OrderPage(msgspec.Struct, frozen=True):
    """Orders, newest first. `next` is the URL of the next page, None at the end."""

    orders: list[OrderView]
    next: str | None
