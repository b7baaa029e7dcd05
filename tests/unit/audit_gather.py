"""The facts of an audit from servers in memory, as the real ones give them."""

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from contracts.commands import encode_command
from contracts.decisions import Decision
from contracts.events import Headers
from contracts.kafka import Record
from contracts.slices import slice_of
from contracts.times import to_ms
from stock_ledger.audit.command_facts import CommandRow, HoldRow, RefundRow, SourceOpenRow, SourceRequestRow
from stock_ledger.audit.decode import event_fact, letter_fact, message_fact, result_fact
from stock_ledger.audit.decode_commands import command_message, command_row, gathering_row
from stock_ledger.audit.facts import (
    CacheFacts,
    DecisionRow,
    Facts,
    FigureRow,
    ItemRow,
    LedgerRow,
    OrderRow,
    PaymentRow,
    PostgresFacts,
    ProductRow,
    PurchaseRow,
    ShownProduct,
    ShownProgress,
    ShownSlices,
    ShownStock,
    StockRow,
    TopicSpan,
)
from stock_ledger.commands.book import CommandDecision, Counts
from stock_ledger.commands.fakes import MemoryCommandLedger
from stock_ledger.fakes import MemoryLedger
from stock_ledger.figures import Seen, fold, fresh_events
from stock_ledger.redis_view import decode_product
from stock_ledger.view_fakes import MemoryView
from workers.fakes import MemoryBroker, MemoryMessage, MemoryTopic


def gather(
    broker: MemoryBroker,
    ledger: MemoryLedger,
    commands: MemoryCommandLedger,
    view: MemoryView,
    entries: Iterable[LedgerRow],
    partitions: int,
    now: datetime,
) -> Facts:
    places = range(partitions)
    return Facts(
        partitions=partitions,
        target={p: broker.end(p) for p in places},
        checkouts={p: TopicSpan(0, broker.end(p)) for p in places},
        events_span={p: TopicSpan(0, len(broker.events[p])) for p in places},
        letters_span={p: TopicSpan(0, len(broker.dead_letters[p])) for p in places},
        postgres=_postgres(broker, ledger, commands, entries, now),
        messages=[message_fact(p, m.offset, m.key, m.value, partitions) for p, m in _all(broker)],
        events=[event_fact(*record) for record in _records(broker.events)],
        letters=[letter_fact(*record) for record in _records(broker.dead_letters)],
        cache=_cache(ledger, view, partitions),
        command_target={p: broker.commands.end(p) for p in places},
        commands_span={p: TopicSpan(0, broker.commands.end(p)) for p in places},
        commands=[command_message(p, m.offset, m.key, m.value, partitions) for p, m in _all(broker.commands)],
    )


def _all(topic: MemoryTopic) -> Iterable[tuple[int, MemoryMessage]]:
    return [(p, m) for p, of_p in sorted(topic.messages.items()) for m in of_p]


def _records(topic: Mapping[int, list[Record]]) -> list[tuple[int, int, bytes | None, bytes | None, Headers]]:
    return [(p, n, *record) for p, of_p in sorted(topic.items()) for n, record in enumerate(of_p)]


def _postgres(
    broker: MemoryBroker,
    ledger: MemoryLedger,
    commands: MemoryCommandLedger,
    entries: Iterable[LedgerRow],
    now: datetime,
) -> PostgresFacts:
    figures = []
    for p, records in sorted(broker.events.items()):
        fresh, _ = fresh_events((value or b"" for _, value, _ in records), Seen())
        figures += [FigureRow(p, *place, *sums) for place, sums in fold(fresh).items()]
    orders = ledger.orders.values()
    return PostgresFacts(
        states={p: (claim.epoch, claim.next_offset) for p, claim in ledger.claims.items()},
        next_commands={p: claim.next_command for p, claim in ledger.claims.items()},
        read_at_ms=to_ms(now),
        decisions=[_decision(d) for _, d in sorted(ledger.decided.items())],
        orders=[
            OrderRow(o.order_id, o.checkout_id, o.buyer_id, o.status.value, o.total, o.currency, o.sequence)
            for o in orders
        ],
        items=[
            ItemRow(o.order_id, i.line, i.product_id, i.price, i.quantity, i.counted)
            for o in orders
            for i in o.items
        ],
        payments=[
            PaymentRow(o.order_id, o.total, o.currency, o.payment.value, o.reference, to_ms(o.expires_at))
            for o in orders
        ],
        ledger=sorted(entries, key=lambda e: (e.product_id, e.seq)),
        stock=[_stock(ledger, i) for i in sorted(ledger.stock)],
        products=[
            ProductRow(i, p.buyer_limit, p.version, p.slices, p.price, p.sale_price, p.currency)
            for i, p in sorted(ledger.catalogue.items())
        ],
        purchases=[PurchaseRow(*pair, units) for pair, units in ledger.purchases.items()],
        figure_states={p: len(records) for p, records in broker.events.items()},
        figures=figures,
        commands=[_command(d) for _, d in sorted(commands.decided.items())],
        holds=[HoldRow(*msgspec.structs.astuple(hold)) for hold in ledger.holds.values()],
        gatherings=[
            gathering_row(
                (
                    g.checkout_id,
                    g.partition,
                    g.state,
                    to_ms(g.deadline),
                    msgspec.json.encode(g.answers),
                    g.order_id,
                    None if g.decided_at is None else to_ms(g.decided_at),
                    g.decided_offset,
                )
            )
            for g in commands.gatherings.values()
        ],
        refunds=[
            RefundRow(o.order_id, r.reference, r.provider, r.refunded) for o in orders for r in o.refunds
        ],
        source_requests=[
            SourceRequestRow(p, next_offset, product_id, r.batch, r.units)
            for (p, next_offset, product_id), r in ledger.intended.items()
        ],
        source_open=[SourceOpenRow(*row) for row in ledger.open],
    )


def _stock(ledger: MemoryLedger, product_id: str) -> StockRow:
    stock, counts = ledger.stock[product_id], ledger.counts.get(product_id, Counts())
    return StockRow(
        product_id, ledger.partitions[product_id], stock.available, stock.seq, counts.held, counts.pending, counts.paid
    )  # fmt: skip


def _decision(d: Decision) -> DecisionRow:
    return DecisionRow(
        d.partition, d.offset, d.kind.value, d.checkout_id, d.buyer_id, d.stock_id, d.quantity, d.payload_hash, d.line,
        None if d.reason is None else d.reason.value, d.detail, None if d.order is None else d.order.order_id,
        d.first_offset, to_ms(d.decided_at), d.whole,
    )  # fmt: skip


def _command(d: CommandDecision) -> CommandRow:
    command = d.command
    return command_row(
        (
            d.partition, d.offset, None if command is None else command.command_id,
            "" if command is None else command.__struct_config__.tag, "" if command is None else command.subject(),
            "" if command is None else command.actor, d.outcome.value, None if d.reason is None else d.reason.value,
            d.detail, d.first_offset, to_ms(d.decided_at), None if command is None else encode_command(command),
            msgspec.json.encode(d.told),
        )
    )  # fmt: skip


def _cache(ledger: MemoryLedger, view: MemoryView, partitions: int) -> CacheFacts:
    data, keys = view.data, view.keys
    sold_out = {i for p in range(partitions) for i in view.gate(p).sold_out}
    stock = []
    for product_id, true in sorted(ledger.stock.items()):
        value = data.values.get(keys.stock(ledger.partitions[product_id], product_id))
        pair = None if value is None else tuple(map(int, value.split(b":")[1:3]))
        stock.append(
            ShownStock(product_id, pair, True, product_id in sold_out, (true.seq, true.available))  # type: ignore[arg-type]
        )
    products = []
    for product_id, product in sorted(ledger.catalogue.items()):
        document = data.values.get(keys.product(ledger.partitions[product_id], product_id))
        entry = None if document is None else decode_product(document)
        products.append(ShownProduct(product_id, entry, True, product))
    slices = []
    for stock_id, product in sorted(ledger.catalogue.items()):
        shown = view.gate(ledger.partitions[stock_id]).slices
        of_all = product.slices if product.slices_open and not slice_of(stock_id) else 1
        if of_all > 1 or stock_id in shown:
            slices.append(ShownSlices(stock_id, shown.get(stock_id, 1), of_all))
    progress = []
    for p in range(partitions):
        claim = ledger.claims[p]
        seen = tuple(map(int, data.values[keys.progress(p)].split(b":")[:2]))
        progress.append(ShownProgress(p, (seen[0], seen[1]), True, (claim.epoch, claim.next_offset)))
    results = [
        result_fact(checkout_id, field, document)
        for checkout_id, fields in data.results.items()
        for field, document in fields.items()
    ]
    return CacheFacts(stock=stock, products=products, slices=slices, progress=progress, results=results)
