"""What people see of a history: its line of the table, and where all of it is kept."""

from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from deploy import cli
from deploy.chaos import report
from deploy.chaos.measure import Recovery, Stall
from deploy.chaos.report import header, row
from deploy.chaos.run import Options, Result
from deploy.local import new_run_dir
from deploy.stack import StackError
from stock_ledger.audit.report import Totals

ALONE = Recovery("kill_worker", 3.0, 7.0, 3, alone=True, accepted_per_s=21.4)


def result(*recoveries: Recovery) -> Result:
    return Result(
        ok=True, seed=2, brokers=1, workers=3, duration_s=45.0, faults={"kill_worker": 2}, submits={"ok": 9, "fail": 1},
        polls={}, asks={}, asked={}, looks=0, accepted=9, accepted_per_s=20.0,
        longest_deciding_stall=Stall(7.0, 3.0, 0), longest_accepting_stall_s=0.5, recoveries=list(recoveries),
        violation_counts={}, violations=[], broken={}, totals=Totals(), exits_unasked=0, started_at=0.0,
        drain_s=0.0, audit_s=0.0, injected=[],
    )  # fmt: skip


def cells(*recoveries: Recovery) -> dict[str, str]:
    names = header().splitlines()[0].split(" | ")
    return dict(zip(names, row(result(*recoveries)).split(" | "), strict=True))


def test_what_was_accepted_while_deciding_stood_still_is_told_of_faults_that_came_alone() -> None:
    slower = msgspec.structs.replace(ALONE, kind="stop_worker", seconds=1.0, accepted_per_s=8.6)
    beside = msgspec.structs.replace(ALONE, alone=False, accepted_per_s=1.0)
    told = cells(ALONE, slower, beside)
    assert told["accepted/s meanwhile"] == "9 to 21"
    assert (told["kill → deciding"], told["SIGTERM → deciding"]) == ("7.0 s", "1.0 s")
    assert cells(beside)["accepted/s meanwhile"] == "–"


@contextmanager
def no_servers(data_dir: Path, *_: object) -> Iterator[None]:
    (data_dir / "logs").mkdir()
    yield


@pytest.mark.parametrize(("error", "for_good"), [(StackError("away"), True), (KeyboardInterrupt(), False)])
def test_of_a_run_without_an_end_all_is_kept_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, for_good: bool
) -> None:
    def run(history: Coroutine[Any, Any, Result]) -> NoReturn:
        history.close()
        raise error

    monkeypatch.setenv("SLUICEWAY_HOME", str(tmp_path))
    monkeypatch.setattr(report, "servers", no_servers)
    told = StringIO()
    with pytest.raises(type(error)):
        report.one(Options(45.0, [], 1), run, Console(file=told))
    (kept,) = (tmp_path / "chaos").iterdir()
    assert f"data, logs and what was recorded are in {kept}" in told.getvalue()
    for later in ("29990101", "29990102"):
        (kept.parent / later).mkdir()
    monkeypatch.setattr("os.getpid", lambda: 0)
    new_run_dir("chaos", print)
    assert (kept / "logs").is_dir() == for_good


def test_runs_that_were_done_are_told_where_a_later_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(options: Options, *_: object, **__: object) -> Result:
        if options.seed == 3:
            raise StackError("away")
        return msgspec.structs.replace(result(), seed=options.seed)

    monkeypatch.setattr(report, "one", one)
    done = CliRunner().invoke(cli.app, ["chaos", "--seed", "1", "--runs", "4"])
    assert isinstance(done.exception, StackError)
    assert [line[:5] for line in done.output.splitlines()[2:]] == ["| 1 |", "| 2 |"]
