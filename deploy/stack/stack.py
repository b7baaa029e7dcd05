"""The local stack: Kafka (one node or several), Postgres and Valkey under one folder, on loopback, gone with their starter."""

import fcntl
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Self, TypeVar

from deploy.stack import reaper as reaper_program
from deploy.stack.cache import CacheServer
from deploy.stack.kafka import Cluster, KafkaServer
from deploy.stack.postgres import PostgresServer
from deploy.stack.process import Reaper, StackError, StartCancelledError
from deploy.stack.server import Server, Shared

_LOCK_POLL_S = 0.1

AnyServer = TypeVar("AnyServer", bound=Server)


@dataclass(frozen=True)
class Urls:
    """Where the three servers are."""

    kafka: str  # comma separated bootstrap servers
    postgres: str
    redis: str


class LocalStack:
    """The three servers. A given URL replaces that one: it is not started. Also a context manager.

    Everything lives in `data_dir`, except Postgres's data where its account cannot reach that folder (`say` tells).
    Kafka has as many nodes as `kafka_ports` has entries: the ports that clients are told, 0 for a node's own.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        kafka_url: str = "",
        postgres_url: str = "",
        redis_url: str = "",
        kafka_ports: Sequence[int] = (0,),
        say: Callable[[str], None],
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._shared = Shared(say)
        self._given = {"kafka": kafka_url, "postgres": postgres_url, "redis": redis_url}
        cluster = Cluster()
        self._brokers = [
            KafkaServer(self.data_dir / name, self._shared, cluster, advertised=port)
            for name, port in zip(_node_names(len(kafka_ports)), kafka_ports, strict=True)
        ]
        self._postgres = PostgresServer(self.data_dir / "postgres", self._shared)
        self._cache = CacheServer(self.data_dir / "cache", self._shared)
        self._servers: dict[str, list[Server]] = {
            "kafka": [*self._brokers],
            "postgres": [self._postgres],
            "redis": [self._cache],
        }
        self._own = [server for name, of in self._servers.items() if not self._given[name] for server in of]
        self._lock: IO[str] | None = None

    @property
    def kafka(self) -> KafkaServer:
        """The Kafka server, the first of several. Raises StackError if a URL was given instead."""
        return self._handle(self._brokers[0])

    @property
    def brokers(self) -> list[KafkaServer]:
        """All Kafka servers. Raises StackError if a URL was given instead."""
        return [self._handle(broker) for broker in self._brokers]

    @property
    def postgres(self) -> PostgresServer:
        """The Postgres server. Raises StackError if a URL was given instead."""
        return self._handle(self._postgres)

    @property
    def cache(self) -> CacheServer:
        """The Valkey server. Raises StackError if a URL was given instead."""
        return self._handle(self._cache)

    @property
    def reaper(self) -> Reaper:
        """The reaper, which may watch further processes. Raises StackError while the stack is not started."""
        return self._shared.watching()

    @property
    def urls(self) -> Urls:
        """Where the servers are. Raises StackError before the first start."""
        return Urls(
            kafka=self._given["kafka"] or ",".join(broker.url for broker in self._brokers),
            postgres=self._given["postgres"] or self._postgres.url,
            redis=self._given["redis"] or self._cache.url,
        )

    def start(self) -> Urls:
        """Start them side by side and wait until each answers.

        Raises StackError, saying which failed and the end of its log; nothing is left running then, nor after
        an interrupt. Does nothing but tell the URLs when the stack is started.
        """
        if self._shared.reaper is not None:
            return self.urls
        self._lock = self._take_lock()
        try:
            self._shared.cancel.clear()
            self._shared.reaper = Reaper(keep_open=[self._lock.fileno()])
            for server in self._own:
                server.new_life()
            self._start_servers()
            return self.urls
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the servers, last started first, each by force if it takes too long. Idempotent."""
        self._shared.cancel.set()
        try:
            if self._shared.reaper is not None:
                for server in reversed(self._own):
                    server.stop()
        finally:
            if self._shared.reaper is not None:
                self._shared.reaper.close()
                self._shared.reaper = None
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def delete(self) -> None:
        """Stop the servers and delete all their data, also what lies outside `data_dir`. Cannot be undone.

        Raises StackError if another process uses the folder.
        """
        self.stop()
        with self._take_lock():
            if self._postgres in self._own:
                self._postgres.remove_outside()
            for server in self._own:
                shutil.rmtree(server.folder, ignore_errors=True)

    def ended(self) -> list[Server]:
        """Servers of its own that do not run. Raises StackError while the stack is not started."""
        self._shared.watching()
        return [server for server in self._own if server.pid is None]

    def describe(self) -> dict[str, dict[str, str | int | None]]:
        """For each server: its version, process id (None when it does not run), URL, log file and data folder.

        Raises StackError if a server's wheel is not installed. For a server given by URL only the URL is told.
        """
        told: dict[str, dict[str, str | int | None]] = {}
        for name, servers in self._servers.items():
            if self._given[name]:
                told[name] = {"url": self._given[name]}
                continue
            for folder, server in zip(_node_names(len(servers), name), servers, strict=True):
                told[folder] = {
                    "server": server.name,
                    "version": server.version,
                    "pid": server.pid,
                    "url": server.url if server.ports else None,
                    "log": str(server.log_path),
                    "data": str(server.data_path),
                }
        return told

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _handle(self, server: AnyServer) -> AnyServer:
        if server not in self._own:
            raise StackError(f"{server.name} is not this stack's own: a URL was given for it")
        return server

    def _start_servers(self) -> None:
        """Raises the first failure that is a cause, not a consequence, once no start is under way any more."""
        with ThreadPoolExecutor(max(1, len(self._own)), thread_name_prefix="stack") as pool:
            try:
                starting = [pool.submit(server.start) for server in self._own]
                wait(starting, return_when=FIRST_EXCEPTION)
                if any(_problem(future) for future in starting):
                    self._shared.cancel.set()
                wait(starting)
            except BaseException:
                self._shared.cancel.set()
                raise
        problems = [problem for future in starting if (problem := _problem(future)) is not None]
        problems.sort(key=lambda problem: isinstance(problem, StartCancelledError))
        if problems:
            raise problems[0]

    def _take_lock(self) -> IO[str]:
        """Hold the folder alone. The reaper holds the lock with us, so a dead owner's servers are waited for."""
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = (self.data_dir / "lock").open("a+")
        except OSError as error:
            raise StackError(f"The data folder {self.data_dir} cannot be used: {error}") from error
        deadline = monotonic() + reaper_program.GRACE_S + 5
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip()
                if monotonic() > deadline or (
                    owner.isdigit() and reaper_program.started(int(owner)) is not None
                ):
                    lock.close()
                    raise StackError(
                        f"The data folder {self.data_dir} is in use by process {owner or '(unknown)'}: "
                        f"stop that one first, or use another folder"
                    ) from None
            sleep(_LOCK_POLL_S)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        return lock


def _node_names(count: int, name: str = "kafka") -> list[str]:
    """The first keeps the plain name: a single node is a cluster of one."""
    return [name, *(f"{name}-{number}" for number in range(2, count + 1))]


def _problem(future: Future[None]) -> BaseException | None:
    return future.exception() if future.done() else None
