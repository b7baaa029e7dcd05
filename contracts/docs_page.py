"""The OpenAPI document as one readable page: HTML and CSS alone, nothing fetched from anywhere."""

import html
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from contracts.problems import BASE, ProblemType

_CSS = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881;--accent:#0a6cc2}
body{font:16px/1.55 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem 1.25rem 4rem}
h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}h3{margin-top:2rem}
code,pre{font:.875em/1.5 ui-monospace,monospace}pre{background:var(--soft);padding:.75rem;overflow-x:auto}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.925em}
td,th{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line)}
.method{color:var(--accent);font-weight:700}a{color:var(--accent)}nav a{margin-right:1rem;white-space:nowrap}
summary{cursor:pointer}
"""
_CONSTRAINTS = (
    ("minimum", "≥ {}"), ("maximum", "≤ {}"), ("minLength", "≥ {} characters"), ("maxLength", "≤ {} characters"),
    ("minItems", "≥ {} items"), ("pattern", "matches {}"), ("format", "{}"), ("const", "always {}"),
)  # fmt: skip


def page(document: dict[str, Any], problems: Iterable[ProblemType]) -> str:
    """The page of an OpenAPI 3.1 document whose schemas are among its components."""
    info = document["info"]
    operations = [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    ]
    links = "".join(f'<a href="#{o["operationId"]}">{_text(o["summary"])}</a> ' for _, _, o in operations)
    schemas = document["components"]["schemas"]
    parts = [
        f"<h1>{_text(info['title'])} <small>{_text(info['version'])}</small></h1>",
        f"<p>{_text(info['description'])} As a document for tools: <a href=openapi.json>openapi.json</a>.</p>",
        f"<nav>{links}<a href=#schemas>Schemas</a><a href=#problems>Problems</a></nav>",
        *(_operation(document, *operation) for operation in operations),
        "<h2 id=schemas>Schemas</h2>",
        *(_schema(name, schema) for name, schema in schemas.items()),
        "<h2 id=problems>Problems</h2>",
        _table(
            ("Status", "code", "type", "Title"),
            [(str(p.status), _code(p.code), _code(BASE + p.code), _text(p.title)) for p in problems],
        ),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(info['title'])}</title><style>{_CSS}</style></head><body>{''.join(parts)}</body></html>"
    )


def _operation(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [
        (_code(p["name"]), p["in"] + (", required" if p.get("required") else ""), _described(p["schema"], p))
        for p in operation.get("parameters", ())
    ]
    secured = bool(operation.get("security", document["security"]))
    body = operation.get("requestBody", {}).get("content", {})
    parts = [
        f'<h2 id="{operation["operationId"]}">{_text(operation["summary"])}</h2><p><span class=method>',
        f"{method.upper()}</span> {_code(path)}{' with a bearer token' if secured else ''}</p>",
        f"<p>{_text(operation.get('description', ''))}</p>",
        _table(("Parameter", "In", "What"), rows) if rows else "",
        "<h3>Request body</h3>" + _content(body) if body else "",
        f"<h3>Example call</h3><pre>{_text(_curl(method, path, operation, secured=secured))}</pre>",
        "<h3>Responses</h3>",
        *(_response(document, status, r) for status, r in operation["responses"].items()),
    ]
    return "".join(parts)


def _response(document: dict[str, Any], status: str, response: dict[str, Any]) -> str:
    if "$ref" in response:
        response = document["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    headers = "".join(
        f"<li>{_code(name)}: {_text(header['description'])}</li>"
        for name, header in response.get("headers", {}).items()
    )
    inside = (f"<ul>{headers}</ul>" if headers else "") + _content(response.get("content", {}))
    opened = " open" if status.startswith("2") else ""
    return f"<details{opened}><summary><b>{status}</b> {_text(response['description'])}</summary>{inside}</details>"


def _content(content: dict[str, Any]) -> str:
    parts = []
    for media_type, media in content.items():
        parts.append(f"<p>{_code(media_type)}: {_type(media['schema'])}</p>")
        for name, example in media.get("examples", {}).items():
            parts.append(f"<p>Example: {_text(name.replace('_', ' '))}</p>{_json(example['value'])}")
    return "".join(parts)


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (_code(field), "yes" if field in required else "", _described(of, of))
        for field, of in schema.get("properties", {}).items()
    ]
    fields = _table(("Field", "Required", "What"), rows) if rows else f"<p>{_type(schema)}</p>"
    return f'<h3 id="schema-{name}">{name}</h3><p>{_text(schema.get("description", ""))}</p>{fields}'


def _described(schema: dict[str, Any], about: dict[str, Any]) -> str:
    default = f" Default {_code(orjson.dumps(schema['default']).decode())}." if "default" in schema else ""
    return f"{_type(schema)}.{default} {_text(about.get('description', ''))}"


def _type(schema: dict[str, Any]) -> str:
    """The type in words, constraints included, as HTML."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f'<a href="#schema-{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(_code(str(value)) for value in schema["enum"])
    kind = schema.get("type", "")
    text = f"array of {_type(schema['items'])}" if kind == "array" else _text(kind)
    rules = [rule.format(_code(str(schema[key]))) for key, rule in _CONSTRAINTS if key in schema]
    examples = [f"such as {_code(str(example))}" for example in schema.get("examples", ())]
    return ", ".join(part for part in (text, *rules, *examples) if part)


def _curl(method: str, path: str, operation: dict[str, Any], *, secured: bool) -> str:
    query = []
    headers = ['-H "Authorization: Bearer $TOKEN"'] if secured else []
    for parameter in operation.get("parameters", ()):
        example = parameter.get("example", "")
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", example)
        elif example and parameter["in"] == "query":
            values = example if isinstance(example, list) else [example]
            query += [f"{parameter['name']}={value}" for value in values]
        elif example:
            headers.append("-H " + shlex.quote(f"{parameter['name']}: {example}"))
    content = operation.get("requestBody", {}).get("content", {})
    for media_type, media in list(content.items())[:1]:
        value = next(iter(media["examples"].values()))["value"]
        data = (
            f"--data-binary {shlex.quote(value)}"
            if isinstance(value, str)
            else f"-d {shlex.quote(orjson.dumps(value).decode())}"
        )
        headers += [f"-H 'Content-Type: {media_type}'", data]
    url = f'"$URL{path}{"?" + "&".join(query) if query else ""}"'
    verb = "" if method == "get" else f" -X {method.upper()}"
    return " \\\n  ".join([f"curl -i{verb} {url}", *headers])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells of `rows` are HTML already."""
    heads = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{heads}</tr>{lines}</table></div>"


def _json(value: Any) -> str:
    return f"<pre>{_text(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())}</pre>"


def _code(text: str) -> str:
    return f"<code>{html.escape(text)}</code>"


def _text(text: str) -> str:
    """Escaped; what stands between backticks as code."""
    pieces = html.escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if i % 2 else piece for i, piece in enumerate(pieces))
