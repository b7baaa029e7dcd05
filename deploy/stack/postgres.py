"""Postgres: durable, on TCP only, never as root."""

import asyncio
import os
import shutil
import signal
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import ClassVar

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from deploy.stack import account, pg_wheel
from deploy.stack.process import StackError
from deploy.stack.server import Launch, Server, Shared

DATABASE = "sluiceway"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # the path of a socket may be too long
    "logging_collector": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "max_connections": "100",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "wal_buffers": "16MB",
    "wal_compression": "off",  # this build has pglz alone, which takes longer than writing what it saves
    "max_wal_size": "2GB",
    "min_wal_size": "512MB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "effective_cache_size": "1GB",
    "random_page_cost": "1.1",
    "jit": "off",
}


class PostgresServer(Server):
    """A Postgres server with the database `sluiceway`. Its data survives stop(), kill() and restart()."""

    name: ClassVar[str] = "Postgres"
    port_names: ClassVar[tuple[str, ...]] = ("postgres",)
    stop_signal: ClassVar[int] = signal.SIGINT  # fast: sessions are ended, a checkpoint is made
    stop_s: float = 20.0
    retry_marks: ClassVar[tuple[str, ...]] = (
        "Address already in use",
        "pre-existing shared memory block",  # the children of a killed server are still going
    )

    def __init__(self, folder: Path, shared: Shared) -> None:
        super().__init__(folder, shared)
        self._user: account.Account | None = None
        self._programs = Path()

    @property
    def url(self) -> str:
        # What PGSSLMODE says where we run is about other servers.
        return f"postgresql://postgres@127.0.0.1:{self.port}/{DATABASE}?sslmode=disable"

    @property
    def version(self) -> str:
        return pg_wheel.version(pg_wheel.programs(None, self._shared.say))

    @property
    def data_path(self) -> Path:
        return self._home() / "data"

    def prepare(self) -> None:
        try:
            self._user = account.unprivileged()
        except LookupError as error:
            raise StackError(f"Postgres refuses to run as root, and {error}. Set a Postgres URL") from error
        self._programs = pg_wheel.programs(self._user, self._shared.say)
        home = self._make_home()
        data = home / "data"
        if not (data / "PG_VERSION").exists():
            self._init(home)
        if self._user is None and not os.access(data, os.R_OK | os.W_OK | os.X_OK):
            raise StackError(
                f"{data} belongs to another account: start as that one, or with another data folder"
            )
        found, wanted = (
            (data / "PG_VERSION").read_text().strip(),
            pg_wheel.version(self._programs).split(".")[0],
        )
        if found != wanted:
            raise StackError(
                f"{data} was made by Postgres {found}, this is {wanted}: use another data folder"
            )
        _own_lock(data / "postmaster.pid")

    def launch(self) -> Launch:
        settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        argv = [str(self._programs / "postgres"), "-D", str(self.data_path), "-p", str(self.port), *settings]
        return Launch(argv, _environment(), Path("/"), self._user)

    def answers(self, pid: int) -> bool:
        lines = (self.data_path / "postmaster.pid").read_text().split("\n")
        if len(lines) < 8 or lines[0] != str(pid) or lines[7].strip() != "ready":
            return False
        answered = threading.Event()

        def ask() -> None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                asyncio.run(_make_database(self.port))
                answered.set()

        asking = threading.Thread(target=ask, name="postgres-ready")  # the caller's thread may run a loop
        asking.start()
        asking.join()
        return answered.is_set()

    def stop_at_once(self) -> None:
        """An immediate shutdown: no checkpoint, sessions are cut; the next start recovers from the log. Idempotent."""
        with self._mutex:
            self._end(signal.SIGQUIT)

    def remove_outside(self) -> None:
        """Delete what lies outside the server's folder. To be called while it is stopped."""
        self._user, home = account.unprivileged(), self._home()
        if home != self.folder / "cluster" and self._trusted(home):
            shutil.rmtree(home, ignore_errors=True)

    def _init(self, home: Path) -> None:
        fresh = home / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        argv = [str(self._programs / "initdb"), "-D", str(fresh), "-U", "postgres", "--auth=trust"]
        argv += ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        how = Launch(argv, _environment(), Path("/"), self._user)
        self.run_tool(argv, like=how, log_path=self.folder / "initdb.log", timeout_s=120)
        shutil.rmtree(home / "data", ignore_errors=True)
        fresh.rename(home / "data")

    def _home(self) -> Path:
        """The folder that holds the data folder: ours, or the remembered one elsewhere."""
        try:
            return Path((self.folder / "location.txt").read_text().strip())
        except FileNotFoundError:
            return self.folder / "cluster"

    def _make_home(self) -> Path:
        """The home, made if it does not exist, owned by and reachable for the account that runs Postgres."""
        user, home = self._user, self._home()
        remembered = home != self.folder / "cluster"
        if remembered and self._trusted(home):
            return home
        if remembered:
            self._shared.say(
                f"Postgres's data was in {home}, which is gone or not its own any more: starting empty"
            )
            (self.folder / "location.txt").unlink()
            home = self._home()
        if not home.exists():
            home.mkdir(mode=0o700)
            if user is not None:
                os.chown(home, user.uid, user.gid)
        if user is None or (
            self._trusted(home) and account.may(user, "w", home) and account.may(user, "x", home)
        ):
            return home
        return self._make_home_elsewhere(user)

    def _make_home_elsewhere(self, user: account.Account) -> Path:
        home = Path(mkdtemp(prefix="sluiceway-pg-", dir=pg_wheel.SHARED_TMP))
        os.chown(home, user.uid, user.gid)
        (self.folder / "location.txt").write_text(f"{home}\n")
        self._shared.say(f"The account {user.name} cannot reach {self.folder}: Postgres's data is in {home}")
        return home

    def _trusted(self, home: Path) -> bool:
        """Whether it is a folder, no link, of the account that runs Postgres and closed to others."""
        try:
            found = home.lstat()
        except FileNotFoundError:
            return False
        owner = os.geteuid() if self._user is None else self._user.uid
        return home.is_dir() and not home.is_symlink() and found.st_uid == owner and not found.st_mode & 0o077


def _own_lock(lock: Path) -> None:
    """Let a lock that a killed server left name this process. The server's number may be anybody's by now, who would be
    taken for it; the parent of the one to come is not. Whether its children still go is asked of its shared memory, as ever.
    """
    try:
        _, end, rest = lock.read_text().partition("\n")
        descriptor = os.open(lock, os.O_WRONLY)
    except FileNotFoundError:
        return
    try:
        if end:  # else it is cut short, of which Postgres says what to do
            content = f"{os.getpid()}\n{rest}".encode()
            os.write(descriptor, content)  # at once: a lock that is empty is one that nobody dares to take
            os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def _environment() -> dict[str, str]:
    """Nothing of the caller's: PG* variables would change what the server does."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


async def _make_database(port: int) -> None:
    """Create the database unless it exists; proves on the way that statements are served."""
    connection = await asyncpg.connect(
        host="127.0.0.1",
        port=port,
        user="postgres",
        database="postgres",
        ssl=False,
        timeout=5,
        target_session_attrs=SessionAttribute.any,  # as ssl: what PG* variables say is about other servers
    )
    try:
        known = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE)
        if known is None:
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
    finally:
        await connection.close()
