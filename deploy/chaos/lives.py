"""The checker of commands and orders: what was asked and told, held against the log, Postgres and the events. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from contracts.commands import Pay, Restock
from contracts.outcomes import OrderStatus, PaymentStatus
from deploy.chaos.operations import Ask, AskPoll, History, Look, Violation
from stock_ledger.audit.book import APPLIED, DEAD, REFUSED, command_place_of
from stock_ledger.audit.command_facts import CommandRow
from stock_ledger.audit.facts import Facts
from stock_ledger.lifecycle import CLOSED, TRANSITIONS, after

P = PaymentStatus
# What a payment's status may be followed by.
_PAYMENTS: dict[P, set[P]] = {
    P.PENDING: {P.PAID, P.FAILED, P.EXPIRED},
    P.FAILED: {P.PAID, P.EXPIRED},
    P.EXPIRED: {P.PAID, P.REFUND_DUE},
    P.PAID: {P.REFUND_DUE},
    P.REFUND_DUE: {P.REFUNDED},
    P.REFUNDED: set(),
}
_OF_CLOSED = {P.EXPIRED, P.REFUND_DUE, P.REFUNDED}
_TAKEN_IN = (202, 204)


def reachable(steps: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """What each can become in any number of steps, itself included."""
    found = {}
    for start in steps:
        seen, todo = {start}, [start]
        while todo:
            fresh = steps.get(todo.pop(), set()) - seen
            seen.update(fresh)
            todo += fresh
        found[start] = seen
    return found


_STATUSES = reachable(
    {s.value: {t.value for (before, _), t in TRANSITIONS.items() if before is s} for s in OrderStatus}
)
_MONEY = reachable({s.value: {t.value for t in then} for s, then in _PAYMENTS.items()})
_BY_ACTION: dict[str, OrderStatus] = {a: t for (_, a), t in TRANSITIONS.items()}


def goes_with(status: str, payment: str) -> bool:
    """Whether an order in a status can have its payment in another."""
    if status == OrderStatus.PENDING_PAYMENT:
        return payment in (P.PENDING, P.FAILED)
    if status in CLOSED:
        return payment in _OF_CLOSED
    return payment == P.PAID


class Lives:
    """Every `_…` method that yields violations looks for one way in which commands or orders can be wrong."""

    def __init__(self, history: History, facts: Facts) -> None:
        self._history = history
        self._facts = facts
        self._asks: dict[int, list[Ask]] = defaultdict(list)
        for ask in history.asks:
            self._asks[ask.operation].append(ask)
        self._polls: dict[int, list[AskPoll]] = defaultdict(list)
        for poll in sorted(history.ask_polls, key=lambda poll: poll.at):
            self._polls[poll.operation].append(poll)
        self._looks: dict[str, list[Look]] = defaultdict(list)
        for look in sorted(history.looks, key=lambda look: look.at):
            if look.outcome == "ok":
                self._looks[look.order_id].append(look)
        self._rows = {(row.partition, row.offset): row for row in facts.postgres.commands}
        self._ends: dict[str, list[CommandRow]] = defaultdict(list)  # by command id: what decided it
        for row in facts.postgres.commands:
            if row.outcome in (APPLIED, REFUSED) and row.command_id is not None:
                self._ends[row.command_id].append(row)
        self._payments = {row.order_id: row.status for row in facts.postgres.payments}

    def run(self) -> Iterator[Violation]:
        yield from self._never_answered()
        yield from self._lost()
        yield from self._notices_lost()
        yield from self._duplicated()
        yield from self._ends_changed()
        yield from self._not_as_stored()
        yield from self._not_taken_in_but_done()
        yield from self._unexpected()
        yield from self._without_ground()
        yield from self._statuses_forbidden()
        yield from self._applied_but_not_seen()
        yield from self._paid_and_nothing_for_it()
        yield from self._events_out_of_order()

    def _never_answered(self) -> Iterator[Violation]:
        for operation, asks in self._asks.items():
            what = f"{asks[0].action} {asks[0].subject}, operation {operation}"
            known = [ask for ask in asks if ask.outcome == "ok"]
            if not known:
                yield Violation("never answered", f"{what}: {len(asks)} tries, none answered")
            elif known[-1].status == 202 and not any(p.is_final for p in self._polls[operation]):
                polls = len(self._polls[operation])
                yield Violation("never answered", f"{what}: taken in, but after {polls} polls not at its end")

    def _lost(self) -> Iterator[Violation]:
        """What a 202 says lies in the log of commands does, and is decided there."""
        log = {(m.partition, m.offset): m for m in self._facts.commands}
        for ask in self._history.asks:
            if ask.place is None:
                continue
            message, row = log.get(ask.place), self._rows.get(ask.place)
            command = None if message is None else message.command
            what = f"{ask.action} {ask.command_id} at {ask.place}"
            if command is None or command.command_id != ask.command_id:
                yield Violation("lost", f"{what} was acknowledged, the log of commands has {message}")
            elif row is None or row.command_id != ask.command_id:
                yield Violation("lost", f"{what} lies there, decided was {row}")

    def _notices_lost(self) -> Iterator[Violation]:
        """A payment that was acknowledged is decided."""
        decided = {row.command.event_id for row in self._rows.values() if isinstance(row.command, Pay)}
        for ask in self._history.asks:
            if ask.action == "pay" and ask.status == 204 and ask.key not in decided:
                yield Violation("lost", f"{ask.key} was acknowledged, and no command tells of it")

    def _duplicated(self) -> Iterator[Violation]:
        """One command for each key, one end for each command."""
        ids: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for ask in self._history.asks:
            if ask.status == 202 and not ask.unread:
                ids[ask.actor, ask.action, ask.subject, ask.key].add(ask.command_id)
        for key, found in ids.items():
            if len(found) > 1:
                yield Violation("duplicated", f"{key} became the commands {sorted(found)}")
        for command_id, rows in self._ends.items():
            if len(rows) > 1:
                yield Violation("duplicated", f"{rows[0].action} {command_id} was decided {len(rows)} times")
        notices = Counter(
            row.command.event_id for rows in self._ends.values() for row in rows if isinstance(row.command, Pay)
        )  # fmt: skip
        for event_id, count in notices.items():
            if count > 1:
                yield Violation("duplicated", f"{event_id} was decided {count} times")

    def _ends_changed(self) -> Iterator[Violation]:
        """A command has exactly one end, and is never waited for again."""
        for polls in self._polls.values():
            final: AskPoll | None = None
            for poll in polls:
                if final is None or poll.outcome != "ok" or poll.at < final.until:
                    final = final or (poll if poll.is_final else None)
                elif (poll.status, poll.reason) != (final.status, final.reason):
                    yield _of(
                        poll, f"was told {final.status} {final.reason}, then {poll.status} {poll.reason}"
                    )

    def _not_as_stored(self) -> Iterator[Violation]:
        for poll in self._history.ask_polls:
            rows = self._ends.get(poll.command_id, [])
            if poll.is_final and poll.status == DEAD:
                yield _of(poll, "was set aside as not readable")
            elif poll.is_final and (poll.status, poll.reason) not in [
                (r.outcome, r.reason or "") for r in rows
            ]:
                yield _of(poll, f"was told {poll.status} {poll.reason}, decided was {rows}")

    def _not_taken_in_but_done(self) -> Iterator[Violation]:
        """What every try was surely turned away for is not decided."""
        possible = {
            (ask.action, ask.subject, ask.key)
            for ask in self._history.asks
            if ask.status in _TAKEN_IN or ask.outcome == "unknown"
        }
        done = {_asked_by(row) for rows in self._ends.values() for row in rows}
        for ask in self._history.asks:
            what = (ask.action, ask.subject, ask.key)
            if what not in possible and _trace(ask) in done:
                yield Violation("contradicted", f"{what} was answered {ask.status}, and yet it was decided")

    def _unexpected(self) -> Iterator[Violation]:
        """Answers for which there is no ground, or that cannot be understood."""
        for ask in self._history.asks:
            fine = {204} if ask.action == "pay" else {202, 409}
            if ask.unread or ask.status not in {0, 503} | fine:
                what = f"{ask.action} {ask.subject} was answered {ask.status} {ask.code or ask.unread}"
                yield Violation("contradicted", what)
        for poll in self._history.ask_polls:
            if poll.unread or poll.code not in (0, 200, 503):
                yield _of(poll, f"was answered {poll.code} {poll.unread}".rstrip())
        for look in self._history.looks:
            if look.unread or look.code not in (0, 200, 503):
                what = f"order {look.order_id} was answered {look.code} {look.unread}".rstrip()
                yield Violation("contradicted", what)

    def _without_ground(self) -> Iterator[Violation]:
        """A command is turned away only where the order is in a status that forbids it."""
        for ask in self._history.asks:
            if ask.status != 409 or ask.unread:
                continue
            status = next((s for s in OrderStatus if s == ask.order_status), None)
            if status is None or after(status, ask.action) is not None:
                yield Violation(
                    "contradicted", f"{ask.action} {ask.subject} was turned away, being {ask.order_status!r}"
                )

    def _statuses_forbidden(self) -> Iterator[Violation]:
        """What an order is told to be can have come, by the table, from what it was told before; at last it is stored."""
        stored = {row.order_id: (row.status, row.sequence) for row in self._facts.postgres.orders}
        for order_id, looks in self._looks.items():
            seen = [(look.at, look.until, look.status, look.payment, look.sequence) for look in looks]
            if order_id not in stored:
                yield Violation("lost", f"order {order_id} was shown, and is not in Postgres")
                continue
            status, sequence = stored[order_id]
            end = float("inf")
            seen.append((end, end, status, self._payments.get(order_id, ""), sequence))
            for number, (at, _, now, paid, count) in enumerate(seen):
                if not goes_with(now, paid):
                    yield Violation("contradicted", f"order {order_id} was {now} with its payment {paid}")
                for _, until, before, paid_before, count_before in seen[:number]:
                    if until > at:
                        continue
                    forbidden = now not in _STATUSES.get(before, set()) or paid not in _MONEY.get(
                        paid_before, set()
                    )
                    same = count == count_before and (now, paid) != (before, paid_before)
                    if forbidden or same or count < count_before:
                        yield Violation(
                            "contradicted",
                            f"order {order_id} was {before}, {paid_before} ({count_before}), "
                            f"then {now}, {paid} ({count})",
                        )

    def _applied_but_not_seen(self) -> Iterator[Violation]:
        """Once a command is told as applied, its order is never seen as it was before."""
        for operation, polls in self._polls.items():
            ask = self._asks[operation][0]
            told = [poll.until for poll in polls if poll.status == APPLIED]
            if not told or ask.action not in _BY_ACTION:
                continue
            possible = _STATUSES[_BY_ACTION[ask.action].value]
            for look in self._looks.get(ask.subject, ()):
                if look.at >= min(told) and look.status not in possible:
                    yield Violation(
                        "contradicted", f"{ask.action} of order {ask.subject} was applied, then it was {look.status}"
                    )  # fmt: skip

    def _paid_and_nothing_for_it(self) -> Iterator[Violation]:
        """Whoever has paid has the order, or the payment is due back."""
        fine = (P.PAID, P.REFUND_DUE, P.REFUNDED)
        for ask in self._history.asks:
            payment = self._payments.get(ask.subject)
            if ask.event == "paid" and ask.status == 204 and payment not in fine:
                yield Violation("contradicted", f"order {ask.subject} was paid, its payment is {payment}")

    def _events_out_of_order(self) -> Iterator[Violation]:
        """Of each partition, events of commands first appear in the order of the log of commands."""
        last: dict[int, tuple[int, int]] = {}
        seen: set[str] = set()
        for event in self._facts.events:  # by partition and offset
            place = command_place_of(event.event_id)
            if place is None or event.event_id in seen:
                continue
            seen.add(event.event_id)
            partition, *now = place
            if (now[0], now[1]) < last.get(partition, (-1, -1)):
                yield Violation(
                    "out of order", f"{event.event_id} was first told after that of {last[partition]}"
                )
            last[partition] = max((now[0], now[1]), last.get(partition, (-1, -1)))


def _of(poll: AskPoll, detail: str) -> Violation:
    return Violation("contradicted", f"command {poll.command_id}, operation {poll.operation} {detail}")


def _trace(ask: Ask) -> tuple[str, ...]:
    """What a decided command can be told by, where its id is not known: each operation on an order is asked for once
    by its actor, a payment has its event's id, and a delivery its key as the reason.
    """
    if ask.action in ("restock", "pay"):
        return (ask.action, ask.subject, ask.key)
    return (ask.action, ask.subject, ask.actor)


def _asked_by(row: CommandRow) -> tuple[str, ...]:
    if isinstance(row.command, Restock):
        return (row.action, row.subject, row.command.why)
    if isinstance(row.command, Pay):
        return (row.action, row.subject, row.command.event_id)
    return (row.action, row.subject, row.actor)
