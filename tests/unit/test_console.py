"""What commands write, to files and to terminals."""

from pathlib import Path

import orjson
import pytest

from contracts.errors import Invalid
from deploy.cli.console import write_json
from deploy.cli.deadletters import harmless


def test_a_result_is_written_as_json(tmp_path: Path) -> None:
    write_json(tmp_path / "result.json", {1: "one"})
    assert orjson.loads((tmp_path / "result.json").read_bytes()) == {"1": "one"}


def test_a_file_that_cannot_be_written_is_told_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "no such folder" / "result.json"
    with pytest.raises(Invalid, match="no such folder"):
        write_json(path, {})


def test_a_dead_letter_does_nothing_to_a_terminal() -> None:
    assert harmless(b'{"note":"\x1b[2J caf\xc3\xa9"}\n\xff\x00') == '{"note":"\\x1b[2J café"}\n\\xff\\x00'
