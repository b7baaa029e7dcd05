"""A history on real servers, from the command line: faults of many kinds, and nothing that must not be."""

import json
import subprocess
from pathlib import Path

import pytest

from contracts.settings import PREFIX
from tests.e2e.test_cli import CLI, env, left_running

__all__ = ["env"]
SEED = 2  # of those with many kinds of faults in so short a time
DURATION = "45"


@pytest.mark.timeout(400)
def test_a_history_of_45_seconds_holds(env: dict[str, str], tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = subprocess.run(
        [*CLI, "chaos", "--duration", DURATION, "--seed", str(SEED), "--slices", "2", "--json", str(report)],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = json.loads(report.read_text())
    assert result["ok"] is True
    assert len(result["faults"]) >= 8
    assert result["submits"]["ok"] > 300
    assert result["polls"]["ok"] > 300
    assert {"pay", "cancel", "close", "restock"} <= set(result["asked"])
    assert result["looks"] > 100
    assert result["totals"]["held"] > 0
    assert result["totals"]["forwarded"] > 0
    assert result["totals"]["created"] > 0
    assert result["violations"] == []
    assert result["broken"] == {}
    assert f"| {SEED} | 1 | {DURATION} |" in done.stdout
    assert left_running(env[f"{PREFIX}HOME"]) == []
    assert list((Path(env[f"{PREFIX}HOME"]) / "chaos").iterdir()) == []
