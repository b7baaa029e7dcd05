"""How the URLs of servers are written. Their clients would fail too, but name no variable, and may quote a password."""

import re
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

_SERVER = re.compile(r"(?:\[[^\[\]\s]+\]|[^\[\]\s:/@,]+)(?::([0-9]+))?")  # IPv6 addresses have brackets


def is_kafka(servers: str) -> bool:
    """One server, or several with commas between."""
    return all(map(_is_server, servers.split(",")))


def is_postgres(url: str) -> bool:
    """As libpq has it: none, one or several servers, also in the query, where they may be folders of sockets."""
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError:
        return False
    servers = _listed([parts.netloc.split("@", 1)[-1], *query.get("host", [])])
    return (
        url.startswith(("postgresql://", "postgres://"))
        and url == url.rstrip()
        and all(server.startswith("/") or _is_server(server) for server in servers)
        and all(map(_is_port, _listed(query.get("port", []))))
    )


def is_redis(url: str) -> bool:
    """A server, also over TLS, or a socket."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if url.startswith("unix://"):
        return parts.path.startswith("/")
    server, database = parts.netloc.rpartition("@")[2], parts.path.strip("/")
    return (
        url.startswith(("redis://", "rediss://"))
        and url == url.rstrip()
        and (not server or _is_server(server))
        and (not database or _is_number(database))
    )


def is_http(url: str) -> bool:
    """A server and perhaps a path: a secret is no part of it, nor anything that a path could not be put after."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and _is_server(parts.netloc)
        and not {"?", "#"} & set(url)
        and not any(map(str.isspace, url))
    )


def _listed(texts: Iterable[str]) -> list[str]:
    return [one for text in texts if text for one in text.split(",")]


def _is_server(text: str) -> bool:
    found = _SERVER.fullmatch(text)
    return found is not None and (found[1] is None or _is_port(found[1]))


def _is_port(text: str) -> bool:
    return _is_number(text) and 0 < int(text) <= 65535


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 5
