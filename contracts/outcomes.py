"""What can become of a checkout line. Refusals are values, checked in the order of the enum."""

from enum import StrEnum


class Kind(StrEnum):
    """What a message became; one per accepted (partition, offset)."""

    CREATED = "created"
    REFUSED = "refused"
    REPEATED = "repeated"  # a line decided before: answered the same, no new effect
    CONFLICT = "conflict"  # refused: another payload under the same idempotency key
    DEAD = "dead_lettered"  # not decodable or not valid; set aside in the dead-letter topic


class Reason(StrEnum):
    """Why a line was refused. The order is the order of precedence: the first that holds is given."""

    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    UNKNOWN_PRODUCT = "unknown_product"
    OFF_SHELF = "off_shelf"
    ADDRESS_UNKNOWN = "address_unknown"
    PRICE_CHANGED = "price_changed"
    TOTAL_NOT_POSITIVE = "total_not_positive"
    BUYER_LIMIT = "buyer_limit"
    SOLD_OUT = "sold_out"
    INSUFFICIENT_STOCK = "insufficient_stock"


# A new checkout (with a new idempotency key) may succeed where one with the same content was refused.
RETRYABLE = frozenset({Reason.PRICE_CHANGED, Reason.SOLD_OUT, Reason.INSUFFICIENT_STOCK})
