"""What the paths of the OpenAPI document are put together from."""

from typing import Any

from contracts import openapi_examples as examples
from contracts import problems
from contracts.messages import UUID_PATTERN
from contracts.problems import ProblemType

RETRY_AFTER = {
    "description": "Seconds to wait before asking (again).",
    "schema": {"type": "integer", "minimum": 1},
}
CACHE_CONTROL = {
    "description": "`no-store` while queued, else `private`.",
    "schema": {"type": "string"},
}
READING = (
    problems.BAD_REQUEST,
    problems.UNAUTHORIZED,
    problems.METHOD_NOT_ALLOWED,
    problems.INTERNAL,
    problems.UNAVAILABLE,
)


def path_id(name: str, example: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": UUID_PATTERN}
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def json_of(schema: str, **values: Any) -> dict[str, Any]:
    named = {name: {"value": value} for name, value in values.items()}
    return {"application/json": {"schema": ref(schema), "examples": named}}


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def problems_of(*kinds: ProblemType) -> dict[str, Any]:
    """Responses by status. Where several kinds share a status, its description and examples name each."""
    by_status: dict[int, list[ProblemType]] = {}
    for kind in sorted(kinds, key=lambda kind: kind.status):
        by_status.setdefault(kind.status, []).append(kind)
    responses: dict[str, Any] = {}
    for status, of_status in by_status.items():
        if len(of_status) == 1:
            responses[str(status)] = {"$ref": f"#/components/responses/{of_status[0].code}"}
            continue
        responses[str(status)] = problem_response(*of_status)
    return responses


def problem_response(*kinds: ProblemType) -> dict[str, Any]:
    """A response with one of these problems, all of one status, and the headers that they bring."""
    status = kinds[0].status
    headers: dict[str, Any] = {}
    if status == 503:
        headers["Retry-After"] = RETRY_AFTER
    if problems.UNAUTHORIZED in kinds or problems.FORBIDDEN in kinds:
        headers["WWW-Authenticate"] = {"description": "RFC 6750 §3.", "schema": {"type": "string"}}
    if problems.UNSUPPORTED_MEDIA_TYPE in kinds:
        headers["Accept-Encoding"] = {
            "description": "Where the body was encoded.",
            "schema": {"const": "identity"},
        }
    if status == 405:
        headers["Allow"] = {"description": "The methods that are.", "schema": {"type": "string"}}
    named = {kind.code: {"value": examples.problem(kind)} for kind in kinds}
    return {
        "description": "; ".join(f"{kind.title} (`{kind.code}`)" for kind in kinds),
        **({"headers": headers} if headers else {}),
        "content": {problems.CONTENT_TYPE: {"schema": ref("Problem"), "examples": named}},
    }
