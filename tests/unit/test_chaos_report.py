"""What people see of a history: its line of the table."""

import msgspec

from deploy.chaos.measure import Recovery, Stall
from deploy.chaos.report import header, row
from deploy.chaos.run import Result
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
