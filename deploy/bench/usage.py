"""What processes use: processor time and memory of each with all its children, bytes written to Postgres' and Kafka's logs."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from deploy.bench.ground import Ground

WAL = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn"
_MB = 1024 * 1024


class Use(msgspec.Struct, frozen=True):
    """Processor seconds by process since each began; bytes in Postgres' log and in the ground's topics."""

    cpu_s: dict[str, float]
    wal_bytes: int
    topic_bytes: int


def processes(ground: Ground) -> dict[str, int]:
    """Process ids by name: the servers, and what runs on the ground."""
    stack = ground.bench.stack
    servers = {"kafka": stack.kafka.pid, "postgres": stack.postgres.pid, "cache": stack.cache.pid}
    members = {m.name: m.process.pid for m in ground.fleet.members if m.process is not None}
    return {name: pid for name, pid in servers.items() if pid is not None} | members


async def used(ground: Ground) -> Use:
    return Use(
        {name: cpu_s(pid) for name, pid in processes(ground).items()},
        int((await ground.fetch(WAL))[0][0]),
        topic_bytes(ground.bench.stack.kafka.data_path, ground.settings.topic_prefix),
    )


def cpu_s(pid: int) -> float:
    """Seconds of a process and all its children, those that have ended included."""
    root = psutil.Process(pid)
    own = root.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for process in root.children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue  # its parent has its times now
        total += times.user + times.system
    return float(total)


def memory_mb(pid: int) -> float:
    """Resident memory of a process and all its children. What they share counts once where the system can tell."""
    root = psutil.Process(pid)
    children = root.children(recursive=True)
    if not children:
        return float(root.memory_info().rss / _MB)
    total = 0
    for process in [root, *children]:
        try:
            told = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        total += getattr(told, "pss", told.uss)
    return total / _MB


def topic_bytes(data: Path, prefix: str) -> int:
    """Bytes of the messages in topics with this prefix."""
    return sum(segment.stat().st_size for segment in data.glob(f"{prefix}.*/*.log"))


def per_order(before: Use, after: Use, orders: int) -> Mapping[str, float]:
    """Processor microseconds of each process for an order."""
    return {name: 1e6 * (after.cpu_s[name] - s) / orders for name, s in before.cpu_s.items()}
