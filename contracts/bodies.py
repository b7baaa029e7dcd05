"""Request bodies: decoded as their type; what is wrong with one is told by its JSON Schema, every error with its place."""

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec
import orjson
from jsonschema import Draft202012Validator

from contracts import problems
from contracts.openapi import request_schema
from contracts.problems import Problem

ERRORS_MAX = 20  # told of one body
PYTHON_END = r"\Z"  # what other dialects of regular expressions write as $

T = TypeVar("T")


class Body(Generic[T]):
    """Reads bodies of one type."""

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(kind)
        self._schema = Draft202012Validator(request_schema(kind))

    def parse(self, body: bytes) -> T:
        """The body as its type. Raises Problem: 400 if it is not JSON, 422 with every error."""
        try:
            return self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._invalid(body, error) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Problem(problems.MALFORMED_JSON, f"send a JSON object: {error}") from error

    def _invalid(self, body: bytes, error: msgspec.ValidationError) -> Problem:
        """422; 400 if what comes behind the first error is not JSON: the decoder did not get that far."""
        try:
            content = orjson.loads(body)
        except orjson.JSONDecodeError as malformed:
            return Problem(problems.MALFORMED_JSON, f"send a JSON object: {malformed}")
        errors = list(self._explain(content, error))
        return Problem(problems.INVALID, "correct the fields named in errors", errors=errors)

    def _explain(self, content: Any, error: msgspec.ValidationError) -> Iterator[dict[str, str]]:
        """Every error of a body that failed, by its JSON Schema; else the one that the decoder met."""
        found: set[tuple[str, str]] = set()
        for violation in self._schema.iter_errors(content):
            for place in _places(violation):
                if len(found) == ERRORS_MAX:
                    return
                if place not in found:
                    found.add(place)
                    yield {"detail": place[1], "pointer": place[0]}
        if not found:
            detail, _, path = str(error).partition(" - at `")
            yield {"detail": detail, "pointer": _pointer_of_path(path.rstrip("`"))}


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
    """A reference token of a JSON Pointer (RFC 6901 §3)."""
    return _short(str(part), 64).replace("~", "~0").replace("/", "~1")


def _pointer_of_path(path: str) -> str:
    """The decoder's `$.items[0].quantity` as `#/items/0/quantity`."""
    return "#" + path.removeprefix("$").replace("[", "/").replace("]", "").replace(".", "/")
