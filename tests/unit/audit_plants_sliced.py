"""Deviations between slices, planted in a clean sale of products with slices."""

from collections.abc import Callable
from typing import Any

import msgspec

from contracts.commands import TakeOver
from contracts.messages import read_checkout_line
from contracts.slices import stock_id
from stock_ledger.audit.command_facts import CommandMessage
from stock_ledger.audit.facts import Facts
from tests.harness import uuid_of
from tests.unit.audit_commands_sale import change_row, row_of
from tests.unit.audit_sale import Plants, change, drop, of_product, place
from tests.unit.audit_sliced_sale import FEW, HOT, buyer, hot

plants = Plants()

# --- lines -------------------------------------------------------------------------------------------------------


def _is(name: str, stock: str, kind: str = "") -> Callable[[Any], bool]:
    """Of this checkout and stock id, and if it is a decision, of this kind."""
    return lambda row: bool(
        row.checkout_id == uuid_of(name)
        and row.product_id == stock
        and kind in ("", getattr(row, "kind", ""))
    )


def _decision(facts: Facts, name: str, stock: str, kind: str) -> Any:
    (found,) = filter(_is(name, stock, kind), facts.postgres.decisions)
    return found


def _message(facts: Facts, name: str, stock: str) -> Any:
    """What came to this slice from the edge as its buyer's, or from another one."""
    (found,) = (m for m in facts.messages if _is(name, stock)(m) and m.value_hash)
    return found


def _sent_as(facts: Facts, name: str, stock: str, **fields: Any) -> None:
    """Change what a decision says that it sent on."""
    row = _decision(facts, name, stock, "forwarded")
    onward = msgspec.structs.replace(read_checkout_line(row.detail), **fields)
    change(facts.postgres.decisions, lambda r: r is row, detail=msgspec.json.encode(onward).decode())


@plants.breaks("forwards", "log-founded")
def lost_forward(facts: Facts) -> None:
    message = _message(facts, "last", hot(2))
    drop(facts.messages, lambda m: m is message)


@plants.breaks("forwards")
def forwarded_as_another_message(facts: Facts) -> None:
    message = _message(facts, "last", hot(2))
    change(facts.messages, lambda m: m is message, value_hash=1)


@plants.breaks("forwards", "repeats", "events", "cache-results")
def sent_on_and_decided_nowhere(facts: Facts) -> None:
    change(facts.postgres.decisions, _is("passed on late", hot(2)), kind="repeated", reason=None)


@plants.breaks("forwards")
def forwarded_with_another_quantity(facts: Facts) -> None:
    _sent_as(facts, "last", HOT, quantity=2)


@plants.breaks("forwards")
def forwarded_to_itself(facts: Facts) -> None:
    _sent_as(facts, "last", HOT, slice=0)


@plants.breaks("forwards")
def forwarded_to_a_slice_too_many(facts: Facts) -> None:
    _sent_as(facts, "last", HOT, slice=3)


@plants.breaks("forwards")
def forwarded_unreadably(facts: Facts) -> None:
    change(facts.postgres.decisions, _is("last", HOT, "forwarded"), detail="{")


@plants.breaks("forwards")
def forwarded_again(facts: Facts) -> None:
    """The line of before the split was forwarded already, and is sent on to another slice than where it is decided."""
    message = _message(facts, "before", hot(1))
    change(facts.messages, lambda m: m is message, forwarded=True)
    _sent_as(facts, "before", hot(1), slice=2)


@plants.breaks("forwards")
def forward_that_nobody_decided(facts: Facts) -> None:
    change(facts.messages, _is("late", HOT), forwarded=True, value_hash=1)


@plants.breaks("forwards", "decision-faithful")
def sent_to_a_slice_that_is_not_its_buyers(facts: Facts) -> None:
    message = _message(facts, "both", hot(1))
    change(facts.messages, lambda m: m is message, buyer_id=buyer(0))


@plants.breaks("repeats", "events")
def forwarded_line_decided_twice(facts: Facts) -> None:
    """The slice that forwarded it refused its copy, too."""
    copy = _is("elsewhere", hot(1), "repeated")
    change(facts.postgres.decisions, copy, kind="refused", reason="address_unknown", first_offset=None)


@plants.breaks("repeats")
def repeat_of_what_was_sent_on_points_elsewhere(facts: Facts) -> None:
    change(facts.postgres.decisions, _is("elsewhere", hot(1), "repeated"), first_offset=0)


@plants.breaks("decision-faithful")
def decided_by_another_slice(facts: Facts) -> None:
    change(facts.messages, _is("few 2", FEW), product_id=stock_id(FEW, 1))


@plants.breaks("refusals")
def refused_for_a_limit_that_no_slice_has_reached(facts: Facts) -> None:
    for stock in facts.postgres.products:
        if stock.buyer_limit is not None and stock.slices > 1:
            change(facts.postgres.products, of_product(stock.product_id), buyer_limit=3)


# --- units -------------------------------------------------------------------------------------------------------


@plants.breaks("slice-moves")
def moved_out_and_never_in(facts: Facts) -> None:
    """The units are not on their way either: nothing was told of them."""
    change_row(facts, "move", asked=())


@plants.breaks("slice-moves", "commands-asked")
def moved_to_another_slice(facts: Facts) -> None:
    row = row_of(facts, "move")
    (told,) = row.asked
    other = msgspec.structs.replace(told.command, product_id=hot(0))
    change(facts.postgres.commands, lambda r: r is row, asked=(told._replace(partition=0, command=other),))


@plants.breaks("slice-moves")
def told_twice_to_take_in(facts: Facts) -> None:
    row = row_of(facts, "move")
    change(facts.postgres.commands, lambda r: r is row, asked=row.asked * 2)


@plants.breaks("slice-moves")
def moved_in_twice(facts: Facts) -> None:
    """Under two command ids, the second of which nobody has told."""
    row = row_of(facts, "take_in")
    again = msgspec.structs.replace(row.command, command_id=uuid_of("once more"))
    p = row.partition
    offset = facts.postgres.next_commands[p]
    facts.postgres.next_commands[p] += 1
    facts.commands.append(CommandMessage(p, offset, "", again))
    facts.postgres.commands.append(
        row._replace(offset=offset, command_id=again.command_id, command=again, events=())
    )
    stock = next(s for s in facts.postgres.stock if s.product_id == row.subject)
    last = next(e for e in facts.postgres.ledger if (e.product_id, e.seq) == (row.subject, stock.seq))
    facts.postgres.ledger.append(
        last._replace(
            seq=stock.seq + 1, delta=again.units, available=stock.available + again.units, kind="move", offset=offset,
            order_id=None,
        )
    )  # fmt: skip
    change(
        facts.postgres.stock, lambda s: s is stock, seq=stock.seq + 1, available=stock.available + again.units
    )


@plants.breaks("slice-moves", "entry-causes", "conservation", "ledger-running", "oversold")
def a_unit_lost_on_the_way(facts: Facts) -> None:
    row = row_of(facts, "take_in")
    entry = next(e for e in facts.postgres.ledger if e.kind == "move" and place(row.partition, row.offset)(e))
    change(facts.postgres.ledger, lambda e: e is entry, delta=entry.delta - 1)


@plants.breaks("slice-moves", "entry-causes")
def units_refused_by_the_other_slice(facts: Facts) -> None:
    change_row(facts, "take_in", outcome="refused", reason="unknown_product")


@plants.breaks("slice-moves", "entry-causes")
def fewer_units_told_than_left(facts: Facts) -> None:
    """Of what left the first slice when they were opened, the last one was told of less."""
    row = row_of(facts, "open_slices")
    *before, told = row.asked
    assert isinstance(told.command, TakeOver)
    less = told._replace(command=msgspec.structs.replace(told.command, units=1))
    change(facts.postgres.commands, lambda r: r is row, asked=(*before, less))


# --- entries, and what is shown ----------------------------------------------------------------------------------


@plants.breaks("slice-entries")
def slice_with_an_older_entry(facts: Facts) -> None:
    change(facts.postgres.products, of_product(hot(2)), version=1)


@plants.breaks("slice-entries")
def slice_that_is_not_there(facts: Facts) -> None:
    drop(facts.postgres.products, of_product(hot(2)))


@plants.breaks("slice-entries", "conservation")
def slice_too_many(facts: Facts) -> None:
    first = next(p for p in facts.postgres.products if p.product_id == HOT)
    facts.postgres.products.append(first._replace(product_id=hot(3)))


@plants.breaks("cache-slices")
def wrong_number_of_slices_shown(facts: Facts) -> None:
    change(facts.cache.slices, of_product(HOT), shown=2)


@plants.breaks("cache-slices")
def slices_of_a_stranger_shown(facts: Facts) -> None:
    change(facts.cache.slices, of_product(HOT), true=None)


@plants.breaks("cache-slices")
def slices_not_shown(facts: Facts) -> None:
    change(facts.cache.slices, of_product(HOT), shown=1)
