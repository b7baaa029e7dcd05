"""The processes of a local deployment: started, watched, started again when they die, stopped in order."""

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec

from contracts.settings import PREFIX, Settings
from deploy.stack import LocalStack, StackError, end, spawn, tail
from deploy.stack.ports import find_free

logger = logging.getLogger(__name__)

READY_S = 60.0
STOP_GRACE_S = 12.0
_PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.2, 5.0)  # before each start anew; the last one goes on
_ROOT = Path(__file__).resolve().parent.parent


class Member:
    """One process of the fleet. `role` is the CLI command that it runs."""

    def __init__(self, name: str, role: str, port: int, settings: Settings, log_path: Path) -> None:
        self.name = name
        self.role = role
        self.port = port
        self.settings = settings
        self.log_path = log_path
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        self.restarts = 0

    @property
    def url(self) -> str:
        host = self.settings.host
        return (
            f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        )  # RFC 3986 §3.2.2


class Fleet:
    """The members beside a local stack. Every member ends when this process does, whichever way it goes."""

    def __init__(self, stack: LocalStack, log_dir: Path, say: Callable[[str], None]) -> None:
        self._stack = stack
        self._log_dir = log_dir
        self._say = say
        self._ports: set[int] = set()
        self.members: list[Member] = []

    def add(self, role: str, settings: Settings, port: int = 0) -> Member:
        """A new member, started. Port 0 is a free one."""
        member = self.enlist(role, settings, port)
        self.start(member)
        return member

    def enlist(self, role: str, settings: Settings, port: int = 0) -> Member:
        """A new member that is not started yet."""
        if not port:
            port = find_free(self._ports)
        self._ports.add(port)
        count = sum(m.role == role for m in self.members) + 1
        name = f"{role}-{count}"
        own = msgspec.structs.replace(settings, **{f"{role}_port": port})
        member = Member(name, role, port, own, self._log_dir / f"{name}.log")
        self.members.append(member)
        return member

    def of(self, role: str) -> list[Member]:
        return [member for member in self.members if member.role == role]

    def start(self, member: Member) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        member.process = spawn(
            [sys.executable, "-m", "deploy.cli", member.role],
            log_path=member.log_path,
            env=env | member.settings.as_env() | {f"{PREFIX}HOME": str(self._stack.data_dir)},
            reaper=self._stack.reaper,
            cwd=_ROOT,
        )
        member.wanted = True  # not before: `watch` would start it anew for the end of the process before

    def kill(self, member: Member) -> None:
        """SIGKILL, and leave it dead until `start`."""
        member.wanted = False
        if member.process is not None:
            end(member.process, self._stack.reaper, sig=signal.SIGKILL, grace_s=0)

    def terminate(self, member: Member) -> None:
        """SIGTERM, wait for its end, and leave it so until `start`."""
        member.wanted = False
        if member.process is not None and not end(member.process, self._stack.reaper, grace_s=STOP_GRACE_S):
            self._say(f"{member.name} did not stop within {STOP_GRACE_S:.0f} s and was killed")

    def restart(self, member: Member) -> None:
        """SIGTERM, wait for its end, start it anew."""
        self.terminate(member)
        self.start(member)

    def signal(self, member: Member, number: int) -> None:
        """Send it a signal that does not end it, such as SIGSTOP."""
        if member.process is not None and member.process.poll() is None:
            member.process.send_signal(number)

    async def wait_ready(self) -> None:
        """Wait until every member's /readyz says so. Raises StackError with the end of its log otherwise.

        Members that were stopped are left out.
        """
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
            await asyncio.gather(
                *(self._wait_ready(http, member) for member in self.members if member.wanted)
            )

    async def _wait_ready(self, http: aiohttp.ClientSession, member: Member) -> None:
        deadline = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(f"{member.url}/readyz") as response:
                    if response.status == 200:
                        return
            code = None if member.process is None else member.process.poll()
            if code is not None or time.monotonic() > deadline:
                what = (
                    f"ended with status {code}" if code is not None else f"is not ready after {READY_S:.0f} s"
                )
                raise StackError(
                    f"{member.name} {what}. The end of {member.log_path}:\n{tail(member.log_path)}"
                )
            await asyncio.sleep(0.05)

    async def watch(self) -> None:
        """Start members again that died without being asked to, until cancelled."""
        while True:
            for member in self.members:
                if (
                    member.wanted
                    and member.process is not None
                    and (code := member.process.poll()) is not None
                ):
                    member.restarts += 1
                    self._say(
                        f"{member.name} ended with status {code}; starting it again (log: {member.log_path})"
                    )
                    ended = member.process
                    end(ended, self._stack.reaper, grace_s=0)
                    await asyncio.sleep(_PAUSES_S[min(member.restarts, len(_PAUSES_S)) - 1])
                    if member.wanted and member.process is ended:  # nobody has killed or started it meanwhile
                        self.start(member)
            await asyncio.sleep(0.2)

    def stop(self) -> None:
        """Ask all to stop, then wait for each."""
        running = [m for m in self.members if m.process is not None]
        for member in running:
            member.wanted = False
            if member.process is not None and member.process.poll() is None:
                member.process.send_signal(signal.SIGTERM)
        for member in running:
            if member.process is not None and not end(
                member.process, self._stack.reaper, grace_s=STOP_GRACE_S
            ):
                self._say(f"{member.name} did not stop within {STOP_GRACE_S:.0f} s and was killed")
