"""What the three local servers have in common: starting, readiness, stopping, being killed."""

import json
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from deploy.stack import ports, process, reaper
from deploy.stack.account import Account
from deploy.stack.process import Reaper, StackError, StartCancelledError

_POLL_S = 0.02
_LOG_MAX_BYTES = 8 * 1024 * 1024
_ATTEMPTS = 6
_PORT_WAIT_S = 5.0


@dataclass
class Shared:
    """What the servers of one stack share."""

    say: Callable[[str], None]
    cancel: threading.Event = field(default_factory=threading.Event)
    reaper: Reaper | None = None

    def watching(self) -> Reaper:
        """The running reaper. Raises StackError while the stack is not started."""
        if self.reaper is None:
            raise StackError("The stack is not started: call start() on it first")
        return self.reaper

    def wait(self, seconds: float) -> None:
        """Wait; raises StartCancelledError as soon as the start is given up."""
        if self.cancel.wait(seconds):
            raise StartCancelledError("The start was given up")


@dataclass(frozen=True)
class Launch:
    """How to start a server's process."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    user: Account | None = None


class Server(ABC):
    """One server with a folder of its own, on loopback. Its methods may be called from any thread."""

    name: ClassVar[str]
    port_names: ClassVar[tuple[str, ...]]
    stop_signal: ClassVar[int] = signal.SIGTERM
    stop_s: float = 10.0
    ready_s: ClassVar[float] = 60.0
    retry_marks: ClassVar[tuple[str, ...]] = ("Address already in use",)

    def __init__(self, folder: Path, shared: Shared) -> None:
        self.folder = folder
        self.log_path = folder / "server.log"
        self.ports: dict[str, int] = {}
        self._shared = shared
        self._process: subprocess.Popen[bytes] | None = None
        self._mutex = threading.RLock()
        self._answered_before = False

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it. Its port is known once it has been started."""

    @property
    @abstractmethod
    def version(self) -> str:
        """The server's version."""

    @property
    @abstractmethod
    def data_path(self) -> Path:
        """Where its data is."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what has to exist before the first start. Called before every start."""

    @abstractmethod
    def launch(self) -> Launch:
        """The command for the ports in `self.ports`."""

    @abstractmethod
    def answers(self, pid: int) -> bool:
        """Whether the server run by `pid`, and no other, serves requests. OSError counts as no."""

    @property
    def pid(self) -> int | None:
        """The main process, None when it does not run."""
        found = self._process
        return found.pid if found is not None and found.poll() is None else None

    @property
    def port(self) -> int:
        """The port clients connect to. Raises StackError before the first start."""
        if not self.ports:
            raise StackError(f"{self.name} has not been started yet")
        return self.ports[self.port_names[0]]

    def start(self) -> None:
        """Start it and wait until it answers; nothing is done if it runs.

        Raises StackError with the end of its log if it does not come up; it is stopped then.
        """
        with self._mutex:
            if self.pid is not None:
                return
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._end_leftover()
                self.prepare()
                self._rotate_log()
            except OSError as error:
                raise self._failure(f"its folder {self.folder} cannot be used: {error}") from error
            for attempt in range(_ATTEMPTS):
                if self._attempt(last=attempt == _ATTEMPTS - 1):
                    return

    def new_life(self) -> None:
        """Nobody holds its ports any more: a taken one may be replaced at the next start."""
        self.ports, self._answered_before = {}, False

    def stop(self) -> None:
        """Stop it in good order, by force after `stop_s` seconds. Idempotent."""
        with self._mutex:
            self._end(self.stop_signal)

    def kill(self) -> None:
        """SIGKILL, as a crash of it would look. Idempotent."""
        with self._mutex:
            self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it if it runs, and start it again with the same port and data. Raises StackError as start() does."""
        with self._mutex:
            self.stop()
            self.start()

    def run_tool(self, argv: Sequence[str], *, like: Launch, log_path: Path, timeout_s: float) -> None:
        """Run a helper program of the server to its end. Raises StackError unless it succeeds in time."""
        watching = self._shared.watching()
        log_path.unlink(missing_ok=True)
        tool = process.spawn(
            argv, log_path=log_path, env=like.env, reaper=watching, cwd=like.cwd, user=like.user
        )
        try:
            deadline = time.monotonic() + timeout_s
            while tool.poll() is None:
                if time.monotonic() > deadline:
                    raise self._failure(f"{Path(argv[0]).name} took more than {timeout_s:.0f} s", log_path)
                self._shared.wait(_POLL_S)
        finally:
            process.end(tool, watching, sig=signal.SIGKILL, grace_s=0)
        if tool.returncode != 0:
            raise self._failure(f"{Path(argv[0]).name} ended with status {tool.returncode}", log_path)

    def _attempt(self, *, last: bool) -> bool:
        """Start once. False: it lost its port, or needs its predecessor to be gone; worth another try."""
        self._choose_ports()
        skip = self.log_path.stat().st_size if self.log_path.exists() else 0
        how = self.launch()
        self._process = process.spawn(
            how.argv,
            log_path=self.log_path,
            env=how.env,
            reaper=self._shared.watching(),
            cwd=how.cwd,
            user=how.user,
            sig=self.stop_signal,
        )
        try:
            self._remember(self._process.pid)
            if self._wait_until_it_answers(self._process):
                self._answered_before = True
                return True
            self._check_retry(self._process, process.tail(self.log_path, 200, skip_bytes=skip), last=last)
            self._end(signal.SIGKILL)
            self._shared.wait(0.2)
        except BaseException:
            self._end(self.stop_signal)
            raise
        return False

    def _check_retry(self, child: subprocess.Popen[bytes], said: str, *, last: bool) -> None:
        if last or not any(mark in said for mark in self.retry_marks):
            raise self._failure(f"it ended with status {child.returncode} while starting")

    def _wait_until_it_answers(self, child: subprocess.Popen[bytes]) -> bool:
        """True once it answers, False if it has ended. Raises StackError when the time is up."""
        deadline = time.monotonic() + self.ready_s
        while child.poll() is None:
            with suppress(OSError):
                if self.answers(child.pid):
                    return True
            if time.monotonic() > deadline:
                raise self._failure(f"it did not answer within {self.ready_s:.0f} s")
            self._shared.wait(_POLL_S)
        return False

    def _choose_ports(self) -> None:
        """Ports once used in this stack's life are kept, clients hold them; else a taken one is replaced."""
        stored = self.folder / "ports.json"
        if not self.ports:
            self.ports = ports.choose(stored, self.port_names)
            return
        deadline = time.monotonic() + _PORT_WAIT_S
        while not all(map(ports.is_free, self.ports.values())):
            if not self._answered_before:
                self.ports = ports.choose(stored, self.port_names, anew=True)
                return
            if time.monotonic() > deadline:
                raise StackError(
                    f"{self.name}: another process has taken its port {self.port}; start the stack anew"
                )
            self._shared.wait(_POLL_S)

    def _remember(self, pid: int) -> None:
        (self.folder / "pid.json").write_text(json.dumps({"pid": pid, "started": reaper.started(pid)}) + "\n")

    def _end_leftover(self) -> None:
        """End a server of ours from an earlier life that lost both its stack and its reaper to SIGKILL."""
        try:
            stored = json.loads((self.folder / "pid.json").read_text())
            pid, began = int(stored["pid"]), stored["started"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return
        if began is not None and reaper.started(pid) == began:
            self._shared.say(f"{self.name}: ending process {pid}, left from an earlier start")
            reaper.end({pid: reaper.Watched(self.stop_signal, began)}, self.stop_s)

    def _end(self, sig: int) -> None:
        child, self._process = self._process, None
        if child is None:
            return
        process.end(child, self._shared.watching(), sig=sig, grace_s=self.stop_s)
        (self.folder / "pid.json").unlink(missing_ok=True)

    def _rotate_log(self) -> None:
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_MAX_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))

    def _failure(self, what: str, log_path: Path | None = None) -> StackError:
        log_path = log_path or self.log_path
        end = process.tail(log_path) or "(the log is empty)"
        return StackError(
            f"{self.name} cannot be started: {what}.\nThe end of {log_path}:\n{end}\n"
            f"Look there for the cause, or point to a server of your own by its URL."
        )
