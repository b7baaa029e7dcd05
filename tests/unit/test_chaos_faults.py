"""The schedule of faults: seeded, over in time, never more at once than is meant."""

from itertools import pairwise

import pytest

from contracts.errors import Invalid
from deploy.chaos.faults import AT_ONCE_MAX, FAULTS, RETURN_S, Planned, kinds_of, lasts_s, schedule

ALL = list(FAULTS)
SESSION_S = 6.0


def over_at_s(fault: Planned) -> float:
    return fault.at_s + fault.lasts_s + RETURN_S.get(FAULTS[fault.kind].target, 0.0)


def test_the_same_seed_gives_the_same_schedule_and_another_one_another() -> None:
    assert schedule(1, 120, ALL, SESSION_S) == schedule(1, 120, ALL, SESSION_S)
    assert schedule(1, 120, ALL, SESSION_S) != schedule(2, 120, ALL, SESSION_S)


@pytest.mark.parametrize("seed", range(20))
def test_all_faults_are_over_in_time_and_last_as_long_as_their_kind(seed: int) -> None:
    for fault in schedule(seed, 120, ALL, SESSION_S):
        shortest_s, longest_s = lasts_s(fault.kind, SESSION_S)
        assert shortest_s <= fault.lasts_s <= longest_s
        assert over_at_s(fault) <= 120


@pytest.mark.parametrize("seed", range(20))
def test_of_each_target_only_so_many_are_hurt_at_once(seed: int) -> None:
    planned = schedule(seed, 120, ALL, SESSION_S)
    for target, at_once_max in AT_ONCE_MAX.items():
        of_target = [fault for fault in planned if FAULTS[fault.kind].target == target]
        for fault in of_target:
            meanwhile = [f for f in of_target if f.at_s <= fault.at_s < over_at_s(f)]
            assert len(meanwhile) <= at_once_max, meanwhile


def test_two_minutes_hold_every_kind_and_some_overlap() -> None:
    planned = schedule(1, 120, ALL, SESSION_S)
    assert {fault.kind for fault in planned} == set(ALL)
    assert any(later.at_s < over_at_s(f) for f, later in pairwise(planned))
    assert any(later.at_s > over_at_s(f) for f, later in pairwise(planned))


def test_only_the_kinds_that_were_asked_for_come() -> None:
    assert {fault.kind for fault in schedule(1, 60, ["flush_cache", "kill_worker"], SESSION_S)} == {
        "flush_cache",
        "kill_worker",
    }


def test_nothing_fits_in_a_moment() -> None:
    assert schedule(1, 2, ALL, SESSION_S) == []


@pytest.mark.parametrize("session_s", [SESSION_S, 20.0])
def test_zombies_sleep_longer_than_their_session(session_s: float) -> None:
    kinds = ["pause_worker", "pause_ingest"]
    zombies = schedule(1, 120, kinds, session_s)
    assert {fault.kind for fault in zombies} == set(kinds)
    assert all(session_s + 1 <= fault.lasts_s <= session_s + 4 for fault in zombies)


def test_kinds_are_read_from_a_list() -> None:
    assert kinds_of("all") == ALL
    assert kinds_of("flush_cache, kill_worker,flush_cache") == ["flush_cache", "kill_worker"]


@pytest.mark.parametrize("text", ["", "kill_everything", "kill_worker,"])
def test_kinds_that_do_not_exist_are_told(text: str) -> None:
    with pytest.raises(Invalid, match="there are kill_worker, "):
        kinds_of(text)
