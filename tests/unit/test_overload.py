"""The overload proof: its load generator counts what it sees, and its verdict can fail."""

import asyncio
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from contracts.errors import Unavailable
from contracts.settings import Settings
from deploy import progress
from deploy.bench.children import child
from deploy.fleet import Fleet
from deploy.overload.load import Load, Outcome, Plan, run
from deploy.overload.report import rows
from deploy.overload.run import allow_files, watched
from deploy.overload.verdict import MEMORY_MAX_MB, Look, Result, decided_per_s, is_sustained, judge
from deploy.overload.watch import Watch
from deploy.stack import LocalStack, StackError
from deploy.stack.ports import find_free
from tests.harness import eventually

ACCEPTED = b'{"checkout_id":"c","lines":[{"partition":3,"offset":7}]}'
REQUEST = b"POST / HTTP/1.1\r\nkey: %KEY%\r\n\r\n"

Answer = Callable[[int], bytes]  # to the request of this number; empty cuts the client off


def response(status: int, body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d x\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body)


def problem(retry_after_s: int) -> bytes:
    return response(503, b'{"code":"backlog_full"}', b"retry-after: %d\r\n" % retry_after_s)


@asynccontextmanager
async def answering(
    answer: Answer, may_answer: Callable[[], bool] = lambda: True
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server's port, and what it was sent."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                number = len(heads)
                await eventually(may_answer)
                answered = answer(number)
                writer.write(answered)
                if not answered or b"connection: close" in answered:
                    break
        except asyncio.IncompleteReadError:
            pass  # the client is done
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()
        await server.wait_closed()


async def load(answer: Answer, folder: Path, **changes: object) -> tuple[Outcome, list[bytes]]:
    """The outcome of a short load on such a server, and what the server was sent."""
    async with answering(answer) as (port, heads):
        return await run(msgspec.structs.replace(plan(port, folder), **changes)), heads


def plan(port: int, folder: Path) -> Plan:
    return Plan("127.0.0.1", [port], [REQUEST], 4, 100.0, 0.3, str(folder / "accepted"))


async def test_every_request_has_a_key_of_its_own_and_every_202_is_noted(tmp_path: Path) -> None:
    outcome, heads = await load(lambda _: response(202, ACCEPTED), tmp_path)
    assert outcome.due > 10
    assert outcome.statuses == {"202": outcome.due}
    assert len(set(heads)) == outcome.due
    assert (tmp_path / "accepted").read_text() == "c 3 7\n" * outcome.due
    assert (outcome.cut, outcome.unanswered, outcome.given_up) == (0, 0, 0)


async def test_a_connection_lost_with_a_request_under_way_is_counted(tmp_path: Path) -> None:
    outcome, heads = await load(lambda n: b"" if n % 5 == 0 else response(202, ACCEPTED), tmp_path)
    assert outcome.cut == len(heads) // 5
    assert outcome.statuses["202"] == outcome.due - outcome.cut


async def test_who_is_told_to_close_connects_anew(tmp_path: Path) -> None:
    last = response(202, ACCEPTED, b"connection: close\r\n")
    outcome, _ = await load(lambda _: last, tmp_path)
    assert outcome.statuses == {"202": outcome.due}
    assert outcome.told_to_close == outcome.due
    assert outcome.cut == 0


async def test_what_finds_no_connection_gives_up_and_what_is_not_answered_is_counted(tmp_path: Path) -> None:
    outcome, heads = await load(lambda _: b"HTTP/1.1", tmp_path, patience_s=0.1, answer_s=0.2)
    assert (len(heads), outcome.unanswered) == (4, 4)
    assert outcome.given_up == outcome.due - 4
    assert outcome.statuses == {}


async def test_who_is_turned_away_comes_again_when_told_to(tmp_path: Path) -> None:
    def answer(number: int) -> bytes:
        return problem(1) if number <= first else response(202, ACCEPTED)

    first = 10
    outcome, heads = await load(answer, tmp_path, comes_again=True)
    assert outcome.statuses == {"503": first, "202": outcome.due - first}
    assert (outcome.due_again, outcome.again) == (first, {"202": first})
    assert 0 < outcome.answered <= outcome.due, "those who came again came after the end"
    assert outcome.retry_after_s == {"1": first}
    assert outcome.codes == {"backlog_full": first}
    assert len(set(heads)) == outcome.due, "with the same key"


async def test_who_comes_again_and_is_not_answered_has_come_all_the_same(tmp_path: Path) -> None:
    again: list[bytes] = []

    def answer(_: int) -> bytes:
        if heads.count(heads[-1]) == 1:
            return problem(1)
        again.append(heads[-1])
        return response(202, ACCEPTED) if len(again) % 2 else b""

    async with answering(answer) as (port, heads):
        outcome = await run(msgspec.structs.replace(plan(port, tmp_path), comes_again=True))
    assert outcome.due_again == outcome.due == len(again)
    assert (outcome.again, outcome.cut) == ({"202": len(again) - outcome.cut}, len(again) // 2)


async def test_who_is_turned_away_only_after_the_end_comes_again(tmp_path: Path) -> None:
    def answer(number: int) -> bytes:
        return problem(1) if number <= 4 else response(202, ACCEPTED)

    async with answering(answer, lambda: under_way.outcome.seconds > 0) as (port, _):
        under_way = Load(msgspec.structs.replace(plan(port, tmp_path), seconds=0.1, comes_again=True))
        outcome = await under_way.run()
    assert outcome.statuses["503"] == 4
    assert (outcome.due_again, outcome.again) == (4, {"202": 4})


async def test_where_no_server_is_there_that_is_told_in_time(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nowhere = msgspec.structs.replace(plan(find_free(set()), tmp_path), connect_s=0.2)
    with pytest.raises(Unavailable, match=r"0 of 4 connections .* in 0\.2 s: .*Errno"):
        await run(nowhere)
    with pytest.raises(StackError, match="ended with status 1"):
        await child("deploy.overload.load", nowhere, Outcome)
    told = capfd.readouterr().err.splitlines()
    assert [line.startswith("0 of 4 connections") for line in told] == [True]


TIMES = {"202": {"p50": 1.0, "p99": 10.0, "max": 20.0}}
GOOD = Outcome(due=10, statuses={"202": 10}, since_due_ms=TIMES)


MEMBERS = [f"{role}-1" for role in MEMORY_MAX_MB]


def good() -> Result:
    """A result of which everything held."""
    return Result(
        100,
        3.0,
        sustained_per_s=10.0,
        burst=msgspec.structs.replace(GOOD, statuses={"202": 5, "503": 5}, answered=58, seconds=2.0),
        drain_before_per_s=100.0,
        drain_after_per_s=100.0,
        drain_later_per_s=100.0,
        coming_again=msgspec.structs.replace(GOOD, due_again=100, again={"202": 95, "503": 5}),
        restarts=GOOD,
        restarted={"ingest-1": 2, "worker-1": 2},
        told=20,
        kept=20,
        memory_mb={f"{role}-1": float(mb) for role, mb in MEMORY_MAX_MB.items()},
        audit_ok=True,
    )


def test_it_holds_when_everything_did() -> None:
    assert judge(good(), MEMBERS) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"kept": 19}, "1 of 20 accepted lines"),
        ({"audit_ok": False}, "audit"),
        ({"burst": msgspec.structs.replace(good().burst, cut=1)}, "burst: 1 requests cut off"),
        ({"burst": GOOD}, "nobody was turned away"),
        (
            {"burst": msgspec.structs.replace(good().burst, answered=20, given_up=10**6)},
            "1,000,000 requests were given up",
        ),
        ({"burst": msgspec.structs.replace(GOOD, statuses={"503": 1, "500": 1})}, "status 500"),
        ({"restarts": msgspec.structs.replace(GOOD, unanswered=2)}, "restarts: 0 requests cut off, 2"),
        ({"restarts": msgspec.structs.replace(GOOD, cut=2)}, "restarts: 2 requests cut off"),
        ({"restarted": {"ingest-1": 2}}, "worker-1 was not restarted"),
        ({"restarted": {}, "memory_mb": {}}, "ingest-1 was not restarted"),
        ({"memory_mb": {"streams-1": 401.0}}, "streams-1 took 401 MB"),
        ({"memory_mb": {}}, "api-1 was not weighed"),
        ({"memory_mb": good().memory_mb | {"worker-1": 0.0}}, "worker-1 was not weighed"),
        ({"drain_after_per_s": 74.0}, "drained 74/s"),
        ({"drain_after_per_s": None}, "drained not measured after the burst, 100/s later"),
        ({"drain_later_per_s": None}, "drained 100/s after the burst, not measured later"),
        ({"coming_again": GOOD}, "came again"),
        (
            {"coming_again": msgspec.structs.replace(good().coming_again, again={"202": 89})},
            "of 100 who came again",
        ),
        (
            {"coming_again": msgspec.structs.replace(good().coming_again, cut=1)},
            "coming again: 1 requests cut off",
        ),
        (
            {"coming_again": msgspec.structs.replace(good().coming_again, again={"202": 99, "500": 1})},
            "coming again: answers with status 500",
        ),
    ],
)
def test_whatever_did_not_hold_is_told(changes: dict[str, object], word: str) -> None:
    failures = judge(msgspec.structs.replace(good(), **changes), MEMBERS)
    assert any(word in failure for failure in failures), failures


class Draining:
    """A deployment of whose log of 100 so many are decided at each look, the last again and again."""

    def __init__(self, *looks: int) -> None:
        self._looks = list(looks)

    async def decided(self, _: object) -> int:
        return self._looks.pop(0) if len(self._looks) > 1 else self._looks[0]

    async def end_offsets(self, *_: object) -> dict[int, int]:
        return {0: 60, 1: 40}

    async def connect_pool(self, _: Settings) -> "Draining":
        return self

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("looks", "is_measured"), [([0, 0, 50, 80, 100], True), ([100], False), ([0, 0, 100], False)]
)
async def test_a_drain_that_was_over_before_it_was_seen_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, offline_settings: Settings, looks: list[int], is_measured: bool
) -> None:
    of = Draining(*looks)
    for name in ("decided", "end_offsets", "connect_pool"):
        monkeypatch.setattr(progress, name, getattr(of, name))
    per_s = await progress.drained(offline_settings)
    assert (per_s is not None) is is_measured


@pytest.mark.parametrize(
    ("ends", "decided", "seconds", "per_s"),
    [
        ([50, 50, 50, 60, 70, 80, 80], [50, 50, 50, 52, 56, 60, 70], 2.5, 4.0),  # connects for two looks
        ([50, 60, 70], [50, 52, 56], 1.0, None),
        ([50, 50, 50], [20, 30, 40], 2.5, None),
        ([], [], 2.5, None),
    ],
)
def test_decided_meanwhile_begins_when_the_log_begins_to_grow(
    ends: list[int], decided: list[int], seconds: float, per_s: float | None
) -> None:
    looks = [
        Look(float(at), count, end - count) for at, (end, count) in enumerate(zip(ends, decided, strict=True))
    ]
    assert decided_per_s(looks, seconds) == per_s


def test_sustained_is_shown_as_what_it_is() -> None:
    told = {
        what: means
        for what, _, means in rows(msgspec.structs.replace(good(), burst=Outcome(), restarts=Outcome()))
    }
    assert told["sustained"] == "all 202, 99 of 100 within a second, and decided as they come"


def test_what_was_not_measured_is_shown_as_that() -> None:
    result = msgspec.structs.replace(good(), burst=Outcome(), restarts=Outcome(), drain_after_per_s=None)
    assert ("drain after the burst", "not measured", "of what the burst left") in rows(result)


def test_what_the_edge_answered_of_the_burst_is_shown() -> None:
    quiet = msgspec.structs.replace(good().burst, statuses={})
    result = msgspec.structs.replace(good(), burst=quiet, coming_again=GOOD, restarts=quiet)
    assert ("  answered meanwhile", "29/s", "2.9 times what is sustained, of 3.0 offered") in rows(result)


def test_as_many_files_may_be_open_as_there_are_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (600, before[1]))
        allow_files(700)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (700, before[1])
        allow_files(500)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (700, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_limit_of_files_that_is_too_low_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (600, 4999))
    with pytest.raises(StackError, match=r"5,000 files must be open at once.* is 4,999"):
        allow_files(5000)


def test_processes_that_are_there_are_weighed_without_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline_settings: Settings
) -> None:
    monkeypatch.setenv("PATH", "")
    fleet = Fleet(LocalStack(tmp_path, say=print), tmp_path, print)
    here, gone, _ = (fleet.enlist(role, offline_settings) for role in ("api", "ingest", "worker"))
    here.process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=-1)
    gone.process = subprocess.Popen([sys.executable, "-c", ""])
    gone.process.wait()
    watch = Watch(offline_settings, fleet)
    watch._weigh()
    here.process.communicate()
    assert [name for name, mb in watch.peak_mb.items() if 0 < mb < 200] == ["api-1"]


async def test_what_the_watch_fails_with_is_raised_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline_settings: Settings
) -> None:
    async def fail(_: Watch) -> None:
        raise Unavailable("nothing is seen")

    monkeypatch.setattr(Watch, "run", fail)
    with pytest.raises(Unavailable, match="nothing is seen"):
        async with watched(offline_settings, Fleet(LocalStack(tmp_path, say=print), tmp_path, print)):
            await asyncio.Event().wait()


@pytest.mark.parametrize("error", [StackError("another"), asyncio.CancelledError()])
async def test_what_goes_on_beside_the_watch_fails_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline_settings: Settings, error: BaseException
) -> None:
    monkeypatch.setattr(Watch, "run", lambda _: asyncio.Event().wait())
    with pytest.raises(type(error)):
        async with watched(offline_settings, Fleet(LocalStack(tmp_path, say=print), tmp_path, print)):
            raise error


@pytest.mark.parametrize(
    ("changes", "lag", "sustained"),
    [
        ({}, 99, True),
        ({}, 100, False),
        ({"statuses": {"202": 9, "503": 1}}, 0, False),
        ({"given_up": 1}, 0, False),
        ({"unanswered": 1}, 0, False),
        ({"cut": 1}, 0, False),
        ({"since_due_ms": {"202": {"p99": 1000.0}}}, 0, False),
    ],
)
def test_a_rate_is_sustained_if_all_are_taken_in_and_decided_as_they_come(
    changes: dict[str, object], lag: int, sustained: bool
) -> None:
    assert is_sustained(msgspec.structs.replace(GOOD, **changes), lag, 100.0) is sustained
