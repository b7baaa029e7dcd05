"""Every error Sluiceway raises on purpose, as one tree. Adapters translate a library's errors into these.

SluicewayError
├── SettingsError            configuration that cannot work; the message names the variables
├── Invalid                  bad input from outside
│   ├── IdempotencyConflict  another payload came before under the same idempotency key
│   ├── UndecodableMessage   a Kafka message that goes to the dead-letter topic
│   ├── BadSignature         a payment callback that cannot be shown to be its provider's, or not of now
│   └── UnreadableCallback   a payment callback that is its provider's, but not understood
├── SoldOut                  nothing of what was asked for is left; it was not taken in
├── NotAcknowledged          no broker ack within the deadline; the outcome is unknown, retry with the same key
├── Overloaded               a bounded queue is full; nothing was taken in
│   └── BacklogFull          writers are too far behind; tells when to come again
├── FenceLost                another writer owns a partition of the batch; nothing was written
├── StaleView                what was loaded is not what Postgres holds; reload and decide again
│   └── SoldMeanwhile        nothing but what buyers have of products with slices is more than was loaded
├── Unavailable              Postgres, the cache or Kafka does not answer; retry
├── PaymentRefused           a payment provider said no to starting or refunding a payment
└── LogTruncated             Kafka no longer has messages that were never decided
"""

import re
from collections.abc import Sequence

# Control characters and halves of surrogate pairs: Postgres and Kafka do not take all of them, nor does a terminal.
_NOT_TEXT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_WHY_CHARS_MAX = 500


def as_text(why: str, chars_max: int) -> str:
    """What was said elsewhere, as it can be kept: cut, and what is not text is escaped."""
    return _NOT_TEXT.sub(lambda found: ascii(found[0])[1:-1], why[:chars_max])[:chars_max]


class SluicewayError(Exception):
    """Base of all errors raised on purpose."""


class SettingsError(SluicewayError):
    """Configuration that cannot work; the message names each variable and how to mend it."""


class Invalid(SluicewayError):
    """Bad input from outside; the message says what to do."""


class IdempotencyConflict(Invalid):
    """Another payload came before under the same idempotency key."""


class UndecodableMessage(Invalid):
    """A message that no retry can make valid: it goes to the dead-letter topic.

    What is wrong is stored with it. It may quote the message, so it is cut, and what is not text is escaped.
    """

    def __init__(self, why: str) -> None:
        super().__init__(as_text(why, _WHY_CHARS_MAX))


class SoldOut(SluicewayError):
    """A checkout was not taken in: nothing is left of `product_ids`, all of its products or, all or nothing, some."""

    def __init__(self, product_ids: Sequence[str]) -> None:
        super().__init__(f"nothing is left of {', '.join(product_ids)}")
        self.product_ids = product_ids


class NotAcknowledged(SluicewayError):
    """The broker did not acknowledge within the deadline; whether the message is in the log is unknown."""


class Overloaded(SluicewayError):
    """A bounded queue is full; nothing was taken in."""


class BacklogFull(Overloaded):
    """Too much of the log waits to be decided; nothing was taken in. Come again after `retry_after_s`."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class FenceLost(SluicewayError):
    """Another writer owns a partition of this batch; the transaction was rolled back."""


class StaleView(SluicewayError):
    """Loaded stock or prices differ from Postgres; the transaction was rolled back."""


class SoldMeanwhile(StaleView):
    """Other slices sold to buyers of the batch since they were loaded; the transaction was rolled back."""


class Unavailable(SluicewayError):
    """A server does not answer or broke the connection; the effect of the last call may be unknown."""


class LogTruncated(SluicewayError):
    """Kafka's first offset lies beyond the next one to decide: accepted checkouts were deleted undecided."""


class BadSignature(Invalid):
    """A payment callback without a good signature, or signed outside of the replay window: nothing of it is believed."""


class UnreadableCallback(Invalid):
    """A payment callback that its provider signed, but that says something this version cannot take in."""


class PaymentRefused(SluicewayError):
    """A payment provider understood and said no; asking the same again changes nothing."""
