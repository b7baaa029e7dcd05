"""The documentation says what the code does."""

import re
from pathlib import Path

import pytest

from contracts.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    documented = dict(re.findall(rf"\| `{PREFIX}(\w+)` \| (?:`([^`]*)`|empty) \|", page))
    expected = {name.upper(): str(getattr(Settings(), name)) for name in Settings.__struct_fields__}
    assert documented == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
