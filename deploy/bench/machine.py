"""On what a measurement was made."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from deploy.stack import LocalStack


class Machine(msgspec.Struct, frozen=True):
    """`load_average` is of the minute before: what else the machine had to do."""

    at: str
    cores: int
    processor: str
    memory_gb: float
    system: str
    python: str
    servers: dict[str, str]
    load_average: float


def describe(stack: LocalStack) -> Machine:
    """What runs this program, now."""
    servers = {name: str(told.get("version") or told["url"]) for name, told in stack.describe().items()}
    return Machine(
        at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        cores=os.cpu_count() or 1,
        processor=_processor(),
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        system=f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        python=platform.python_version(),
        servers=servers,
        load_average=round(os.getloadavg()[0], 1),
    )


def text(machine: Machine) -> str:
    """In two lines."""
    servers = ", ".join(f"{name} {version}" for name, version in machine.servers.items())
    return (
        f"{machine.at}: {machine.cores} cores of {machine.processor}, {machine.memory_gb:.0f} GB, {machine.system}\n"
        f"Python {machine.python}; {servers}; load average before: {machine.load_average}"
    )


def _processor() -> str:
    """Its name, where the system tells one."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
