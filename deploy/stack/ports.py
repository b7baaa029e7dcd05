"""Loopback ports: chosen free, remembered in a file, chosen anew when somebody else has them."""

import json
import random
import socket
from collections.abc import Set as AbstractSet
from pathlib import Path

_LOW, _HIGH = (
    20_000,
    32_000,
)  # below what systems give to outgoing connections, which may connect to themselves
_ATTEMPTS = 64


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
            trial.listen(1)
        except OSError:
            return False
    return True


def find_free(taken: AbstractSet[int]) -> int:
    """A loopback port nobody listens on, not among `taken`. Raises OSError when the system has none."""
    source = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        port = source.randrange(_LOW, _HIGH)
        if port not in taken and is_free(port):
            return port
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


def load(path: Path) -> dict[str, int]:
    """The remembered ports by name; none if the file is missing or not what we wrote."""
    try:
        stored = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {str(name): port for name, port in stored.items() if isinstance(port, int) and 0 < port < 65_536}


def choose(
    path: Path, names: tuple[str, ...], *, anew: bool = False, taken: AbstractSet[int] = frozenset()
) -> dict[str, int]:
    """A port for every name: the remembered one while it is free (unless `anew`), else another; remembered.

    None is among `taken`.
    """
    stored = {} if anew else load(path)
    chosen: dict[str, int] = {}
    for name in names:
        port = stored.get(name)
        others = taken | set(chosen.values())
        if port is None or port in others or not is_free(port):
            port = find_free(others)
        chosen[name] = port
    path.write_text(json.dumps(chosen) + "\n")
    return chosen
