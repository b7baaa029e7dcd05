"""The checker of a history: what buyers did and were told, held against the log, Postgres and the events. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain

from api.marks import CONFIRMED_FOR_S
from contracts.slices import product_of
from deploy.chaos.endings import never_ended
from deploy.chaos.lives import Lives
from deploy.chaos.operations import History, Poll, Submit, Told, Violation
from deploy.chaos.stock import sold_out_in_part, sold_out_without_ground, sold_without_stock
from stock_ledger.audit.book import CONFLICT, CREATED, DEAD, HELD, REFUSED, by_command, place_of
from stock_ledger.audit.command_facts import GatheringRow
from stock_ledger.audit.facts import DecisionRow, Facts, MessageFact

Place = tuple[int, int]  # partition and offset

_SHOWN_MAX = 20  # violations of a kind that are told in full; all are counted


class Check:
    """The checker. Every `_…` method that yields violations looks for one way in which a history can be wrong."""

    def __init__(self, history: History, facts: Facts) -> None:
        self._history = history
        self._facts = facts
        self._submits: dict[int, list[Submit]] = defaultdict(list)
        for submit in history.submits:
            self._submits[submit.operation].append(submit)
        self._polls: dict[int, list[Poll]] = defaultdict(list)
        for poll in sorted(history.polls, key=lambda poll: poll.at):
            self._polls[poll.operation].append(poll)
        self._accepted = [s for s in history.submits if s.status == 202 and not s.unread]
        self._gatherings = {row.checkout_id: row for row in facts.postgres.gatherings}
        self._decisions: dict[Place, DecisionRow] = {
            (row.partition, row.offset): row for row in facts.postgres.decisions
        }

    def run(self) -> Iterator[Violation]:
        yield from self._never_answered()
        yield from self._lost()
        yield from self._not_as_asked()
        yield from self._orders_lost()
        yield from self._duplicated()
        yield from self._orders_duplicated()
        yield from self._answers_changed()
        yield from self._repeats_differ()
        yield from self._places_grow()
        yield from self._not_as_stored()
        yield from self._refused_but_there()
        yield from self._unexpected()
        yield from self._log_out_of_order()
        yield from self._events_out_of_order()
        yield from sold_without_stock(self._facts)
        yield from sold_out_without_ground(self._history.submits, self._facts, self._history.sold_out_for_s)
        yield from sold_out_in_part(self._history.submits)

    def _never_answered(self) -> Iterator[Violation]:
        for operation, submits in self._submits.items():
            known = [submit for submit in submits if submit.outcome == "ok"]
            if not known:
                yield Violation(
                    "never answered", f"operation {operation}: {len(submits)} tries, none answered"
                )
            elif known[-1].status == 202 and not any(p.is_final for p in self._polls[operation]):
                polls = len(self._polls[operation])
                yield Violation(
                    "never answered", f"accepted, but after {polls} polls not final", known[-1].checkout_id
                )

    def _lost(self) -> Iterator[Violation]:
        """What a 202 says lies in the log does, and is decided there."""
        log = {(m.partition, m.offset): m for m in self._facts.messages}
        for submit in self._accepted:
            for line in submit.lines:
                place = (line.partition, line.offset)
                message, decision = log.get(place), self._decisions.get(place)
                expected = (submit.checkout_id, line.product_id, line.quantity)
                if message is None or _line_of(message) != expected:
                    yield _at("lost", place, f"{expected} was acknowledged, the log has {message}", submit)
                elif decision is None or (decision.kind != DEAD and _line_of(decision) != expected):
                    yield _at("lost", place, f"{expected} lies there, decided was {decision}", submit)

    def _not_as_asked(self) -> Iterator[Violation]:
        """What is acknowledged is all that the buyer has asked for; nothing else lies in the log or is decided."""
        for submit in self._accepted:
            lines = [(line.product_id, line.quantity) for line in submit.lines]
            if sorted(lines) != sorted(submit.asked.items()):
                what = f"{submit.asked} was asked for, {lines} acknowledged"
                yield Violation("contradicted", what, submit.checkout_id)
        asked = {(s.derived_id, *item, s.is_whole) for s in self._history.submits for item in s.asked.items()}
        units = {(checkout_id, product_id, count) for checkout_id, product_id, count, _ in asked}
        for m in self._facts.messages:
            if not m.error and _line_of(m) not in units:
                what = f"{m.quantity} of {m.product_id} lie in the log, nobody asked for that"
                yield Violation("contradicted", what, m.checkout_id)
        for row in self._facts.postgres.decisions:
            if row.kind != DEAD and (*_line_of(row), row.whole) not in asked:
                policy = "all or nothing" if row.whole else "independent"
                what = f"{row.quantity} of {row.product_id}, {policy}, was {row.kind}, nobody asked for that"
                yield Violation("contradicted", what, row.checkout_id or "")

    def _orders_lost(self) -> Iterator[Violation]:
        """An order that a buyer was told of is stored, and was told to the world."""
        stored = {order.order_id for order in self._facts.postgres.orders}
        published = {e.document.order_id for e in self._facts.events if e.document is not None}
        published |= {(e.key or b"").decode() for e in self._facts.events if e.type == "order.created"}
        for poll in self._finals():
            for told in poll.told:
                if told.order_id and told.order_id not in stored:
                    yield Violation("lost", f"order {told.order_id} is not in Postgres", poll.checkout_id)
                if told.order_id and told.order_id not in published:
                    yield Violation("lost", f"order {told.order_id} has no event", poll.checkout_id)

    def _duplicated(self) -> Iterator[Violation]:
        """One checkout for each key, the one that its buyer and it give; one decision for each of its products."""
        ids: dict[str, set[str]] = defaultdict(set)
        for submit in self._accepted:
            ids[submit.key] |= {submit.checkout_id, submit.derived_id}
        for key, found in ids.items():
            if len(found) > 1:
                yield Violation("duplicated", f"key {key} became the checkouts {sorted(found)}")
        decided = Counter(
            (row.checkout_id or "", product_of(row.product_id))
            for row in self._facts.postgres.decisions
            if row.kind in (CREATED, HELD, REFUSED)
        )
        for (checkout_id, product_id), count in decided.items():
            if count > 1:
                yield Violation("duplicated", f"{product_id} was decided {count} times", checkout_id)

    def _orders_duplicated(self) -> Iterator[Violation]:
        """One order for each product of a checkout, or for all of it."""
        orders: dict[tuple[str, str], set[str]] = defaultdict(set)
        for event in self._facts.events:
            if event.document is not None and event.document.order_id:
                told = event.document
                orders[told.checkout_id, told.product_id].add(told.order_id)
        for (checkout_id, product_id), order_ids in orders.items():
            if len(order_ids) > 1:
                yield Violation("duplicated", f"{product_id} has the orders {sorted(order_ids)}", checkout_id)
        whole = Counter(o.checkout_id for o in self._facts.postgres.orders if by_command(o.order_id))
        for checkout_id, count in whole.items():
            if count > 1:
                yield Violation("duplicated", f"all of it became {count} orders", checkout_id)

    def _answers_changed(self) -> Iterator[Violation]:
        """What is final stays, and is never waited for again."""
        for polls in self._polls.values():
            final: Poll | None = None
            for poll in polls:
                if final is None or poll.outcome != "ok" or poll.at < final.until:
                    final = final or (poll if poll.is_final else None)
                elif poll.is_final and (poll.status, poll.told) != (final.status, final.told):
                    yield _contradiction(poll, f"was told {final.status} {final.told}, then {poll.told}")
                elif not poll.is_final and (poll.api == final.api or not self._may_differ(poll)):
                    yield _contradiction(poll, f"was told {final.status} by {final.api}, then to wait")

    def _repeats_differ(self) -> Iterator[Violation]:
        """The same content under the same key has one answer, whichever of its 202s is asked for."""
        answers: dict[tuple[str, int], Poll] = {}
        for poll in self._finals():
            submit = self._submits[poll.operation][0]
            first = answers.setdefault((submit.key, submit.payload), poll)
            if _comparable(first) != _comparable(poll):
                yield _contradiction(poll, f"one operation was told {first.told}, its repeat {poll.told}")

    def _places_grow(self) -> Iterator[Violation]:
        for polls in self._polls.values():
            queued = [poll for poll in polls if poll.outcome == "ok" and poll.ahead is not None]
            for number, poll in enumerate(queued):
                for before in queued[:number]:
                    if poll.ahead <= before.ahead or poll.at < before.until:  # type: ignore[operator]
                        continue
                    apart = poll.at - before.until > CONFIRMED_FOR_S and not self._may_differ(poll)
                    if poll.api == before.api or apart:
                        yield _contradiction(
                            poll, f"{before.api} told {before.ahead} ahead, then {poll.api} {poll.ahead}"
                        )

    def _not_as_stored(self) -> Iterator[Violation]:
        for poll in self._finals():
            for told in poll.told:
                row = self._decisions.get((told.partition, told.offset))
                whole = self._gatherings.get(poll.checkout_id)
                if row is None or not _says(row, told, poll.checkout_id, whole):
                    yield _contradiction(poll, f"was told {told}, decided was {row}")

    def _refused_but_there(self) -> Iterator[Violation]:
        """What was surely not taken in, or never sent, is not decided."""
        told: dict[str, set[str]] = defaultdict(set)
        possible = set()
        for submit in self._history.submits:
            told[submit.derived_id].add(f"{submit.status} {submit.code}".rstrip())
            if submit.status == 202 or submit.outcome == "unknown":
                possible.add(submit.derived_id)
        decided = {row.checkout_id for row in self._facts.postgres.decisions if row.checkout_id}
        for checkout_id in sorted(decided - possible):
            answers = ", ".join(sorted(told[checkout_id]))
            what = f"told {answers}" if answers else "nobody sent it"
            yield Violation("contradicted", f"{what}, yet it was decided", checkout_id)

    def _unexpected(self) -> Iterator[Violation]:
        """Answers for which there is no ground, or that cannot be understood."""
        payloads: dict[str, set[int]] = defaultdict(set)
        for submit in self._history.submits:
            payloads[submit.key].add(submit.payload)
        for submit in self._history.submits:
            fine = {0, 503} | ({202, 409} if submit.well_formed else {400, 422})
            conflict = submit.code == "idempotency_conflict" and len(payloads[submit.key]) > 1
            if submit.unread or (submit.status not in fine and not conflict):
                told = submit.code or submit.unread
                what = f"operation {submit.operation} was answered {submit.status} {told}"
                yield Violation("contradicted", what, submit.checkout_id)
        for poll in self._history.polls:
            if poll.unread or poll.code not in (0, 200, 503):
                yield _contradiction(poll, f"{poll.api} answered {poll.code} {poll.unread}".rstrip())

    def _log_out_of_order(self) -> Iterator[Violation]:
        """What was accepted before something else was sent lies before it."""
        marks: list[tuple[float, int, Submit]] = [(s.at, 1, s) for s in self._accepted]
        marks += [(s.until, 0, s) for s in self._accepted]
        highest: dict[int, tuple[int, Submit]] = {}
        lowest_due: dict[int, tuple[dict[int, tuple[int, Submit]], Submit]] = {}
        for _, begins, submit in sorted(marks, key=lambda mark: mark[:2]):
            if begins:
                lowest_due[id(submit)] = (dict(highest), submit)
                continue
            earlier, _ = lowest_due.pop(id(submit))
            for line in submit.lines:
                before = earlier.get(line.partition)
                if before is not None and before[0] >= line.offset:
                    what = f"sent after {before[1].checkout_id} was accepted at {before[0]}, but before it"
                    yield _at("out of order", (line.partition, line.offset), what, submit)
                if line.partition not in highest or highest[line.partition][0] < line.offset:
                    highest[line.partition] = (line.offset, submit)

    def _events_out_of_order(self) -> Iterator[Violation]:
        """Of each partition, events first appear in the order of the log."""
        last: dict[int, int] = {}
        seen: set[str] = set()
        for event in self._facts.events:  # by partition and offset
            place = place_of(event.event_id)
            if place is None or event.event_id in seen:
                continue
            seen.add(event.event_id)
            partition, offset = place
            if offset < last.get(partition, -1):
                what = f"{partition}:{offset} was first told after {partition}:{last[partition]}"
                yield Violation("out of order", what)
            last[partition] = max(offset, last.get(partition, -1))

    def _finals(self) -> Iterator[Poll]:
        for polls in self._polls.values():
            yield from (poll for poll in polls if poll.is_final)

    def _may_differ(self, poll: Poll) -> bool:
        return any(start <= poll.until and poll.at <= end for start, end in self._history.postgres_away)


def check(history: History, facts: Facts) -> tuple[list[Violation], dict[str, int]]:
    """The first violations of each kind, and how many of each there are."""
    found = chain(Check(history, facts).run(), Lives(history, facts).run(), never_ended(facts))
    return _first_of_each(found)


def _first_of_each(violations: Iterable[Violation]) -> tuple[list[Violation], dict[str, int]]:
    counts: Counter[str] = Counter()
    kept: list[Violation] = []
    for violation in violations:
        counts[violation.kind] += 1
        if counts[violation.kind] <= _SHOWN_MAX:
            kept.append(violation)
    return kept, dict(counts)


def _line_of(fact: MessageFact | DecisionRow) -> tuple[str | None, str, int]:
    """What it is about: checkout, product and units."""
    return fact.checkout_id, product_of(fact.product_id), fact.quantity


def _says(row: DecisionRow, told: Told, checkout_id: str, whole: GatheringRow | None) -> bool:
    """Whether a decision is what a line was told; of a line that was held, what the checkout came to as a whole."""
    if row.kind == DEAD:
        return told.status == "dead_lettered"
    if row.kind == HELD:
        if whole is None or whole.decided_at_ms is None or product_of(row.product_id) != told.product_id:
            return False
        confirmed = whole.order_id is not None
        return (told.status == "created") == confirmed and told.order_id == (whole.order_id or "")
    return (
        row.checkout_id == checkout_id
        and product_of(row.product_id) == told.product_id
        and (told.status == "created") == (row.kind == CREATED)
        and told.reason == (row.reason or "")
        and told.order_id == (row.order_id or "")
        and row.kind in (CREATED, REFUSED, CONFLICT)
    )


def _comparable(poll: Poll) -> list[tuple[object, ...]]:
    """An answer without the place of a conflict, which every conflicting message has of its own."""
    return [
        (told.line, told.status, told.reason) if told.reason == "idempotency_conflict" else tuple(told)
        for told in poll.told
    ]


def _contradiction(poll: Poll, detail: str) -> Violation:
    return Violation("contradicted", f"operation {poll.operation} {detail}", poll.checkout_id)


def _at(kind: str, place: Place, detail: str, submit: Submit) -> Violation:
    return Violation(kind, f"{place[0]}:{place[1]} {detail}", submit.checkout_id)
