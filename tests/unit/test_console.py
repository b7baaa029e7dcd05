"""What commands read and write, to files and to terminals, and how they end."""

import signal
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from contracts.errors import Invalid
from deploy import cli, local
from deploy.cli.console import ending_signals, read_file, write_json
from deploy.cli.deadletters import harmless
from deploy.stack import LocalStack, StackError, Urls


def test_a_result_is_written_as_json(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {1: "one"})
    assert orjson.loads((tmp_path / "result.json").read_bytes()) == {"1": "one"}


def test_a_file_that_cannot_be_written_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "no such folder" / "result.json"
    with pytest.raises(Invalid, match="no such folder"):
        write_json(path, {})


def test_a_dead_letter_does_nothing_to_a_terminal() -> None:
    assert harmless(b'{"note":"\x1b[2J caf\xc3\xa9"}\n\xff\x00') == '{"note":"\\x1b[2J café"}\n\\xff\\x00'


def test_a_file_that_cannot_be_read_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=str(tmp_path)):
        read_file(tmp_path)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Signals' handlers, as they were at the end."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_an_interrupt_is_told_with_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "token", interrupted)
    monkeypatch.setattr("sys.argv", ["sluiceway", "token"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "stopped after" in capsys.readouterr().err


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["buyer", "export", "\udcff"], "not UTF-8"),
        (["buyer", "erase", "\udcff"], "not UTF-8"),
        (["catalogue", "import", "products.csv", "--key", "\udcff"], "not UTF-8"),
        (["token", "--hours", "inf"], "less than or equal to 87600"),
        (["audit", "--json", "x" * 300], "cannot be written"),
    ],
)
def test_an_argument_that_can_be_of_no_use_is_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["sluiceway", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_hangup_that_is_ignored_stays_so(handlers: None) -> None:
    """As nohup leaves it."""
    assert signal.SIGHUP in ending_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert ending_signals() == [signal.SIGTERM]


GIVEN = Urls("kafka.example:9092", "postgresql://postgres.example/shop", "redis://cache.example/0")


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("command", "uses_given"), [("bench", True), ("overload", False)])
def test_servers_that_are_given_are_only_used_by_commands_that_are_meant_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, uses_given: bool
) -> None:
    started: list[dict[str, str]] = []

    def start(stack: LocalStack) -> Urls:
        started.append(stack._given)
        raise StackError("not in this test")

    monkeypatch.setattr(LocalStack, "start", start)
    monkeypatch.setenv("SLUICEWAY_HOME", str(tmp_path))
    for name, url in vars(GIVEN).items():
        monkeypatch.setenv(f"SLUICEWAY_{name.upper()}_URL", url)
    monkeypatch.setattr("sys.argv", ["sluiceway", command])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert started == [vars(GIVEN) if uses_given else dict.fromkeys(vars(GIVEN), "")]
