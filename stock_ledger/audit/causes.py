"""Laws of cause: what moved stock besides lines was an applied command, and every unit comes back at most once."""

from collections import Counter

from contracts.commands import Adjust, Command, Move, PutProduct, Restock, SetStock, Settle, TakeIn, TakeOver
from stock_ledger.audit.book import APPLIED, TAKEN_BY_LINES, Book, Place, by_command, where
from stock_ledger.audit.command_facts import CommandRow
from stock_ledger.audit.facts import LedgerRow
from stock_ledger.audit.history import DROPPED
from stock_ledger.audit.life import Entry, lives
from stock_ledger.audit.report import Law
from stock_ledger.audit.slices import units_of
from stock_ledger.audit.stock import GIVEN, MOVE, ledgers
from stock_ledger.lifecycle import CLOSED

CLOSED_STATUSES = frozenset(status.value for status in CLOSED)
_SETTLED = {"pending": ("confirm", 0), "paid": ("paid", 0), "released": ("release", 1)}
_RETURNS = ("cancel", "close", "expire")


def entry_causes(book: Book) -> Law:
    law = Law(
        "entry-causes",
        "A ledger entry that no line made has the applied command that makes it, and each of those its entries",
    )
    expected = _expected(book)
    for place in sorted(expected.keys() | book.command_entries.keys()):
        law.checked += 1
        found, due = book.command_entries.get(place, []), expected.get(place, [])
        if _is_dropped(book, place):
            law.skip(1, DROPPED)
        elif not _same(found, due):
            row_at = book.command(place)
            what = "no command" if row_at is None else f"{row_at.action}, {row_at.outcome}"
            law.deviate(
                f"{what}: entries {[_told(e) for e in found]}, expected {[_told(e) for e in due]}",
                product_id=(found or due)[0].product_id,
                place=place,
            )
    for entry in book.facts.postgres.ledger:
        if entry.kind not in TAKEN_BY_LINES and entry.kind != "initial" and entry.offset is None:
            law.checked += 1
            law.deviate(f"entry {entry.seq} of kind {entry.kind} has no cause", product_id=entry.product_id)
    _set_stock(book, law)
    return law


def _is_dropped(book: Book, place: Place) -> bool:
    """Whether the command is about an order or a hold that was dropped."""
    row = book.command(place)
    if row is None or not book.history.floor_ms:
        return False
    command = row.command
    if isinstance(command, Settle):
        return (command.checkout_id, command.product_id) not in book.holds
    order_id = getattr(command, "order_id", None)
    return order_id is not None and order_id not in book.orders and book.history.had_order(order_id)


def _expected(book: Book) -> dict[Place, list[Entry]]:
    """The entries that applied commands make, by the commands' places."""
    expected: dict[Place, list[Entry]] = {}
    for _, steps in lives(book, commanded=True):
        for row, _, _, entries, _ in steps:
            if entries and row.outcome == APPLIED:
                expected[where(row)] = entries
    orders: dict[tuple[str, str], str | None] = {}  # of holds, as their settlements named them so far
    for row in book.facts.postgres.commands:
        if row.outcome != APPLIED:
            continue
        if isinstance(row.command, Settle):
            hold = (row.command.checkout_id, row.command.product_id)
            orders[hold] = row.command.order_id or orders.get(hold)
            expected[where(row)] = [_of_settle(book, row.command, orders[hold])]
        elif entries := _of_command(book, row):
            expected[where(row)] = entries
    return expected


def _of_command(book: Book, row: CommandRow) -> list[Entry]:
    """The entries that an applied command about a product or a slice makes. What it gives others leaves its stock."""
    command = row.command
    opened = any(e.kind == "initial" for e in book.command_entries.get(where(row), ()))
    made: list[Entry] = []
    if isinstance(command, Restock | Adjust):
        made = [Entry(command.product_id, row.action, command.units, None)]
    elif isinstance(command, SetStock):
        made = [Entry(command.product_id, "set_stock", None, None)]
    elif isinstance(command, PutProduct | TakeOver) and opened:
        made = [Entry(row.subject, "initial", command.stock if isinstance(command, PutProduct) else 0, None)]
    moved = _moved(command, row)
    return [*made, Entry(row.subject, MOVE, moved, None)] if moved else made


def _moved(command: Command | None, row: CommandRow) -> int:
    """Units that come to the slice from others, or go to them, by what was told."""
    if isinstance(command, Move):
        return -command.units
    if isinstance(command, TakeOver | TakeIn):
        return command.units
    return -sum(units_of(asked) for _, asked in row.asked if isinstance(asked, TakeOver))


def _of_settle(book: Book, command: Settle, order_id: str | None) -> Entry:
    hold = book.holds.get((command.checkout_id, command.product_id))
    kind, sign = _SETTLED[command.to]
    return Entry(command.product_id, kind, sign * (0 if hold is None else hold.quantity), order_id)


def _same(found: list[LedgerRow], due: list[Entry]) -> bool:
    if len(found) != len(due):
        return False
    by_product = sorted(found, key=lambda e: e.product_id), sorted(due, key=lambda e: e.product_id)
    for entry, wanted in zip(*by_product, strict=True):
        delta = entry.delta if wanted.delta is None else wanted.delta
        if Entry(entry.product_id, entry.kind, entry.delta, entry.order_id) != wanted._replace(delta=delta):
            return False
    return True


def _told(entry: LedgerRow | Entry) -> str:
    return f"{entry.kind} {'?' if entry.delta is None else f'{entry.delta:+}'} of {entry.product_id}"


def _set_stock(book: Book, law: Law) -> None:
    """After a stock-taking, all that was ever given of the product is what was counted."""
    if not any(row.action == "set_stock" for row in book.facts.postgres.commands):
        return
    for product_id, rows in ledgers(book).items():
        given = book.history.of_stock(product_id).given
        for entry in rows:
            given += entry.delta if entry.kind in GIVEN else 0
            if entry.kind != "set_stock" or entry.partition is None or entry.offset is None:
                continue
            cause = book.command((entry.partition, entry.offset))
            command = None if cause is None else cause.command
            if isinstance(command, SetStock) and command.total != given:
                law.deviate(
                    f"entry {entry.seq} makes it {given} units, counted were {command.total}",
                    product_id=product_id,
                    place=(entry.partition, entry.offset),
                )


def given_back(book: Book) -> Law:
    law = Law(
        "given-back",
        "An order's or a hold's units are taken once, and given back once if and only if it has ended",
    )
    taken: Counter[tuple[str, str]] = Counter()  # (order or checkout, product) -> units out of stock
    for entry in book.facts.postgres.ledger:
        if entry.partition is None or entry.offset is None:
            continue
        place = (entry.partition, entry.offset)
        if entry.kind in ("order", "late_payment", *_RETURNS):
            taken[entry.order_id or "", entry.product_id] -= entry.delta
        elif entry.kind == "hold" and (decision := book.decision(place)) is not None:
            taken[decision.checkout_id or "", entry.product_id] -= entry.delta
        elif entry.kind == "release":
            row = book.command(place)
            if row is not None and isinstance(row.command, Settle):
                taken[row.command.checkout_id, entry.product_id] -= entry.delta
    for item in book.facts.postgres.items:
        order = book.orders.get(item.order_id)
        if order is None or by_command(item.order_id):
            continue
        law.checked += 1
        _judge(law, taken[item.order_id, item.product_id], item.quantity, order.status in CLOSED_STATUSES,
               f"order {item.order_id}, {order.status}", item.product_id, order.checkout_id)  # fmt: skip
    holds = book.judged_holds()
    law.skip(len(book.holds) - len(holds), DROPPED)
    for hold in holds:
        law.checked += 1
        _judge(law, taken[hold.checkout_id, hold.product_id], hold.quantity, hold.state == "released",
               f"a hold, {hold.state}", hold.product_id, hold.checkout_id)  # fmt: skip
    return law


def _judge(
    law: Law, out: int, quantity: int, ended: bool, what: str, product_id: str, checkout_id: str
) -> None:
    expected = 0 if ended else quantity
    if out != expected:
        law.deviate(
            f"{what}: {out} units are out of stock by the ledger, expected {expected} of {quantity}",
            product_id=product_id,
            checkout_id=checkout_id,
        )
