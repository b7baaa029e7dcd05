"""What all routes of the read side do with a request before they look into it."""

import gzip
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.api_fakes import token
from tests.unit.api_service import Service, is_problem

MERCHANT: dict[str, Any] = {"buyer": "shop", "token_scope": "merchant"}
ORDER = "5b0c7a52-9d0e-8c61-a3c4-2f1f6f0f9b10"
CALLBACK = ("POST", "/v1/payments/callbacks/sandbox")
WITH_BODY = [
    ("POST", "/v1/addresses"),
    ("PUT", "/v1/cart/p"),
    ("PUT", "/v1/products/p"),
    ("POST", "/v1/products/import"),
    ("POST", f"/v1/orders/{ORDER}/cancel"),
]


EVERYWHERE = [
    *WITH_BODY,
    CALLBACK,
    ("GET", "/v1/orders"),
    ("GET", "/v1/cart"),
    ("GET", f"/v1/checkouts/{ORDER}"),
    ("GET", f"/v1/commands/{ORDER}"),
    ("GET", "/v1/products"),
]


class Chunks:
    """A body in parts, and whether all of them were read."""

    def __init__(self, *parts: bytes) -> None:
        self._parts: Iterator[bytes] = iter(parts)

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def are_read(self) -> bool:
        return next(self._parts, None) is None


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
async def test_a_body_of_another_type_is_read_before_it_is_refused(method: str, path: str) -> None:
    """The server cuts off a client that is answered before."""
    chunks = Chunks(*[b"x" * 100] * 5)
    answered = await Service().send(
        method, path, b"", media_type="image/png", chunks=iter(chunks), **MERCHANT
    )
    assert is_problem(answered, 415, "unsupported_media_type")
    assert chunks.are_read()


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
async def test_too_large_a_body_of_another_type_is_not_read_to_its_end(method: str, path: str) -> None:
    endless = iter(lambda: b"x" * 64 * 1024, b"")
    answered = await Service().send(method, path, b"", media_type="image/png", chunks=endless, **MERCHANT)
    assert is_problem(answered, 413, "content_too_large")
    assert answered.headers["connection"] == "close"


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "identity, br", "x-none"])
@pytest.mark.parametrize(("method", "path"), [*WITH_BODY, CALLBACK])
async def test_an_encoded_body_is_read_and_refused(method: str, path: str, coding: str) -> None:
    how: dict[str, Any] = MERCHANT | ({"media_type": "text/csv"} if path.endswith("import") else {})
    chunks = Chunks(gzip.compress(b"{}"), b"x")
    answered = await Service().send(
        method, path, b"", headers=[("Content-Encoding", coding)], chunks=iter(chunks), **how
    )
    assert is_problem(answered, 415, "unsupported_media_type")
    assert "without Content-Encoding" in answered.json["detail"]
    assert answered.headers["accept-encoding"] == "identity"
    assert chunks.are_read()


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
async def test_identity_is_no_encoding(coding: str) -> None:
    home = {"contact_name": "Wang Fang", "phone": "+86 138", "address": "1 Example Road"}
    answered = await Service().send("POST", "/v1/addresses", home, headers=[("Content-Encoding", coding)])
    assert answered.status == 201


@pytest.mark.parametrize("name", ["Idempotency-Key", "Authorization"])
@pytest.mark.parametrize(("method", "path"), EVERYWHERE)
async def test_a_header_of_which_one_counts_is_refused_twice(method: str, path: str, name: str) -> None:
    service = Service()
    chunks = Chunks(b"{", b"}")
    twice = [(name, f"Bearer {token('shop')}"), (name, "another")]
    answered = await service.send(
        method, path, None if method == "GET" else b"", headers=twice, chunks=iter(chunks), buyer=None
    )
    assert is_problem(answered, 400, "bad_request")
    assert answered.json["detail"] == f"send the header {name.lower()} once"
    assert chunks.are_read()
    assert service.commands.published == []
    assert service.reads.calls == service.view.calls == []


async def test_too_large_a_body_with_a_header_twice_is_not_read_to_its_end() -> None:
    endless = iter(lambda: b"x" * 64 * 1024, b"")
    twice = [("Idempotency-Key", "a")] * 2
    answered = await Service().send("POST", "/v1/addresses", b"", headers=twice, chunks=endless)
    assert is_problem(answered, 413, "content_too_large")
    assert answered.headers["connection"] == "close"


async def test_other_headers_may_come_twice() -> None:
    assert (await Service().get("/v1/products", headers=[("Accept", "a"), ("Accept", "b")])).status == 200
