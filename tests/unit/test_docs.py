"""The documentation says what the code does."""

import re
from pathlib import Path

import orjson
import pytest

from contracts.openapi import document
from contracts.outcomes import RETRYABLE, OrderStatus, PaymentStatus, Reason, Refusal
from contracts.settings import PREFIX, Settings
from stock_ledger.lifecycle import ACTIONS, TRANSITIONS
from tests.conftest import examples

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    documented = dict(re.findall(rf"\| `{PREFIX}(\w+)` \| (?:`([^`]*)`|empty) \|", page))
    expected = {name.upper(): str(getattr(Settings(), name)) for name in Settings.__struct_fields__}
    assert documented == expected


def test_every_reason_is_documented_in_its_order_and_whether_to_retry() -> None:
    page = (ROOT / "docs/reference/statuses.md").read_text().split("## Reasons")[1].split("\n## ")[0]
    documented = re.findall(r"\| `(\w+)` \| .* \| (yes|no) \|", page)
    assert documented == [(r.value, "yes" if r in RETRYABLE else "no") for r in Reason]


def test_every_status_is_documented() -> None:
    checkout, line = (ROOT / "docs/reference/statuses.md").read_text().split("## Of a line")
    schemas = document()["components"]["schemas"]
    of_lines = {
        schemas[name]["properties"]["status"]["enum"][0]
        for name in schemas
        if name.endswith("Line") and "status" in schemas[name]["properties"]
    }
    assert set(re.findall(r"^\| `(\w+)`", checkout, re.MULTILINE)) - {"status"} == set(
        schemas["CheckoutStatus"]["properties"]["status"]["enum"]
    )
    assert set(re.findall(r"^\| `(\w+)`", line.split("## Reasons")[0], re.MULTILINE)) - {"status"} == of_lines


def test_what_becomes_of_commands_is_documented() -> None:
    page = (ROOT / "docs/reference/statuses.md").read_text().split("## Of a command")[1]
    statuses, reasons = page.split("Reasons, in the order")
    named = set(re.findall(r"^\| `(\w+)`", statuses, re.MULTILINE)) - {"status"}
    assert named == set(document()["components"]["schemas"]["CommandStatus"]["properties"]["status"]["enum"])
    assert re.findall(r"^\| `(\w+)`", reasons, re.MULTILINE)[1:] == [refusal.value for refusal in Refusal]


def test_the_life_of_an_order_is_drawn_and_told_as_it_is() -> None:
    page = (ROOT / "docs/reference/orders.md").read_text()
    life = sorted((before.value, action, after.value) for (before, action), after in TRANSITIONS.items())
    edges = re.findall(r"^    (\S+) --> (\S+?)(?:: (\w+))?$", page, re.MULTILINE)
    assert sorted((before, action, after) for before, after, action in edges if action) == life
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == life
    begin = {after for before, after, _ in edges if before == "[*]"}
    end = {before for before, after, _ in edges if after == "[*]"}
    assert begin == {OrderStatus.PENDING_PAYMENT}
    assert end == set(OrderStatus) - {before for before, _ in TRANSITIONS}


def test_every_action_and_payment_status_is_told() -> None:
    page = (ROOT / "docs/reference/orders.md").read_text()
    who = page.split("| action | who | how |")[1].split("\n\n")[0]
    named = [
        a
        for line in who.splitlines()
        for a in re.findall(r"`(\w+)`", line.split("|")[1] if "|" in line else "")
    ]
    assert sorted(named) == sorted(ACTIONS)
    payment = page.split("## The payment")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", payment, re.MULTILINE)) == set(PaymentStatus)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_what_a_stock_source_is_told_to_answer_is_what_the_examples_say() -> None:
    page = (ROOT / "docs/how-to/connect-a-second-stock-source.md").read_text()
    shown = [orjson.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL)]
    names = ("reservation", "reserved", "return", "returned", "in-stock")
    files = [examples() / f"stock-source.{name}.json" for name in names]
    assert shown == [orjson.loads(file.read_bytes()) for file in files]
