"""What can become of a checkout line. Refusals are values, checked in the order of the enum."""

from enum import StrEnum


class Kind(StrEnum):
    """What a message became; one per accepted (partition, offset)."""

    CREATED = "created"
    HELD = "held"  # units kept for an all-or-nothing checkout until all its lines are answered
    REFUSED = "refused"
    REPEATED = "repeated"  # a line decided before: answered the same, no new effect
    CONFLICT = "conflict"  # refused: another payload under the same idempotency key
    FORWARDED = "forwarded"  # sent on to another slice of the product, where it is decided
    DEAD = "dead_lettered"  # not decodable or not valid; set aside in the dead-letter topic


# The decision of a line when it comes for the first time. What comes after it repeats it, or conflicts with it.
FIRST = frozenset({Kind.CREATED, Kind.HELD, Kind.REFUSED})


class Reason(StrEnum):
    """Why a line was refused. The order is the order of precedence: the first that holds is given."""

    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    UNKNOWN_PRODUCT = "unknown_product"
    OFF_SHELF = "off_shelf"
    NOT_ON_SALE = "not_on_sale"
    ADDRESS_UNKNOWN = "address_unknown"
    PRICE_CHANGED = "price_changed"
    TOTAL_NOT_POSITIVE = "total_not_positive"
    TOTAL_TOO_LARGE = "total_too_large"  # more than an amount can say: it could not be paid
    BUYER_LIMIT = "buyer_limit"
    SOLD_OUT = "sold_out"
    INSUFFICIENT_STOCK = "insufficient_stock"
    STOCK_SOURCE_DOWN = "stock_source_down"  # the system that has to agree does not answer
    # Of an all-or-nothing checkout, for lines that could have been sold by themselves:
    MIXED_CURRENCIES = "mixed_currencies"
    OTHER_LINE_REFUSED = "other_line_refused"
    HOLD_EXPIRED = "hold_expired"  # not all lines were answered before the deadline


OF_THE_WHOLE = frozenset({Reason.MIXED_CURRENCIES, Reason.OTHER_LINE_REFUSED, Reason.HOLD_EXPIRED})

# A new checkout (with a new idempotency key) may succeed where one with the same content was refused.
RETRYABLE = frozenset(
    {
        Reason.NOT_ON_SALE,
        Reason.PRICE_CHANGED,
        Reason.SOLD_OUT,
        Reason.INSUFFICIENT_STOCK,
        Reason.STOCK_SOURCE_DOWN,
        Reason.OTHER_LINE_REFUSED,
        Reason.HOLD_EXPIRED,
    }
)


class Refusal(StrEnum):
    """Why a command was refused, in the order of precedence."""

    IDEMPOTENCY_CONFLICT = "idempotency_conflict"  # something else came first under its id: it is not done
    UNKNOWN_ORDER = "unknown_order"
    UNKNOWN_PRODUCT = "unknown_product"
    UNKNOWN_CHECKOUT = "unknown_checkout"
    UNKNOWN_HOLD = "unknown_hold"
    NOT_ALLOWED = "not_allowed"  # the state machine forbids it
    NOT_DUE = "not_due"
    AMOUNT_MISMATCH = "amount_mismatch"
    WINDOW_NOT_ALLOWED = "window_not_allowed"  # the sale would end before it begins
    SLICES_NOT_ALLOWED = "slices_not_allowed"  # not that many slices, or not of a product with slices
    BELOW_COMMITTED = "below_committed"  # fewer units than are held or sold


class Outcome(StrEnum):
    """What became of a command."""

    APPLIED = "applied"
    REFUSED = "refused"
    REPEATED = "repeated"  # decided before under the same command id: no new effect
    DEAD = "dead_lettered"


class OrderStatus(StrEnum):
    """Where an order is in its life; `stock_ledger/lifecycle.py` says how it gets from one to the other."""

    PENDING_PAYMENT = "pending_payment"
    PAID = "paid"
    PICKED = "picked"
    SHIPPED = "shipped"
    COMPLETED = "completed"
    CLOSED_BY_USER = "closed_by_user"
    CLOSED_BY_TIMEOUT = "closed_by_timeout"
    CLOSED_BY_MERCHANT = "closed_by_merchant"


class PaymentStatus(StrEnum):
    """Where the payment of an order is. `failed` may still be paid by another try."""

    PENDING = "pending"
    PAID = "paid"
    FAILED = "failed"
    EXPIRED = "expired"
    REFUND_DUE = "refund_due"
    REFUNDED = "refunded"
