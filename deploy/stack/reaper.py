"""The last one out: ends the processes it was told of when the process that started them is gone.

Runs as a process of its own (`python -I -S reaper.py`), reading its standard input, a pipe whose other end
only the starter holds. `+PGID SIGNAL` says: look after this process group, and ask its leader to stop with this
signal number. `-PGID` says: it is gone and waited for. At end of file the starter has ended, be it by SIGKILL:
whatever is still watched is asked to stop, then killed. Standard library only.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

GRACE_S = 10.0  # from the polite signal to SIGKILL
_POLL_S = 0.05
_PROC = Path("/proc")


class _Stat(NamedTuple):
    state: str
    group: int
    started: str


class Watched(NamedTuple):
    """A process group to look after: the signal that asks its leader to stop, and when the leader began."""

    signal: int
    started: str | None


def _stat(pid: int) -> _Stat | None:
    """What the system knows of a process, or None if there is none. `started` is only good for comparing."""
    if (_PROC / "self" / "stat").exists():
        try:
            fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return _Stat(fields[0], int(fields[2]), fields[19])
    command = ["ps", "-o", "state=,pgid=,lstart=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    words = found.stdout.split(maxsplit=2)
    return _Stat(words[0], int(words[1]), words[2].strip()) if len(words) == 3 else None


def started(pid: int) -> str | None:
    """When the process began, in the system's own notation; None when it is gone or only waits to be reaped."""
    found = _stat(pid)
    return None if found is None or found.state.startswith(("Z", "X")) else found.started


def group_alive(group: int) -> bool:
    """Whether any process of the group still runs. Dead ones that nobody has waited for do not count."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if not (_PROC / "self" / "stat").exists():
        return True
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    stats = (found for pid in pids if (found := _stat(pid)) is not None)
    return any(found.group == group and not found.state.startswith(("Z", "X")) for found in stats)


def send(group: int, number: int, *, whole_group: bool) -> None:
    """Signal a group or only its leader. One that is gone, or not ours any more, is no error."""
    try:
        (os.killpg if whole_group else os.kill)(group, number)
    except (ProcessLookupError, PermissionError):
        return


def end(watched: dict[int, Watched], grace_s: float = GRACE_S) -> None:
    """Ask every group to stop, newest first, and kill what is left after `grace_s` seconds.

    A number whose process began at another time than the one we were told of belongs to somebody else: left alone.
    """
    groups: list[int] = []
    for group, told in reversed(watched.items()):
        now = started(group)
        if now is not None and told.started is not None and now != told.started:
            continue
        groups.append(group)
        send(group, told.signal, whole_group=now is None)
        send(group, signal.SIGCONT, whole_group=True)
    deadline = time.monotonic() + grace_s
    while groups and time.monotonic() < deadline:
        groups = [group for group in groups if group_alive(group)]
        time.sleep(_POLL_S if groups else 0)
    for group in groups:
        send(group, signal.SIGKILL, whole_group=True)


def main() -> None:
    """Read what to look after until the starter is gone, then end it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[int, Watched] = {}
    for raw in sys.stdin.buffer:
        words = raw.split()
        if raw.startswith(b"+") and len(words) == 2:
            group = int(words[0][1:])
            watched[group] = Watched(int(words[1]), started(group))
        elif raw.startswith(b"-") and len(words) == 1:
            watched.pop(int(words[0][1:]), None)
    end(watched)


if __name__ == "__main__":
    main()
