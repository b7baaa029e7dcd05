"""Idempotency keys, as clients send them."""

from contracts import problems
from contracts.problems import Problem

_IDEMPOTENCY_KEY_CHARS_MAX = 255


def idempotency_key(header: str) -> str:
    """The key of an Idempotency-Key header, quoted (RFC 8941 string) or not: both are the same key.

    Raises Problem 400 if it is empty, longer than 255 characters or not printable ASCII.
    """
    text = header.strip()
    if len(text) >= 2 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not text or len(text) > _IDEMPOTENCY_KEY_CHARS_MAX or not text.isascii() or not text.isprintable():
        raise Problem(
            problems.BAD_REQUEST,
            f"Idempotency-Key must be 1 to {_IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII characters, quoted or not",
        )
    return text
