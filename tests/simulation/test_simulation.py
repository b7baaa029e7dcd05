"""The simulation: no seed violates anything, every planted bug is found, and a seed is always the same run."""

import gc
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from rich.console import Console

from deploy.simulation import report
from deploy.simulation.many import simulate_many
from deploy.simulation.run import CHECKOUTS, FAULTS_MIN, simulate
from tests.simulation.command_plants import COMMAND_PLANTS
from tests.simulation.plants import PLANTS, Plant
from tests.simulation.postgres_plants import POSTGRES_PLANTS
from tests.simulation.regression_plants import REGRESSIONS
from tests.simulation.slice_plants import SLICE_PLANTS

SEEDS = 500
PLANT_SEEDS_MAX = 2000

ALL_PLANTS = (*PLANTS, *COMMAND_PLANTS, *POSTGRES_PLANTS, *SLICE_PLANTS)


@pytest.mark.timeout(900)  # it takes all cores, which may have other work
def test_no_seed_violates_anything() -> None:
    outcomes = list(simulate_many(0, SEEDS))
    assert {o.seed: o.violation for o in outcomes if o.violation} == {}
    assert len(outcomes) == SEEDS
    assert min(o.checkouts for o in outcomes) >= CHECKOUTS >= 200
    assert min(len(o.faults) for o in outcomes) >= FAULTS_MIN >= 5
    assert sum(o.decisions for o in outcomes) > SEEDS * CHECKOUTS * 0.8


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Future[bool]]]:
    """Whether each planted bug is found: all are looked for at once, on every core."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        yield {plant.__name__: pool.submit(is_found, plant) for plant in ALL_PLANTS}
        pool.shutdown(cancel_futures=True)


def is_found(plant: Plant) -> bool:
    gc.freeze()
    with plant():
        return any(shows(seed) for seed in range(PLANT_SEEDS_MAX))


def shows(seed: int) -> bool:
    """Whether the auditor finds something. A crash counts for nothing: it may be the plant's own."""
    outcome = simulate(seed)
    return bool(outcome.violation) and not outcome.crashed


@pytest.mark.timeout(900)
@pytest.mark.parametrize("plant", [plant.__name__ for plant in ALL_PLANTS])
def test_a_planted_bug_is_found(plant: str, found: dict[str, Future[bool]]) -> None:
    assert found[plant].result()


@pytest.mark.parametrize("plant", REGRESSIONS, ids=lambda plant: plant.__name__)
def test_what_was_mended_is_found_by_its_seed(plant: Plant) -> None:
    seed = REGRESSIONS[plant]
    with plant():
        assert shows(seed), "look for another seed that shows it: the course of runs has changed"
    assert not simulate(seed).violation


def test_there_are_enough_planted_bugs() -> None:
    assert len({plant.__name__ for plant in PLANTS}) >= 12


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Whatever the order of sets: the hash seed differs."""
    code = "from deploy.simulation.run import simulate; print([simulate(seed) for seed in range(5, 10)])"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("0", "1", "4711")
    }
    assert len(runs) == 1
    assert repr([simulate(seed) for seed in range(5, 10)]) in next(iter(runs))


def test_another_seed_is_another_run() -> None:
    assert len({simulate(seed).digest for seed in range(5)}) == 5


def cli(*arguments: str) -> tuple[int, str]:
    """Exit code and output of `sluiceway simulate`."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "simulate", *arguments],
        env=os.environ | {"COLUMNS": "200"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command_line_runs_seeds_and_traces_one() -> None:
    code, shown = cli("--seeds", "6", "--from", "3", "--jobs", "2")
    assert code == 0
    assert "6 seeds from 3" in shown
    assert shown.count(" of 6 seeds, ") == 1, "a line now and then"
    assert "0 violations" in shown
    code, shown = cli("--seed", "3", "--trace")
    assert code == 0
    assert "persist 0:0-" in shown
    assert f"{simulate(3).digest:08x}" in shown
    code, shown = cli("--trace")
    assert (code, "name it with --seed" in shown) == (2, True)


def test_an_interrupted_run_tells_what_was_done() -> None:
    """As Ctrl-C does it: to every process of the group."""
    arguments = [sys.executable, "-m", "deploy.cli", "simulate", "--seeds", "100000", "--jobs", "2"]
    running = subprocess.Popen(
        arguments,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    try:
        first = running.stdout.readline()
        os.killpg(running.pid, signal.SIGINT)
        shown, errors = running.communicate(timeout=60)
    finally:
        running.kill()
        running.wait()
    assert "of 100000 seeds" in first
    assert re.search(
        r"^\d+ of 100000 seeds from 0 in .*^[\d,]+ faults .* 0 violations$", shown, re.MULTILINE | re.DOTALL
    )
    assert running.returncode == 130
    assert "Traceback" not in errors


def test_the_command_line_tells_a_violation(capsys: pytest.CaptureFixture[str]) -> None:
    with next(p for p in PLANTS if p.__name__ == "published_before_persisted")():
        assert report.many(1, 2, 1, Console(width=200)) is False
        assert report.one(1, Console(width=200), trace=False) is False
    shown = capsys.readouterr().out
    assert "seed 1 VIOLATES: event" in shown
    assert "2 violations" in shown
