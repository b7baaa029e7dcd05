"""Errors as RFC 9457 problem details: one table from error to status, one place that writes them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

BASE = "urn:sluiceway:problem:"
CONTENT_TYPE = "application/problem+json"

Headers = list[tuple[str, str]]


class ProblemType(msgspec.Struct, frozen=True):
    """A kind of problem: `code` ends its type URN and is stable."""

    code: str
    status: int
    title: str


MALFORMED_JSON = ProblemType("malformed_json", 400, "The body is not JSON")
BAD_REQUEST = ProblemType("bad_request", 400, "The request cannot be understood")
UNAUTHORIZED = ProblemType("unauthorized", 401, "A valid bearer token is needed")
BAD_SIGNATURE = ProblemType("bad_signature", 401, "The callback is not signed by its provider")
FORBIDDEN = ProblemType("forbidden", 403, "The token does not allow this")
NOT_FOUND = ProblemType("not_found", 404, "There is no such thing here")
UNKNOWN_PRODUCT = ProblemType("unknown_product", 404, "There is no such product")
METHOD_NOT_ALLOWED = ProblemType("method_not_allowed", 405, "The method is not allowed here")
SOLD_OUT = ProblemType("sold_out", 409, "The product is sold out")
LIMIT_REACHED = ProblemType("limit_reached", 409, "No more of these can be kept")
METHOD_NOT_SERVED = ProblemType(
    "payment_method_not_served", 409, "No payment provider serves the order's method"
)
TRANSITION_FORBIDDEN = ProblemType("transition_forbidden", 409, "The order is not where this is allowed")
TOO_LARGE = ProblemType("content_too_large", 413, "The body is too large")
UNSUPPORTED_MEDIA_TYPE = ProblemType("unsupported_media_type", 415, "The body must be of another type")
INVALID = ProblemType("invalid", 422, "Some fields are missing, unknown or wrong")
IDEMPOTENCY_CONFLICT = ProblemType(
    "idempotency_conflict", 422, "The idempotency key was used for something else"
)
CALLBACK_UNREADABLE = ProblemType("callback_unreadable", 422, "The callback cannot be understood")
INTERNAL = ProblemType("internal", 500, "Something went wrong here")
NOT_ACKNOWLEDGED = ProblemType("not_acknowledged", 503, "It could not be confirmed in time")
OVERLOADED = ProblemType("overloaded", 503, "Too many checkouts are waiting")
BACKLOG_FULL = ProblemType("backlog_full", 503, "Too many checkouts wait for their decision")
PAYMENT_REFUSED = ProblemType("payment_refused", 502, "The payment provider did not take it")
UNAVAILABLE = ProblemType("unavailable", 503, "A server behind this one does not answer")

ALL = tuple(value for value in list(globals().values()) if isinstance(value, ProblemType))


class Problem(Exception):
    """Raised to answer a request with a problem document.

    `errors` are {"detail", "pointer"} with JSON Pointers (RFC 6901) into the body as URI fragments, or {"detail",
    "parameter"} with the name of a parameter or header, or {"detail", "line", "field"} of a file's. `headers` have their names in lower case.
    """

    def __init__(
        self,
        kind: ProblemType,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] | None = None,
        headers: Headers | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = headers or []
        self.members = members

    def body(self) -> bytes:
        document: dict[str, Any] = {
            "type": BASE + self.kind.code,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "code": self.kind.code,
        }
        if self.errors:
            document["errors"] = list(self.errors)
        document.update(self.members)
        return orjson.dumps(document)
