"""The bench's arithmetic: medians, ratios, goals, ramps; what it submits; how it tells the result."""

from collections import Counter
from itertools import islice

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import Invalid
from contracts.messages import decode_checkout_line
from deploy.bench import report
from deploy.bench.checkouts import backlog_of, baskets, zipf
from deploy.bench.ground import Counts
from deploy.bench.machine import Machine
from deploy.bench.memory import halves
from deploy.bench.rounds import Goal, Ramp, at_least, at_most, figure, row
from deploy.bench.suites import SUITES, chosen

MACHINE = Machine("2026-11-11 12:00 UTC", 2, "a processor", 8.0, "Linux", "3.11", {"kafka": "4.4"}, 0.5)


def test_a_row_has_the_medians_of_both_sides_and_of_the_rounds_ratios() -> None:
    made = row("s", "w", "/s", "other", [(10, 20), (30, 40), (90, 30)], Goal(0.8))
    assert (made.measured, made.other) == (30, 30)
    assert (made.ratio, made.ratio_min, made.ratio_max) == (0.75, 0.5, 3.0)
    assert made.met is False


@pytest.mark.parametrize(
    ("goal", "ratio", "is_met", "share"),
    [
        (Goal(0.8), 0.8, True, 1.0),
        (Goal(0.8), 0.4, False, 0.5),
        (Goal(0.5, at_most=True), 0.5, True, 1.0),
        (Goal(0.5, at_most=True), 1.0, False, 0.5),
        (Goal(0.5, at_most=True), 0.25, True, 2.0),
    ],
)
def test_a_goal_is_met_from_one_side(goal: Goal, ratio: float, is_met: bool, share: float) -> None:
    assert goal.is_met(ratio) is is_met
    assert goal.share(ratio) == share


def test_fixed_figures_are_reached_or_not_exceeded() -> None:
    assert at_least("s", "w", "/s", [50, 60, 70], 60).met is True
    assert at_least("s", "w", "/s", [50, 55, 70], 60).met is False
    assert at_most("s", "w", "ms", [50, 60, 70], 60).met is True
    assert at_most("s", "w", "ms", [61, 62, 10], 60).met is False
    assert at_most("s", "w", "ms", [61], 60, goal=None).met is None


@given(limit=st.floats(100, 1e5), first=st.floats(1, 99), factor=st.floats(1.1, 3), tries=st.integers(1, 3))
def test_a_ramp_ends_at_the_last_rate_that_holds(
    limit: float, first: float, factor: float, tries: int
) -> None:
    ramp, tried = Ramp(first, factor, tries), 0
    while not ramp.is_over:
        tried += ramp.per_s > limit
        ramp.tell(held=ramp.per_s <= limit)
    assert ramp.best_per_s <= limit < ramp.best_per_s * factor
    assert tried == tries


def test_a_ramp_goes_on_after_one_bad_moment_and_knows_when_nothing_holds() -> None:
    ramp = Ramp(100, 2)
    for held in (True, False, True, False, False):
        ramp.tell(held=held)
    assert (ramp.is_over, ramp.best_per_s) == (True, 200)
    ramp = Ramp(100, 2, tries=1)
    ramp.tell(held=False)
    assert (ramp.is_over, ramp.best_per_s) == (True, 0)


def test_a_ramp_that_begins_too_high_begins_lower() -> None:
    ramp, tried = Ramp(100, 1.5, tries=1, lowest_per_s=20), []
    while not ramp.is_over:
        tried.append(ramp.per_s)
        ramp.tell(held=ramp.per_s < 60)
    assert (tried, ramp.best_per_s) == ([100, 50, 75], 50)
    ramp, tried = Ramp(100, 1.5, tries=2, lowest_per_s=20), []
    while not ramp.is_over:
        tried.append(ramp.per_s)
        ramp.tell(held=False)
    assert (tried, ramp.best_per_s) == ([100, 100, 50, 50, 25, 25], 0)


@pytest.mark.parametrize(
    ("value", "told"), [(123456.7, "123,457"), (99.94, "99.9"), (0.8, "0.80"), (0.004, "0.00")]
)
def test_figures_have_three_digits(value: float, told: str) -> None:
    assert figure(value) == told


def test_products_are_asked_for_by_their_rank() -> None:
    """Of 10,000 products the first has 10.2 % of all, as often as the second and third do in 1/2 and 1/3."""
    asked = Counter(islice(zipf(10_000), 200_000))
    first = asked["sku-0001"]
    assert 0.097 < first / 200_000 < 0.107
    assert 0.45 < asked["sku-0002"] / first < 0.55
    assert 0.28 < asked["sku-0003"] / first < 0.38
    assert 6_000 < len(asked) < 10_000, "most products are asked for now and then"
    assert list(islice(zipf(10_000), 5)) == list(islice(zipf(10_000), 5)), "the same plan each time"


def test_a_basket_has_different_products() -> None:
    for basket in islice(baskets(zipf(100), 20), 50):
        assert len(set(basket)) == 20


def test_a_backlog_is_what_ingest_would_write() -> None:
    made = backlog_of([("sku-0001", "sku-0002"), ("sku-0003",)], 4)
    lines = [
        decode_checkout_line(value, key, partition, 4)
        for partition, records in made.items()
        for key, value, _ in records
    ]
    by_product = {line.product_id: line for line in lines}
    one, two, three = (by_product[f"sku-000{n}"] for n in (1, 2, 3))
    assert (one.checkout_id, one.buyer_id) == (two.checkout_id, two.buyer_id) != (three.checkout_id, "")
    assert [(line.line, line.lines) for line in (one, two, three)] == [(0, 2), (1, 2), (0, 1)]


def test_an_order_that_is_not_whole_is_not_counted() -> None:
    Counts(3, 3, 3, 3, 3, 3, 3).check(3)
    for name in Counts.__struct_fields__:
        with pytest.raises(RuntimeError, match=f"3 checkouts.*{name}=2"):
            msgspec.structs.replace(Counts(3, 3, 3, 3, 3, 3, 3), **{name: 2}).check(3)


def test_memory_is_compared_after_the_warm_up() -> None:
    assert halves([1, 99, 5, 6, 5, 4, 7, 5, 6, 5]) == (7, 6)
    assert halves([3.0]) == (3.0, 3.0)


def test_suites_are_run_in_their_order_whatever_the_order_of_their_names() -> None:
    assert chosen([]) == list(SUITES)
    assert chosen(["poll", "accept"]) == ["accept", "poll"]
    with pytest.raises(Invalid, match="no suite drain; there are accept, drain-hot"):
        chosen(["drain", "poll"])


def test_the_report_says_what_is_met_and_missed() -> None:
    rows = [
        row("drain", "one [product]", "/s", "COPY", [(41, 50), (42, 50), (45, 50)], Goal(0.8)),
        row("drain", "many", "/s", "one", [(10, 50)], Goal(0.8)),
        at_most("cost", "all", "µs", [20], 100),
        row("cost", "of it kafka", "µs", "all", [(5, 20)]),
    ]
    assert report.markdown(rows).splitlines()[2:] == [
        "| drain | one [product] | 42.0/s | COPY: 50.0/s | 0.84 (0.82–0.90) | ≥ 0.80 | met |",
        "| drain | many | 10.0/s | one: 50.0/s | 0.20 | ≥ 0.80 | missed |",
        "| cost | all | 20.0 µs | allowed: 100 µs | 0.20 | ≤ 1.00 | met |",
        "| cost | of it kafka | 5.00 µs | all: 20.0 µs | 0.25 |  |  |",
    ]
    drawn = report.plot(rows, MACHINE)
    assert drawn.startswith("<svg")
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "").replace(
        "https://www.textualize.io", ""
    )
    assert "of&#160;it&#160;kafka" not in drawn, "a bar only where there is a goal"
    assert msgspec.json.decode(msgspec.json.encode(rows), type=list[type(rows[0])]) == rows  # type: ignore[misc]
