"""The decision: its guards in their order, its arithmetic, and that nothing but its arguments counts."""

from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.decisions import order_id_of
from contracts.messages import CheckoutLine, Money
from contracts.outcomes import OF_THE_WHOLE, Kind, Reason
from contracts.times import from_ms, to_ms
from stock_ledger.batch import Decided, Loaded, Product, Received, Stock
from stock_ledger.decide import decide
from tests.harness import HOME, NOON, line_of, product_of, uuid_of

HASH, OTHER_HASH = "0" * 32, "f" * 32


def loaded_with(*products: Product, available: int = 10, **fields: Any) -> Loaded:
    values: dict[str, Any] = {
        "products": {p.product_id: p for p in products},
        "stock": {p.product_id: Stock(available, 5) for p in products},
        "bought": {},
        "addresses": {},
        "decided": {},
        "hashes": {},
    }
    return Loaded(**(values | fields))


def received(*lines: CheckoutLine | None, start: int = 0) -> list[Received]:
    return [Received(0, start + n, line, "" if line else "broken") for n, line in enumerate(lines)]


def reasons(decided: Decided) -> list[Reason | None]:
    return [d.reason for d in decided.decisions]


def kinds(decided: Decided) -> list[Kind]:
    return [d.kind for d in decided.decisions]


# What makes each reason hold, as a change of the line and of what is loaded. A later one never undoes an earlier one.


class Case:
    """A line and its surroundings, made worse step by step."""

    def __init__(self) -> None:
        self.line: dict[str, Any] = {"quantity": 2}
        self.product: dict[str, Any] = {}
        self.exists = True
        self.available = 10
        self.bought: dict[tuple[str, str], int] = {}
        self.hashes: dict[tuple[str, str], str] = {}
        self.down: frozenset[str] = frozenset()

    def decide(self) -> Reason | None:
        line = line_of(1, **self.line)
        products = [product_of(**self.product)] if self.exists else []
        loaded = loaded_with(
            *products, available=self.available, bought=self.bought, hashes=self.hashes, down=self.down
        )
        return decide(received(line), loaded, NOON).decisions[0].reason


def conflict(case: Case) -> None:
    case.hashes[uuid_of(1), "of another product"] = OTHER_HASH


def unknown(case: Case) -> None:
    case.exists = False


def off_shelf(case: Case) -> None:
    case.product["on_shelf"] = False


def over(case: Case) -> None:
    case.product["sale_to"] = NOON


def no_address(case: Case) -> None:
    case.line |= {"shipping": None, "address_id": "home"}


def other_price(case: Case) -> None:
    case.line["expected_total"] = Money("257.99", "CNY")


def worthless(case: Case) -> None:
    case.product["price"] = Decimal(0)


def too_dear(case: Case) -> None:
    case.product.setdefault("price", Decimal("999999999999.9999"))


def bought_enough(case: Case) -> None:
    case.product["buyer_limit"] = 3
    case.bought["p", "buyer-1"] = 2


def sold_out(case: Case) -> None:
    case.available = 0


def too_few(case: Case) -> None:
    case.available = min(case.available, 1)


def source_down(case: Case) -> None:
    case.product["stock_source"] = "refuse"
    case.down = frozenset({"p"})


WORSE: list[tuple[Reason, Callable[[Case], None]]] = [
    (Reason.IDEMPOTENCY_CONFLICT, conflict),
    (Reason.UNKNOWN_PRODUCT, unknown),
    (Reason.OFF_SHELF, off_shelf),
    (Reason.NOT_ON_SALE, over),
    (Reason.ADDRESS_UNKNOWN, no_address),
    (Reason.PRICE_CHANGED, other_price),
    (Reason.TOTAL_NOT_POSITIVE, worthless),
    (Reason.TOTAL_TOO_LARGE, too_dear),
    (Reason.BUYER_LIMIT, bought_enough),
    (Reason.SOLD_OUT, sold_out),
    (Reason.INSUFFICIENT_STOCK, too_few),
    (Reason.STOCK_SOURCE_DOWN, source_down),
]


def test_the_table_has_every_reason_in_order() -> None:
    assert [reason for reason, _ in WORSE] == [reason for reason in Reason if reason not in OF_THE_WHOLE]


def test_without_a_reason_an_order_is_created() -> None:
    assert Case().decide() is None


@pytest.mark.parametrize(("reason", "worsen"), WORSE, ids=[reason.value for reason, _ in WORSE])
def test_each_reason_alone(reason: Reason, worsen: Callable[[Case], None]) -> None:
    case = Case()
    worsen(case)
    assert case.decide() is reason


@pytest.mark.parametrize("first", range(len(WORSE)), ids=[reason.value for reason, _ in WORSE])
def test_the_earlier_reason_wins_over_all_later_ones(first: int) -> None:
    for later in range(first + 1, len(WORSE)):
        case = Case()
        WORSE[later][1](case)
        WORSE[first][1](case)
        assert case.decide() is WORSE[first][0], WORSE[later][0]
    case = Case()
    for _, worsen in WORSE[first:]:
        worsen(case)
    assert case.decide() is WORSE[first][0]


def test_idempotency_comes_before_everything() -> None:
    """A line that was decided is answered the same, whatever has become of its product since."""
    case = Case()
    for _, worsen in WORSE[1:]:
        worsen(case)
    line = line_of(1, **case.line)
    loaded = loaded_with(decided={(uuid_of(1), "p"): 3}, hashes={(uuid_of(1), "p"): HASH})
    decision = decide(received(line, start=9), loaded, NOON).decisions[0]
    assert (decision.kind, decision.reason, decision.order, decision.first_offset) == (
        Kind.REPEATED,
        None,
        None,
        3,
    )


def test_repeated_in_the_batch() -> None:
    decided = decide(received(line_of(1), line_of(1), line_of(2, quantity=99), line_of(2, quantity=99), start=7),
                     loaded_with(product_of()), NOON)  # fmt: skip
    assert kinds(decided) == [Kind.CREATED, Kind.REPEATED, Kind.REFUSED, Kind.REPEATED]
    assert [d.first_offset for d in decided.decisions] == [None, 7, None, 9]
    assert decided.stock == {"p": Stock(9, 6)}


def test_a_conflict_in_the_batch_changes_nothing() -> None:
    decided = decide(
        received(line_of(1), line_of(1, quantity=3, payload_hash=OTHER_HASH), line_of(1)),
        loaded_with(product_of()),
        NOON,
    )
    assert kinds(decided) == [Kind.CREATED, Kind.CONFLICT, Kind.REPEATED]
    assert reasons(decided)[1] is Reason.IDEMPOTENCY_CONFLICT
    assert decided.stock == {"p": Stock(9, 6)}


def test_a_conflict_is_found_on_another_product_of_the_checkout() -> None:
    lines = [line_of(1, "a"), line_of(1, "b", payload_hash=OTHER_HASH), line_of(1, "b")]
    decided = decide(received(*lines), loaded_with(product_of("a"), product_of("b")), NOON)
    assert kinds(decided) == [Kind.CREATED, Kind.CONFLICT, Kind.CREATED]


@pytest.mark.parametrize(("bought", "created"), [(0, 3), (1, 2), (3, 0), (5, 0)])
def test_the_buyer_limit_spans_what_was_bought_and_the_batch(bought: int, created: int) -> None:
    lines = [line_of(n, buyer_id="b") for n in range(4)]
    loaded = loaded_with(product_of(buyer_limit=3), bought={("p", "b"): bought, ("p", "other"): 3})
    decided = decide(received(*lines), loaded, NOON)
    assert reasons(decided) == [None] * created + [Reason.BUYER_LIMIT] * (4 - created)
    assert decided.bought == ({("p", "b"): created} if created else {})


def test_the_buyer_limit_is_per_buyer_and_product() -> None:
    products = (product_of("a", buyer_limit=1), product_of("b", buyer_limit=1))
    lines = [line_of(n, product, buyer_id=buyer) for n, (product, buyer) in enumerate(
        [("a", "x"), ("b", "x"), ("a", "y"), ("a", "x")]
    )]  # fmt: skip
    assert reasons(decide(received(*lines), loaded_with(*products), NOON)) == [
        None,
        None,
        None,
        Reason.BUYER_LIMIT,
    ]


def test_without_a_limit_nothing_is_counted() -> None:
    assert decide(received(line_of(1)), loaded_with(product_of()), NOON).bought == {}


@pytest.mark.parametrize(
    ("amount", "currency", "reason"),
    [
        ("258.00", "CNY", None),
        ("258", "CNY", None),
        ("258.0000", "CNY", None),
        ("258.01", "CNY", Reason.PRICE_CHANGED),
        ("129.00", "CNY", Reason.PRICE_CHANGED),
        ("258.00", "USD", Reason.PRICE_CHANGED),
    ],
)
def test_the_expected_total_of_one_line(amount: str, currency: str, reason: Reason | None) -> None:
    line = line_of(1, quantity=2, expected_total=Money(amount, currency))
    assert reasons(decide(received(line), loaded_with(product_of()), NOON)) == [reason]


@pytest.mark.parametrize(
    ("amount", "basket", "reason"),
    [
        ("158.00", [("p", 1), ("q", 2)], None),
        ("158.00", [("q", 2), ("p", 1)], None),
        ("129.00", [("p", 1), ("q", 2)], Reason.PRICE_CHANGED),
        ("158.01", [("p", 1), ("q", 2)], Reason.PRICE_CHANGED),
        ("158.00", [("p", 1), ("q", 2), ("unknown", 1)], Reason.PRICE_CHANGED),
        ("158.00", [("p", 1), ("dollars", 2)], Reason.PRICE_CHANGED),
    ],
)
def test_the_expected_total_of_a_basket(
    amount: str, basket: list[tuple[str, int]], reason: Reason | None
) -> None:
    products = [product_of(), product_of("q", price=Decimal("14.50"))]
    products.append(product_of("dollars", price=Decimal("14.50"), currency="USD"))
    line = line_of(1, expected_total=Money(amount, "CNY"), basket=basket)
    assert reasons(decide(received(line), loaded_with(*products), NOON)) == [reason]


def test_the_sum_of_a_basket_is_exact() -> None:
    products = [product_of(f"p{n}", price=Decimal("0.1")) for n in range(10)]
    line = line_of(1, "p0", expected_total=Money("1.0", "CNY"), basket=[(p.product_id, 1) for p in products])
    assert reasons(decide(received(line), loaded_with(*products), NOON)) == [None]


def test_an_address_of_the_book_is_copied() -> None:
    line = line_of(1, shipping=None, address_id="home")
    loaded = loaded_with(product_of(), addresses={("buyer-1", "home"): HOME})
    order = decide(received(line), loaded, NOON).decisions[0].order
    assert order is not None
    assert order.shipping == HOME
    foreign = loaded_with(product_of(), addresses={("buyer-2", "home"): HOME})
    assert reasons(decide(received(line), foreign, NOON)) == [Reason.ADDRESS_UNKNOWN]


def test_an_order_is_a_snapshot() -> None:
    now = NOON + timedelta(microseconds=123_456)
    line = line_of(1, quantity=3, note="by night", payment_method="alipay")
    loaded = loaded_with(product_of(payment_ttl_s=60))
    decision = decide([Received(3, 42, line)], loaded, now).decisions[0]
    order = decision.order
    assert order is not None
    assert order.order_id == order_id_of(to_ms(now), 3, 42)
    assert (order.name, order.cover) == ("Name of p", "https://img.example/p.jpg")
    assert (order.price, order.total, order.currency) == (Decimal("129.00"), Decimal("387.00"), "CNY")
    assert (order.payment_method, order.note, order.shipping) == ("alipay", "by night", HOME)
    assert order.expires_at == now + timedelta(seconds=60)
    assert (decision.partition, decision.offset, decision.decided_at) == (3, 42, now)
    assert decision.accepted_at == from_ms(line.accepted_at_ms)
    assert (decision.line, decision.lines, decision.quantity) == (0, 1, 3)


def test_a_dead_letter_is_a_decision() -> None:
    decision = decide(received(None, start=4), loaded_with(), NOON).decisions[0]
    assert (decision.kind, decision.offset, decision.detail) == (Kind.DEAD, 4, "broken")
    assert (decision.checkout_id, decision.order, decision.reason) == (None, None, None)


def test_the_last_unit_is_sold_once() -> None:
    decided = decide(
        received(line_of(1), line_of(2), line_of(3)), loaded_with(product_of(), available=1), NOON
    )
    assert reasons(decided) == [None, Reason.SOLD_OUT, Reason.SOLD_OUT]
    assert decided.stock == {"p": Stock(0, 6)}


def test_fewer_units_may_still_be_bought() -> None:
    lines = [line_of(1, quantity=3), line_of(2, quantity=2), line_of(3)]
    decided = decide(received(*lines), loaded_with(product_of(), available=2), NOON)
    assert reasons(decided) == [Reason.INSUFFICIENT_STOCK, None, Reason.SOLD_OUT]


# Any batch

PRODUCTS = [
    product_of("a"),
    product_of("b", buyer_limit=3, price=Decimal("0.01")),
    product_of("c", on_shelf=False),
    product_of("d", price=Decimal(0)),
]
lines = st.builds(
    line_of,
    st.integers(1, 6),
    st.sampled_from(["a", "a", "b", "c", "d", "unknown"]),
    st.integers(1, 4),
    buyer_id=st.sampled_from(["x", "y"]),
    payload_hash=st.sampled_from([HASH, HASH, HASH, OTHER_HASH]),
    expected_total=st.sampled_from([None, None, Money("129", "CNY")]),
)
batches = st.lists(st.one_of(lines, lines, lines, st.none()), max_size=25).map(lambda found: received(*found))
worlds = st.builds(
    lambda stock, bought, decided: loaded_with(
        *PRODUCTS,
        stock={p.product_id: s for p, s in zip(PRODUCTS, stock, strict=True)},
        bought={("b", "x"): bought} if bought else {},
        decided={(uuid_of(1), "a"): 0} if decided else {},
        hashes={(uuid_of(1), "a"): HASH} if decided else {},
    ),
    st.lists(st.builds(Stock, st.integers(0, 20), st.integers(1, 9)), min_size=4, max_size=4),
    st.integers(0, 4),
    st.booleans(),
)


def apply(loaded: Loaded, decided: Decided) -> Loaded:
    """What would be loaded after this was persisted."""
    first = [d for d in decided.decisions if d.kind in (Kind.CREATED, Kind.REFUSED) and d.checkout_id]
    bought = dict(loaded.bought)
    for pair, units in decided.bought.items():
        bought[pair] = bought.get(pair, 0) + units
    return Loaded(
        products=loaded.products,
        stock=loaded.stock | decided.stock,
        bought=bought,
        addresses=loaded.addresses,
        decided=loaded.decided | {(str(d.checkout_id), d.product_id): d.offset for d in first},
        hashes=loaded.hashes | {(str(d.checkout_id), d.product_id): d.payload_hash for d in first},
    )


@given(batches, worlds)
def test_every_message_has_one_decision_in_its_place(batch: list[Received], loaded: Loaded) -> None:
    decided = decide(batch, loaded, NOON)
    assert [(d.partition, d.offset) for d in decided.decisions] == [(m.partition, m.offset) for m in batch]
    for message, decision in zip(batch, decided.decisions, strict=True):
        assert (decision.kind is Kind.DEAD) == (message.line is None)
        assert (decision.order is not None) == (decision.kind is Kind.CREATED)
        assert (decision.reason is not None) == (decision.kind in (Kind.REFUSED, Kind.CONFLICT))
        assert (decision.first_offset is not None) == (decision.kind is Kind.REPEATED)


@given(batches, worlds)
def test_stock_is_conserved_and_never_negative(batch: list[Received], loaded: Loaded) -> None:
    decided = decide(batch, loaded, NOON)
    for product_id, before in loaded.stock.items():
        after = decided.stock.get(product_id, before)
        sold = [d.quantity for d in decided.decisions if d.order is not None and d.product_id == product_id]
        assert after.available >= 0
        assert before.available - after.available == sum(sold)
        assert after.seq - before.seq == len(sold)
        assert (product_id in decided.stock) == bool(sold)


@given(batches, worlds)
def test_no_buyer_gets_more_than_the_limit(batch: list[Received], loaded: Loaded) -> None:
    decided = decide(batch, loaded, NOON)
    for buyer in ("x", "y"):
        sold = sum(
            d.quantity for d in decided.decisions if d.order and (d.product_id, d.buyer_id) == ("b", buyer)
        )
        before = loaded.bought.get(("b", buyer), 0)
        assert decided.bought.get(("b", buyer), 0) == sold
        assert sold == 0 or before + sold <= 3


@given(batches, worlds)
def test_a_line_is_decided_first_only_once(batch: list[Received], loaded: Loaded) -> None:
    first = [
        (str(d.checkout_id), d.product_id)
        for d in decide(batch, loaded, NOON).decisions
        if d.kind in (Kind.CREATED, Kind.REFUSED)
    ]
    assert len(first) == len(set(first))
    assert not set(first) & loaded.decided.keys()


@given(batches, worlds, st.integers(0, 25))
def test_a_batch_may_be_split_anywhere(batch: list[Received], loaded: Loaded, at: int) -> None:
    whole = decide(batch, loaded, NOON)
    one = decide(batch[:at], loaded, NOON)
    two = decide(batch[at:], apply(loaded, one), NOON)
    assert one.decisions + two.decisions == whole.decisions
    assert one.stock | two.stock == whole.stock
    assert apply(apply(loaded, one), two) == apply(loaded, whole)


@given(batches, worlds, st.integers(0, 25), st.booleans())
def test_a_batch_may_be_decided_before_the_one_before_is_committed(
    batch: list[Received], loaded: Loaded, at: int, is_committed: bool
) -> None:
    """Whether or not it was when the rest was loaded; but for what buyers have bought, for which one has to wait."""
    one = decide(batch[:at], loaded, NOON)
    then = apply(loaded, one)
    read = then if is_committed else msgspec.structs.replace(loaded, bought=then.bought)
    assert decide(batch[at:], read.after(one), NOON) == decide(batch[at:], then, NOON)


@given(batches, worlds)
def test_deciding_again_changes_nothing(batch: list[Received], loaded: Loaded) -> None:
    """What has been decided once is only ever repeated."""
    after = apply(loaded, decide(batch, loaded, NOON))
    again = decide(batch, after, NOON)
    assert set(kinds(again)) <= {Kind.REPEATED, Kind.CONFLICT, Kind.DEAD}
    assert (again.stock, again.bought) == ({}, {})


@given(batches, worlds)
def test_it_is_pure(batch: list[Received], loaded: Loaded) -> None:
    before = deepcopy((batch, loaded))
    assert decide(batch, loaded, NOON) == decide(iter(batch), loaded, NOON)
    assert (batch, loaded) == before
