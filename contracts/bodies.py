"""Request bodies: decoded as their type; what is wrong with one is told by its JSON Schema, each error with its place."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from jsonschema import Draft202012Validator, FormatChecker

from contracts import problems
from contracts.messages import Moment
from contracts.openapi import request_schema
from contracts.problems import Problem

ERRORS_MAX = 20  # told of one body
# Of a larger body the first error alone is told: to find all takes long, for everyone else who waits.
EXPLAINED_BYTES_MAX = 8192
PYTHON_END = r"\Z"  # what other dialects of regular expressions write as $

_FORMATS = FormatChecker(formats=())

T = TypeVar("T")


class Body(Generic[T]):
    """Reads bodies of one type."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._schema = Draft202012Validator(request_schema(kind), format_checker=_FORMATS)

    def parse(self, body: bytes) -> T:
        """The body as its type. Raises Problem: 400 if it is not JSON, 422 with every error, or with the first if it has
        more than `EXPLAINED_BYTES_MAX`.
        """
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._invalid(body, error) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(problems.MALFORMED_JSON, f"send a JSON object: {error}") from error

    def peek(self, body: bytes) -> T | None:
        """The body as its type, None if it is not one: for who only wants to look at those that are."""
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _invalid(self, body: bytes, error: msgspec.ValidationError) -> Problem:
        """422; 400 if what comes behind the first error is not JSON: the decoder did not get that far."""
        try:
            content = msgspec.json.decode(body)
            explained = list(self._explain(content)) if len(body) <= EXPLAINED_BYTES_MAX else []
        except (msgspec.ValidationError, RecursionError):  # a number, or a depth, beyond what is taken
            explained = []
        except (msgspec.DecodeError, UnicodeDecodeError) as malformed:
            return Problem(problems.MALFORMED_JSON, f"send a JSON object: {malformed}")
        return Problem(
            problems.INVALID, "correct the fields named in errors", errors=explained or [_first(error)]
        )

    def _explain(self, content: Any) -> Iterator[dict[str, str]]:
        """Every error of a body that failed, by its JSON Schema; none if that allows more than the decoder."""
        found: set[tuple[str, str]] = set()
        for violation in self._schema.iter_errors(content):
            for place in _places(violation):
                if len(found) == ERRORS_MAX:
                    return
                if place not in found:
                    found.add(place)
                    yield {"detail": place[1], "pointer": place[0]}


def _first(error: msgspec.ValidationError) -> dict[str, str]:
    """The one error that the decoder met."""
    detail, _, path = str(error).partition(" - at `")
    return {"detail": detail, "pointer": _pointer_of_path(path.rstrip("`"))}


@_FORMATS.checks("date-time", raises=msgspec.ValidationError)
def _is_moment(value: object) -> bool:
    """A text that the decoder takes for a time."""
    return not isinstance(value, str) or bool(msgspec.convert(value, Moment))


def _places(violation: Any) -> Iterator[tuple[str, str]]:
    """(pointer, detail) of a schema violation; unknown and missing fields are pointed at themselves."""
    where = "#" + "".join(f"/{_escape(part)}" for part in violation.absolute_path)
    if violation.validator == "additionalProperties":
        for name in sorted(set(violation.instance) - set(violation.schema.get("properties", {}))):
            yield f"{where}/{_escape(name)}", "unknown field; remove it or correct its name"
    elif violation.validator == "required":
        for name in sorted(set(violation.validator_value) - set(violation.instance)):
            yield f"{where}/{_escape(name)}", "this field is required"
    elif violation.validator == "anyOf":
        deeper = [v for v in violation.context if v.validator != "type" or v.relative_path]
        for inner in deeper:
            yield from _places(inner)
        if not deeper:
            yield where, "wrong type"
    elif violation.validator == "pattern":
        yield where, f"must match {violation.validator_value.replace(PYTHON_END, '$')}"
    else:
        yield where, _short(violation.message)


def _short(text: str, chars_max: int = 200) -> str:
    return text if len(text) <= chars_max else text[: chars_max - 1] + "…"


def _escape(part: object) -> str:
    """A reference token of a JSON Pointer as a URI fragment (RFC 6901 §6)."""
    return quote(_short(str(part), 64).replace("~", "~0").replace("/", "~1"), safe="!$&'()*+,;=:@")


def _pointer_of_path(path: str) -> str:
    """The decoder's `$.items[0].quantity` as `#/items/0/quantity`."""
    return "#" + path.removeprefix("$").replace("[", "/").replace("]", "").replace(".", "/")
