"""The home of local deployments."""

from pathlib import Path

import pytest

from deploy.local import new_run_dir
from deploy.stack import StackError


def test_a_home_where_nothing_can_be_made_is_told_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a file"
    file.touch()
    monkeypatch.setenv("SLUICEWAY_HOME", str(file / "home"))
    with pytest.raises(StackError, match=r"set SLUICEWAY_HOME to another one: .*a file/home"):
        new_run_dir("demo", print)
