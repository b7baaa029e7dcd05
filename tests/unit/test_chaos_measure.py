"""How long a sale stood still, from moments."""

from deploy.chaos.claims import Watcher
from deploy.chaos.faults import Injected
from deploy.chaos.measure import (
    Recovery,
    Stall,
    Times,
    accepting_stall_s,
    decided_again_at,
    deciding_stall,
    recoveries,
)


def claims(watcher: Watcher, at: float, *rows: tuple[int, int, str]) -> None:
    """What Postgres holds: partition, epoch and owner, claimed at this time."""
    watcher.take(
        {"partition": partition, "epoch": epoch, "owner": owner, "claimed_at": at}
        for partition, epoch, owner in rows
    )


def watched() -> Watcher:
    """Process 1 has the partitions 0 and 1, process 2 has 2; at 108 process 2 takes over 0, at 109 it takes 1."""
    watcher = Watcher("")
    claims(watcher, 100.0, (0, 1, "here-1"), (1, 1, "here-1"), (2, 1, "here-21"))
    claims(watcher, 108.0, (0, 2, "here-21"), (1, 1, "here-1"), (2, 1, "here-21"))
    claims(watcher, 109.0, (0, 2, "here-21"), (1, 2, "here-21"), (2, 1, "here-21"))
    return watcher


TIMES = [
    Times(0, 101, 101),
    Times(0, 103, 108.5),
    Times(1, 102, 102.2),
    Times(1, 104, 109.5),
    Times(2, 103, 103),
]


def killed(watcher: Watcher, healed_at: float) -> Injected:
    owned = {p: of_p[0] for p, of_p in watcher.claims.items() if of_p[0].owner == "here-1"}
    return Injected("kill_worker", "worker-1", 102.5, healed_at, owned)


def test_a_process_owns_what_it_claimed_last() -> None:
    assert set(watched().owned_by(21)) == {0, 1, 2}
    assert watched().owned_by(1) == {}


def test_a_kill_is_over_when_all_its_partitions_are_decided_by_another() -> None:
    watcher = watched()
    found = recoveries([killed(watcher, 120.0)], watcher, TIMES, [103.0, 104.0, 105.0], 100.0, 120.0)
    assert found == [Recovery("kill_worker", 2.5, 7.0, 2, alone=True, accepted_per_s=0.4)]


def test_another_fault_meanwhile_is_told() -> None:
    watcher = watched()
    faults = [killed(watcher, 120.0), Injected("flush_cache", "cache", 105.0, 105.1)]
    assert [recovery.alone for recovery in recoveries(faults, watcher, TIMES, [], 100.0, 120.0)] == [False]


def test_what_does_not_come_back_is_told() -> None:
    watcher = watched()
    found = recoveries([killed(watcher, 120.0)], watcher, TIMES[:-2], [103.0], 100.0, 120.0)
    assert [recovery.seconds for recovery in found] == [None]


def test_a_fault_after_which_nothing_came_tells_nothing() -> None:
    watcher = watched()
    assert recoveries([killed(watcher, 120.0)], watcher, TIMES[:-2], [102.0], 100.0, 120.0) == []


def test_postgres_is_measured_from_its_return_over_all_partitions() -> None:
    restart = Injected("restart_postgres", "postgres", 101.5, 102.1)
    found = recoveries([restart], watched(), TIMES, [], 100.0, 120.0)
    assert [(recovery.seconds, recovery.partitions) for recovery in found] == [(6.4, 3)]


def test_partitions_are_decided_again_when_the_last_of_them_is() -> None:
    assert decided_again_at(TIMES, {0: 102, 1: 102}) == 108.5
    assert decided_again_at(TIMES, {0: 102, 2: 104}) is None
    assert decided_again_at(TIMES, {}) is None


def test_a_stall_counts_only_while_something_waits() -> None:
    assert deciding_stall(TIMES, 100.0) == Stall(5.5, 3.0, 0)
    assert deciding_stall([Times(0, 101, 101), Times(0, 160, 160.5)], 100.0).seconds == 0.5
    assert deciding_stall([], 100.0).seconds == 0


def test_accepting_stalls_from_one_202_to_the_next_and_at_both_ends() -> None:
    assert accepting_stall_s([1, 2, 5, 6], 0, 7) == 3
    assert accepting_stall_s([], 0, 7) == 7
    assert accepting_stall_s([3, 30], 0, 7) == 4
