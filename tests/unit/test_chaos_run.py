"""How a history is judged: only when time has ended what it is to end, or has not when it ought to have; by the
settings that its processes have.
"""

from pathlib import Path

import msgspec
import pytest

from contracts.settings import Settings
from deploy.chaos import run
from deploy.chaos.faults import Site
from deploy.fleet import Fleet
from deploy.stack import LocalStack
from stock_ledger.audit.facts import Facts
from stock_ledger.audit.report import AuditReport
from tests.unit.test_chaos_history import facts, figures_behind, history, payment_late


class Deployment:
    """Is audited as these facts in turn, the last ones again and again."""

    def __init__(self, *moments: Facts) -> None:
        self._moments = list(moments)
        self.judged_timers: list[bool] = []

    async def run_on_facts(
        self, _: Settings, _drain_timeout_s: float, *, timed_out: bool = False
    ) -> tuple[Facts, AuditReport | None]:
        self.judged_timers.append(timed_out)
        return self._moments.pop(0) if len(self._moments) > 1 else self._moments[0], None


def waiting() -> Facts:
    found = facts()
    payment_late(history(), found)
    return found


def behind() -> Facts:
    found = facts()
    figures_behind(history(), found)
    return found


@pytest.fixture
def audited_as(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(run, "_LOOK_S", 0.0)
    return monkeypatch


async def test_the_audit_waits_for_timers_and_figures(audited_as: pytest.MonkeyPatch) -> None:
    ended = facts()
    deployment = Deployment(waiting(), behind(), ended)
    audited_as.setattr(run, "audit", deployment)
    found, _ = await run.audited(Settings(), 60.0)
    assert found is ended
    assert deployment.judged_timers == [True] * 3


async def test_what_never_ends_is_waited_for_only_so_long(audited_as: pytest.MonkeyPatch) -> None:
    stuck = waiting()
    audited_as.setattr(run, "audit", Deployment(stuck))
    found, _ = await run.audited(Settings(), 0.05)
    assert found is stuck


def test_faults_and_judgement_are_by_the_settings_of_the_run(
    tmp_path: Path, offline_settings: Settings
) -> None:
    settings = msgspec.structs.replace(offline_settings, session_timeout_ms=20_000, gate_stale_s=3.0)
    stack = LocalStack(tmp_path, kafka_url="k", postgres_url="p", redis_url="r", say=print)
    site = Site(stack, Fleet(stack, tmp_path, print), [])
    made = run._Run(site, settings, run.Options(60.0, ["pause_worker"], 1), None, print)  # type: ignore[arg-type]
    assert made._planned
    assert all(fault.lasts_s > 20 for fault in made._planned)
    assert made.buyers.history.sold_out_for_s == 6.0
