"""Starting and ending child processes so that none can be left behind."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.stack import reaper as reaper_program
from deploy.stack.account import Account

# The child says its own number to the reaper before it becomes the program, so that there is no moment in which
# it runs unknown. Its standard input is the reaper's pipe until then, and nothing afterwards.
# A reaper that has just died is no reason to fail: `watch` replaces it.
_REGISTER = (
    """trap '' PIPE; printf '+%s %s\\n' "$$" "$0" >&0 2>/dev/null; trap - PIPE; exec "$@" </dev/null"""
)


class StackError(RuntimeError):
    """A local server cannot be started, reached or used; the message says what to do about it."""


class StartCancelledError(StackError):
    """Starting was given up because something else failed or the user interrupted."""


class Reaper:
    """Ends the processes it watches when this process goes, whichever way it goes.

    `keep_open` are file descriptors the reaper holds as well (a lock, say) until everything is ended.
    Safe to use from several threads.
    """

    def __init__(self, *, keep_open: Sequence[int] = ()) -> None:
        self._keep_open = tuple(keep_open)
        self._watched: dict[subprocess.Popen[bytes], int] = {}
        self._mutex = threading.RLock()
        self._process = self._spawn()

    @property
    def pid(self) -> int:
        """The reaper's own process id."""
        return self._process.pid

    @property
    def fd(self) -> int:
        """The descriptor that `+PGID SIGNAL` lines go to; a reaper that has died is replaced first."""
        with self._mutex:
            if self._process.poll() is not None:
                self._replace()
            return self._pipe()

    def watch(self, process: subprocess.Popen[bytes], *, sig: int = signal.SIGTERM) -> None:
        """Look after the process group that it leads; `sig` is what asks the leader to stop."""
        with self._mutex:
            self._watched[process] = int(sig)
            self._write(f"+{process.pid} {int(sig)}\n")

    def watches(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether its number is still its own: not given away since it was released."""
        with self._mutex:
            return process in self._watched

    def release(self, process: subprocess.Popen[bytes]) -> None:
        """Stop looking after it. To be called once it is waited for: its number may be given away then."""
        with self._mutex:
            if self._watched.pop(process, None) is not None:
                self._write(f"-{process.pid}\n")

    def close(self) -> None:
        """End whatever is still watched, and the reaper. Waits until it is done. Idempotent."""
        with self._mutex:
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._watched.clear()
        try:
            self._process.wait(reaper_program.GRACE_S + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-I", "-S", str(Path(reaper_program.__file__).resolve())]
        return subprocess.Popen(  # noqa: S603
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=self._keep_open,
            cwd="/",
            bufsize=0,
        )

    def _pipe(self) -> int:
        if self._process.stdin is None or self._process.stdin.closed:
            raise StackError("The reaper is closed: nothing can be started with it any more")
        return self._process.stdin.fileno()

    def _write(self, line: str) -> None:
        try:
            os.write(self._pipe(), line.encode())
        except BrokenPipeError:
            self._replace()  # tells the new one of everything, this line's effect included

    def _replace(self) -> None:
        self._pipe()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = self._spawn()
        for process, sig in self._watched.items():
            os.write(self._pipe(), f"+{process.pid} {sig}\n".encode())


def spawn(
    argv: Sequence[str],
    *,
    log_path: Path,
    env: Mapping[str, str] | None,
    reaper: Reaper,
    cwd: Path | None = None,
    user: Account | None = None,
    sig: int = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a program in its own session, output appended to `log_path`, watched from its first instant.

    `sig` is what asks it to stop if we are gone. `user` drops root's rights first.
    A program that cannot be executed ends with status 126 or 127 and says so in its log.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        process = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _REGISTER, str(int(sig)), *argv],
            stdin=reaper.fd,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else [],
        )
    reaper.watch(process, sig=sig)
    return process


def end(
    process: subprocess.Popen[bytes], reaper: Reaper, *, sig: int = signal.SIGTERM, grace_s: float
) -> bool:
    """Ask a spawned process to stop, kill its whole group after `grace_s` seconds, wait for it, release it.

    Returns whether it stopped by itself, in time. SIGKILL as `sig` kills the group at once. Idempotent.
    """
    if not reaper.watches(process):
        return True  # it was ended before: its number may be another's by now
    in_time = True
    if process.poll() is None:
        if sig != signal.SIGKILL:
            process.send_signal(sig)
            reaper_program.send(process.pid, signal.SIGCONT, whole_group=True)
        try:
            process.wait(0 if sig == signal.SIGKILL else grace_s)
        except subprocess.TimeoutExpired:
            in_time = False
            reaper_program.send(process.pid, signal.SIGKILL, whole_group=True)
            process.wait()
    reaper_program.send(process.pid, signal.SIGKILL, whole_group=True)  # what its leader may have left
    reaper.release(process)
    return in_time


def tail(log_path: Path, lines: int = 12, *, skip_bytes: int = 0) -> str:
    """The last lines of a log file, from `skip_bytes` on; empty if it cannot be read."""
    try:
        with log_path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(skip_bytes, log.tell() - 16_384))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
