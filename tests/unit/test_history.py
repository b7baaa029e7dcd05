"""Periods of history, and a buyer's data replaced, without a server."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.commands import HoldAnswer, encode_command, read_command
from contracts.decisions import lowest_order_id
from contracts.errors import SettingsError
from contracts.settings import Settings
from deploy import archive
from stock_ledger.buyer_data import without
from stock_ledger.partitions import KEYS, Leaf, cuts, leaf_of
from stock_ledger.retention import due, periods
from tests.harness import HOME, NOON, uuid_of

DAY = timedelta(days=1)
PSEUDONYM = "erased-" + "0" * 32


@given(
    since=st.none() | st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    now=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    days=st.integers(1, 400),
)
def test_after_the_cuts_a_whole_period_is_ahead(since: datetime | None, now: datetime, days: int) -> None:
    found = cuts(since, now, days)
    last = found[-1] if found else since
    assert last is not None
    assert last >= now + timedelta(days=days)
    assert found == sorted(set(found))
    assert all(at > now + DAY and at > (since or now) for at in found)
    assert all((at - datetime(1970, 1, 1, tzinfo=UTC)) % timedelta(days=days) == timedelta(0) for at in found)
    assert len(found) <= 4 + 2 // days
    assert cuts(last, now, days) == []


def test_bounds_are_read_as_they_are_written() -> None:
    moment = datetime(2026, 12, 1, tzinfo=UTC)
    order = leaf_of(
        "orders", "o", f"FOR VALUES FROM (MINVALUE) TO ('{lowest_order_id(moment)}')", going=False
    )
    assert (order.since, order.until) == (None, moment)
    entry = leaf_of("ledger", "l", "FOR VALUES FROM ('2026-12-01 00:00:00+00') TO (MAXVALUE)", going=False)
    assert (entry.since, entry.until) == (moment, None)
    with pytest.raises(ValueError, match="DEFAULT"):
        leaf_of("ledger", "l", "DEFAULT", going=False)


def test_a_period_is_due_when_every_table_has_ended_it() -> None:
    ended = [Leaf(table, f"{table}_1", None, NOON) for table in KEYS]
    assert [p.until for p in due(periods(ended), NOON + 10 * DAY, 10)] == [NOON]
    assert due(periods(ended), NOON + 10 * DAY - timedelta(seconds=1), 10) == []
    assert due(periods(ended), NOON + 1000 * DAY, 0) == []
    assert periods(ended[:-1]) == []


def test_a_command_without_its_buyer_is_a_command_still() -> None:
    answer = HoldAnswer(
        command_id=uuid_of(1), actor="buyer:eve", asked_at_ms=1, checkout_id=uuid_of(2), product_id="p", buyer_id="eve",
        payload_hash="0" * 32, line=0, lines=1, quantity=1, name="N", currency="CNY", shipping=HOME, note="ring eve",
    )  # fmt: skip
    document = without(msgspec.json.decode(encode_command(answer)), "eve", PSEUDONYM)
    read = read_command(msgspec.json.encode(document))
    assert isinstance(read, HoldAnswer)
    assert (read.buyer_id, read.actor, read.note) == (PSEUDONYM, f"buyer:{PSEUDONYM}", "")
    assert (read.checkout_id, read.name) == (answer.checkout_id, "N")
    assert not any(part in str(read) for part in ("eve", HOME.contact_name, HOME.phone, HOME.address))


def test_policies_that_cannot_work_are_refused() -> None:
    for values, wrong in (
        ({"retention_days": 7, "archive_dir": "a"}, "SLUICEWAY_RETENTION_DAYS"),
        ({"retention_days": 30}, "SLUICEWAY_ARCHIVE_DIR"),
    ):
        with pytest.raises(SettingsError, match=wrong):
            msgspec.structs.replace(Settings(), **values).check()
    msgspec.structs.replace(Settings(), retention_days=30, archive_dir="a").check()


def test_files_that_no_manifest_names_are_swept(tmp_path: Path) -> None:
    entry = archive.Entry("orders.1.csv.gz", 0, 0, "", "")
    archive.write_manifest(tmp_path, archive.Manifest("d", "", "2026", "0004", {"orders": entry}))
    for name in ("orders.csv.gz", "orders.1.csv.gz", "orders.2.csv.gz.part"):
        (tmp_path / name).touch()
    archive.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "orders.1.csv.gz"]
