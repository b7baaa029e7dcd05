"""What every HTTP process answers alike: problems, health, JSON. As RSGI applications; listens to nothing itself."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import orjson
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from contracts import problems
from contracts.problems import Headers, Problem

logger = logging.getLogger(__name__)

JSON = ("content-type", "application/json")
ONCE = ("authorization", "idempotency-key")  # headers of which nobody may choose one of two
_CHALLENGE = ("www-authenticate", 'Bearer realm="sluiceway"')


class Answer(NamedTuple):
    """A response: status, headers with their names in lower case, body."""

    status: int
    headers: Headers
    body: bytes


Page = Callable[[], Awaitable[Answer]]
Ready = Callable[[], Awaitable[tuple[bool, dict[str, object]]]]  # (ready, what to tell)


class RequestHeaders(Protocol):
    """Names are in lower case. A value that is not UTF-8 is in none but `__contains__`."""

    def items(self) -> list[tuple[str, str]]: ...
    def __contains__(self, name: str) -> bool: ...


class Scope(Protocol):
    """What is used of an RSGI request's head (https://github.com/emmett-framework/granian, docs/spec/RSGI.md)."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def headers(self) -> RequestHeaders: ...


class Exchange(Protocol):
    """What is used of an RSGI HTTP protocol: the body whole or in chunks, and the response. HEAD sends no body."""

    def __call__(self) -> Awaitable[bytes]: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def response_bytes(self, status: int, headers: Headers, body: bytes) -> None: ...


async def respond(scope: Scope, exchange: Exchange, answering: Awaitable[Answer]) -> None:
    """Send what `answering` gives. Its problems are answered as such; the trace of any other error is only logged."""
    try:
        answer = await answering
    except Problem as problem:
        answer = answer_of(problem)
    except ProtocolClosed:
        return  # the client left before its body was read
    except Exception:
        logger.exception("%s %s failed", scope.method, scope.path, extra={"action": "http_error"})
        answer = answer_of(
            Problem(
                problems.INTERNAL, "the error is in the server's log; try again, with the same key if any"
            )
        )
    exchange.response_bytes(*answer)


def sent_twice(name: str) -> Problem:
    """400 for a header, one of `ONCE`, that came more than once."""
    return Problem(problems.BAD_REQUEST, f"send the header {name} once")


def encoded(values: Iterable[str]) -> Problem | None:
    """415 for a body with a coding, None if it is as it is; `values` are those of its Content-Encoding headers."""
    if {coding.strip() for value in values for coding in value.lower().split(",")} <= {"", "identity"}:
        return None
    return Problem(
        problems.UNSUPPORTED_MEDIA_TYPE, "send the body as it is, without Content-Encoding",
        headers=[("accept-encoding", "identity")],  # RFC 9110 §12.5.3
    )  # fmt: skip


def answer_of(problem: Problem) -> Answer:
    """The problem as a response, with the headers its kind needs."""
    headers = [("content-type", problems.CONTENT_TYPE), *problem.headers]
    if problem.kind == problems.UNAUTHORIZED:
        headers.append(_CHALLENGE)
    return Answer(problem.kind.status, headers, problem.body())


def not_allowed(method: str, path: str, allowed: str) -> Problem:
    """405; `allowed` as the Allow header has it."""
    detail = f"{method} is not allowed at {path}; {allowed} is"
    return Problem(problems.METHOD_NOT_ALLOWED, detail, headers=[("allow", allowed)])


class Pages:
    """An RSGI application of pages by path, which are read with GET or HEAD."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages

    async def __rsgi__(self, scope: Scope, exchange: Exchange) -> None:
        await respond(scope, exchange, self.answer(scope))

    async def answer(self, scope: Scope) -> Answer:
        """Raises Problem: 404 where no page is, 405 for other methods."""
        page = self._pages.get(scope.path)
        if page is None:
            raise Problem(problems.NOT_FOUND, f"nothing is at {scope.path}")
        if scope.method not in ("GET", "HEAD"):
            raise not_allowed(scope.method, scope.path, "GET, HEAD")
        return await page()


def health(ready: Ready) -> dict[str, Page]:
    """/livez and /readyz."""

    async def livez() -> Answer:
        return json_answer({"status": "alive"})

    async def readyz() -> Answer:
        is_ready, told = await ready()
        return json_answer({"status": "ready" if is_ready else "not ready", **told}, 200 if is_ready else 503)

    return {"/livez": livez, "/readyz": readyz}


def json_answer(content: Any, status: int = 200) -> Answer:
    return Answer(status, [JSON], orjson.dumps(content))
