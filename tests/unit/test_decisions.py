"""Order ids, order numbers, events and documents of decisions."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import orjson
from hypothesis import given
from hypothesis import strategies as st

from contracts.decisions import (
    BY_COMMAND,
    Decision,
    Order,
    lowest_order_id,
    made_by_command,
    number_of,
    order_id_of,
    order_number,
    order_partition,
)
from contracts.events import CHECKOUT_REFUSED, ORDER_CREATED, event_of
from contracts.messages import Shipping
from contracts.outcomes import RETRYABLE, Kind, Reason
from contracts.times import from_ms, to_ms
from tests.harness import HOME, NOON, uuid_of

times = st.integers(0, 4_102_444_800_000)
partitions = st.integers(0, 4095)
offsets = st.integers(0, BY_COMMAND - 1)


@given(times, partitions, offsets)
def test_an_order_id_is_a_uuid_of_version_8_that_tells_the_number(
    ms: int, partition: int, offset: int
) -> None:
    order_id = order_id_of(ms, partition, offset)
    uuid = UUID(order_id)
    assert str(uuid) == order_id
    assert uuid.version == 8
    assert uuid.variant == "specified in RFC 4122"
    number = order_number(from_ms(ms), partition, offset)
    assert number_of(order_id) == number
    assert order_partition(order_id) == partition
    assert not made_by_command(order_id)
    of_command = order_id_of(ms, partition, offset | BY_COMMAND)
    assert (number_of(of_command), order_partition(of_command)) == (f"{number}C", partition)
    assert made_by_command(of_command)


@given(times, st.tuples(partitions, offsets), st.tuples(partitions, offsets))
def test_order_ids_are_unique(ms: int, one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (order_id_of(ms, *one) == order_id_of(ms, *other)) == (one == other)


@given(times, st.integers(-2_000, 2_000), partitions, offsets)
def test_a_bound_parts_order_ids_by_their_time(ms: int, apart_us: int, partition: int, offset: int) -> None:
    moment = from_ms(ms) + timedelta(microseconds=apart_us)
    assert (order_id_of(ms, partition, offset) >= lowest_order_id(moment)) == (from_ms(ms) >= moment)


def test_a_bound_is_a_uuid_at_the_ends_of_time_too() -> None:
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    for moment in (datetime.min.replace(tzinfo=east), datetime.max.replace(tzinfo=west), NOON):
        assert str(UUID(lowest_order_id(moment))) == lowest_order_id(moment)
    assert lowest_order_id(datetime.min.replace(tzinfo=east)) == str(UUID(int=0))


@given(times, times, partitions, partitions, offsets, offsets)
def test_order_ids_and_numbers_sort_by_time(a: int, b: int, p: int, q: int, o: int, r: int) -> None:
    if a < b:
        assert order_id_of(a, p, o) < order_id_of(b, q, r)
    if a // 1000 < b // 1000:
        assert order_number(from_ms(a), p, o) < order_number(from_ms(b), q, r)


@given(times, partitions, st.lists(st.integers(0, 10**12 - 1), min_size=2, max_size=2, unique=True))
def test_numbers_of_a_second_sort_by_offset(ms: int, partition: int, found: list[int]) -> None:
    low, high = sorted(found)
    assert order_number(from_ms(ms), partition, low) < order_number(from_ms(ms), partition, high)


def test_a_number_is_readable() -> None:
    assert order_number(NOON, 7, 42) == "20261111-120000-0007-000000000042"


@given(times)
def test_milliseconds_survive(ms: int) -> None:
    assert to_ms(from_ms(ms)) == ms
    assert from_ms(ms).tzinfo is UTC


def test_a_moment_counts_from_its_millisecond_on() -> None:
    assert to_ms(datetime(1970, 1, 1, 0, 0, 1, 999_999, UTC)) == 1999


def created(**order: object) -> Decision:
    values: dict[str, object] = {
        "order_id": order_id_of(to_ms(NOON), 3, 42),
        "name": "Name",
        "cover": "cover",
        "price": Decimal("129.00"),
        "currency": "CNY",
        "total": Decimal("258.00"),
        "payment_method": "wechat",
        "expires_at": NOON + timedelta(seconds=900),
        "shipping": HOME,
        "note": "secret note",
    }
    return Decision(
        3, 42, Kind.CREATED, NOON, uuid_of(1), "buyer-1", "p", 2, "0" * 32, 0, 1, NOON,
        order=Order(**(values | order)),  # type: ignore[arg-type]
    )  # fmt: skip


def refused(kind: Kind = Kind.REFUSED, reason: Reason = Reason.SOLD_OUT) -> Decision:
    return Decision(3, 42, kind, NOON, uuid_of(1), "buyer-1", "p", 2, "0" * 32, 0, 1, NOON, reason)


def test_an_event_is_a_cloudevent_in_binary_mode() -> None:
    """Kafka protocol binding 1.0.2 §3.2: attributes are headers with ce_, data is the value, its type content-type."""
    decision = created()
    assert decision.order is not None
    event = event_of(decision, decision.document())
    assert event is not None
    key, value, headers = event
    assert len(headers) == len(dict(headers))
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"3-42",
        "ce_source": b"/sluiceway/checkouts",
        "ce_type": ORDER_CREATED.encode(),
        "ce_time": b"2026-11-11T12:00:00.000Z",
        "ce_subject": decision.order.order_id.encode(),
        "ce_sequence": b"1",
        "content-type": b"application/json",
    }
    assert key == decision.order.order_id.encode()
    assert value == decision.document()


def test_a_refusal_is_an_event_of_its_checkout() -> None:
    for kind, reason in ((Kind.REFUSED, Reason.SOLD_OUT), (Kind.CONFLICT, Reason.IDEMPOTENCY_CONFLICT)):
        event = event_of(refused(kind, reason), b"{}")
        assert event is not None
        assert event[0] == uuid_of(1).encode()
        headers = dict(event[2])
        assert headers["ce_type"] == CHECKOUT_REFUSED.encode()
        assert headers["ce_subject"] == uuid_of(1).encode()
        assert "ce_sequence" not in headers


def test_repeated_lines_and_dead_letters_are_no_events() -> None:
    repeated = Decision(3, 42, Kind.REPEATED, NOON, uuid_of(1), "buyer-1", "p", first_offset=7)
    dead = Decision(3, 42, Kind.DEAD, NOON, detail="broken")
    assert event_of(repeated, b"") is None
    assert event_of(dead, b"") is None


def test_the_document_of_an_order() -> None:
    document = orjson.loads(created().document())
    assert document["status"] == "created"
    assert "reason" not in document
    assert document["order"]["number"] == "20261111-120000-0003-000000000042"
    assert document["order"]["price"] == {"amount": "129.00", "currency": "CNY"}
    assert document["order"]["total"] == {"amount": "258.00", "currency": "CNY"}
    assert document["order"]["payment"] == {
        "status": "pending", "method": "wechat", "expires_at": "2026-11-11T12:15:00Z",
    }  # fmt: skip
    assert document["decided_at"] == "2026-11-11T12:00:00Z"


def test_a_document_tells_nothing_of_where_the_buyer_lives() -> None:
    document = created(shipping=Shipping("Somebody", "123456", "Somewhere")).document()
    for secret in (b"Somebody", b"123456", b"Somewhere", b"secret note"):
        assert secret not in document


def test_the_document_of_every_refusal() -> None:
    for reason in Reason:
        document = orjson.loads(refused(reason=reason).document())
        assert document["status"] == "refused"
        assert document["reason"] == reason.value
        assert document["retryable"] is (reason in RETRYABLE)
        assert "order" not in document
