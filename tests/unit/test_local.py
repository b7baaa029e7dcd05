"""The home of local deployments, and the settings that are kept there."""

from pathlib import Path

import pytest

from contracts.errors import SettingsError
from contracts.settings import PREFIX
from deploy.local import SETTINGS_FILE, kept_variables, new_run_dir
from deploy.processes import passing_folder
from deploy.stack import StackError


def test_a_home_where_nothing_can_be_made_is_told_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a file"
    file.touch()
    monkeypatch.setenv("SLUICEWAY_HOME", str(file / "home"))
    with pytest.raises(StackError, match=r"set SLUICEWAY_HOME to another one: .*a file/home"):
        new_run_dir("demo", print)


def test_settings_that_are_not_there_are_none_and_those_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    kept = tmp_path / SETTINGS_FILE
    assert kept_variables(kept) == {}
    kept.write_text("A=b=c\n")
    assert kept_variables(kept) == {"A": "b=c"}
    assert kept_variables(kept / SETTINGS_FILE) == {}
    kept.write_bytes(b"\xff=\n")
    for path in (kept, tmp_path):
        with pytest.raises(SettingsError, match=f"{path} cannot be read"):
            kept_variables(path)


def test_streams_leaves_nothing_where_it_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's working folder may not even be writable."""
    monkeypatch.delenv(f"{PREFIX}HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with passing_folder() as folder:
        assert list(tmp_path.iterdir()) == []
        assert Path(folder).is_dir()
