"""The command line as a user meets it: a small sale, an interrupt, bad configuration."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from contracts.settings import PREFIX
from deploy.stack import Urls
from tests.harness import eventually

CLI = [sys.executable, "-m", "deploy.cli"]
ROOT = Path(__file__).parent.parent.parent
FULL = Path("/dev/full")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX) or k == f"{PREFIX}CACHE_DIR"}
    return own | {f"{PREFIX}HOME": str(tmp_path / "a home"), "PYTHONPATH": str(ROOT)}


def left_running(home: str) -> list[str]:
    """Processes that were started with this home and still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(f"{PREFIX}HOME") == home and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue  # gone meanwhile, or not ours to see
    return found


def test_a_demo_sells_audits_and_reports(env: dict[str, str], tmp_path: Path) -> None:
    report, prefix = tmp_path / "report.json", f"t{os.getpid()}"
    options = [
        "--checkouts",
        "1500",
        "--buyers",
        "300",
        "--products",
        "30",
        "--stock",
        "200",
        "--json",
        str(report),
    ]
    own = env | {f"{PREFIX}TOPIC_PREFIX": prefix}
    done = subprocess.run(
        [*CLI, "demo", *options], env=own, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(report.read_text())
    assert result["submitted"] == 1500
    assert result["audit_ok"] is True
    assert result["lost"] == result["oversold"] == result["dead_lettered"] == 0
    taken = result["created"] + result["held"]
    assert result["decided"] == taken + sum(result["refused"].values()) + result["repeated"]
    assert set(result["rejected_at_edge"]) >= {"409", "422"}
    assert result["refused"]["sold_out"] > 0
    assert set(result["decision_ms"]) == {"p50", "p99"}
    assert result["disagreements"] == []
    assert {"paid", "closed_by_user", "closed_by_timeout"} <= set(result["funnel"]["statuses"])
    assert "pending_payment" not in result["funnel"]["statuses"]
    assert result["hot_stock"]["returned"] > 0
    assert result["hot_stock"]["sold_again"] > 0
    assert sorted(tmp_path.iterdir()) == [Path(env[f"{PREFIX}HOME"]), report]
    assert list(ROOT.glob(f"{prefix}-*")) == []
    assert left_running(env[f"{PREFIX}HOME"]) == []


async def test_up_starts_a_dead_server_again_and_an_interrupt_leaves_nothing_running(
    env: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        running = subprocess.Popen(  # noqa: ASYNC220 - it is watched without blocking
            [*CLI, "up"], env=env, cwd=tmp_path, stdout=output, stderr=output
        )
    try:
        await eventually(
            lambda: "Ctrl-C stops everything" in log.read_text() or running.poll() is not None, 90
        )
        assert running.poll() is None, log.read_text()
        assert len(left_running(env[f"{PREFIX}HOME"])) > 0
        cache = json.loads((Path(env[f"{PREFIX}HOME"]) / "up" / "cache" / "pid.json").read_text())
        os.kill(cache["pid"], signal.SIGKILL)
        await eventually(lambda: "Valkey runs again" in log.read_text(), 30)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
    finally:
        running.kill()
        running.wait()
    assert "Data and logs are in" in log.read_text()
    assert "Traceback" not in log.read_text()
    await eventually(lambda: left_running(env[f"{PREFIX}HOME"]) == [], 10)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("PARTITIONS", "many", "SLUICEWAY_PARTITIONS"),
        ("PARTITION", "16", "is not a setting"),
        ("STALL_EXIT_S", "1", "SLUICEWAY_STALL_EXIT_S must exceed"),
        ("RECEIPT_SECRET", "short", "SLUICEWAY_RECEIPT_SECRET"),
    ],
)
def test_bad_settings_end_a_process_with_what_to_mend(
    env: dict[str, str], variable: str, value: str, told: str
) -> None:
    own = env | {PREFIX + variable: value}
    done = subprocess.run([*CLI, "ingest"], env=own, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert told in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_a_worker_that_cannot_be_looked_at_ends(env: dict[str, str]) -> None:
    """Another process has its port: nobody could tell whether it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = env | {
            f"{PREFIX}WORKER_PORT": str(taken.getsockname()[1]),
            f"{PREFIX}KAFKA_URL": "127.0.0.1:1",
            f"{PREFIX}POSTGRES_URL": "postgresql://127.0.0.1:1/none",
            f"{PREFIX}REDIS_URL": "redis://127.0.0.1:1",
        }
        done = subprocess.run(
            [*CLI, "worker"], env=own, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 1
    assert "choose another port" in done.stderr


def test_doctor_finds_what_is_missing(env: dict[str, str], urls: Urls) -> None:
    own = env | {
        f"{PREFIX}KAFKA_URL": urls.kafka,
        f"{PREFIX}POSTGRES_URL": urls.postgres,
        f"{PREFIX}REDIS_URL": urls.redis,
    }
    done = subprocess.run([*CLI, "doctor"], env=own, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    told = " ".join(done.stdout.split())
    assert "run `sluiceway topics`" in told
    assert "run `sluiceway migrate`" in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "No such command"),
        (["catalogue"], "say import, export"),
        (["demo", "--checkouts", "many"], "integer"),
        (["audit", "--jason"], "No such option"),
        (["bench", "--plot"], "requires an argument"),
        (["bench", "--table", "."], "name a file in a folder that exists"),
        (
            ["buyer", "erase", "buyer-1", "--json", "no-such-folder/erased.json"],
            "name a file in a folder that exists",
        ),
        (
            ["buyer", "export", "buyer-1", "-o", "no-such-folder/buyer.json"],
            "name a file in a folder that exists",
        ),
    ],
)
def test_a_wrong_command_line_is_told_in_a_line(env: dict[str, str], arguments: list[str], told: str) -> None:
    done = subprocess.run([*CLI, *arguments], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told_in_a_line(env: dict[str, str], unbuffered: str) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [*CLI, "simulate", "--seed", "0"],
            env=env | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "make room" in done.stderr
    assert "Traceback" not in done.stderr


def test_standard_output_may_be_closed(env: dict[str, str]) -> None:
    """Its number is no socket's then: the loop would abort the process when it closes that."""
    closed = 'exec "$@" >&-'
    done = subprocess.run(
        ["sh", "-c", closed, "sh", *CLI, "doctor"], env=env, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
