"""The decision: a pure function over a batch and what was loaded for it. No I/O and no clock of its own."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from contracts.decisions import Decision, Hold, Order, order_id_of
from contracts.messages import AMOUNT_MAX, CheckoutLine, Shipping, encode_checkout_line
from contracts.outcomes import Kind, Reason
from contracts.slices import others, slice_of, slice_of_buyer
from contracts.times import from_ms, to_ms
from stock_ledger.batch import Decided, Loaded, Product, Received, Stock


def decide(batch: Iterable[Received], loaded: Loaded, now: datetime) -> Decided:
    """Decide every message of the batch, in its order.

    Idempotency first, then whether another slice is to decide it, then the guards in the order of `Reason`; once they
    have passed, creating cannot fail.
    """
    now_ms = to_ms(now)
    loaded = msgspec.structs.replace(  # used up on the way
        loaded, granted=dict(loaded.granted), elsewhere=dict(loaded.elsewhere)
    )
    stock = dict(loaded.stock)
    decided, forwarded = dict(loaded.decided), dict(loaded.forwarded)
    payloads = loaded.payloads()
    added: dict[tuple[str, str], int] = {}
    held: dict[str, int] = {}
    from_carts: list[tuple[str, str]] = []
    decisions: list[Decision] = []

    for message in batch:
        line = message.line
        if line is None:
            decisions.append(
                Decision(message.partition, message.offset, Kind.DEAD, now, detail=message.error)
            )
            continue

        kind, reason, order, hold, first, detail = Kind.CREATED, None, None, None, None, ""
        stock_id = line.stock_id
        identity = (line.checkout_id, stock_id)
        known = loaded.hashes.get(identity) or payloads.setdefault(line.checkout_id, line.payload_hash)
        if known != line.payload_hash:
            kind, reason = Kind.CONFLICT, Reason.IDEMPOTENCY_CONFLICT
        elif identity in decided:
            kind, first = Kind.REPEATED, decided[identity]
        elif identity in forwarded and not line.forwarded:
            kind, first = Kind.REPEATED, forwarded[identity]
        else:
            reason = refusal(line, loaded, stock, added, now)
            product = loaded.products.get(stock_id)
            if (
                product
                and product.slices > 1
                and product.slices_open
                and (onward := _onward(line, product, loaded, reason))
            ):
                forwarded[identity] = message.offset
                kind, reason, detail = Kind.FORWARDED, None, encode_checkout_line(onward).decode()
            elif reason is not None:
                decided[identity] = message.offset
                kind = Kind.REFUSED
            else:
                decided[identity] = message.offset
                product, before = loaded.products[stock_id], stock[stock_id]
                after = Stock(before.available - line.quantity, before.seq + 1)
                stock[stock_id] = after
                _count(line, product, loaded.granted, added)
                shipping = line.shipping or loaded.addresses[line.buyer_id, line.address_id or ""]
                if line.policy == "independent":
                    order = order_of(line, product, shipping, message, now, now_ms)
                    if line.from_cart:
                        from_carts.append((line.buyer_id, line.product_id))
                else:
                    kind, hold = Kind.HELD, hold_of(line, product, shipping)
                    held[stock_id] = held.get(stock_id, 0) + line.quantity
        decisions.append(
            Decision(
                partition=message.partition,
                offset=message.offset,
                kind=kind,
                decided_at=now,
                checkout_id=line.checkout_id,
                buyer_id=line.buyer_id,
                product_id=line.product_id,
                quantity=line.quantity,
                payload_hash=line.payload_hash,
                line=line.line,
                lines=line.lines,
                accepted_at=from_ms(line.accepted_at_ms),
                reason=reason,
                order=order,
                first_offset=first,
                detail=detail,
                hold=hold,
                whole=line.policy != "independent",
                slice=line.slice,
            )
        )

    changed = {i: after for i, after in stock.items() if after is not loaded.stock[i]}
    return Decided(decisions, changed, added, held, from_carts)


def _onward(
    line: CheckoutLine, product: Product, loaded: Loaded, reason: Reason | None
) -> CheckoutLine | None:
    """The line as it is sent on, if another slice is to decide it: the one that has, the one that its buyer belongs to, or
    one that has enough where this one has not. See docs/decisions/0012-stock-slices.md.
    """
    if (decided_in := _other_that_decided(line, product, loaded)) is not None:
        return msgspec.structs.replace(line, slice=slice_of(decided_in), forwarded=True)
    if line.forwarded:
        return None
    belongs = slice_of_buyer(line.buyer_id, product.slices)
    if belongs > line.slice:
        return msgspec.structs.replace(line, slice=belongs)
    if reason in (Reason.SOLD_OUT, Reason.INSUFFICIENT_STOCK):
        left = loaded.elsewhere
        enough = [i for i in others(line.stock_id, product.slices) if left.get(i, 0) >= line.quantity]
        if enough:  # not the one with the most: if its writer is away, all would wait for that one
            one = enough[int(line.checkout_id[:8], 16) % len(enough)]
            left[one] -= line.quantity
            return msgspec.structs.replace(line, slice=slice_of(one), forwarded=True)
    return None


def _other_that_decided(line: CheckoutLine, product: Product, loaded: Loaded) -> str | None:
    """The stock id of the other slice that has decided the line, if there is one."""
    of_others = others(line.stock_id, product.slices)
    return next((i for i in of_others if (line.checkout_id, i) in loaded.decided), None)


def _count(
    line: CheckoutLine, product: Product, granted: dict[str, int], added: dict[tuple[str, str], int]
) -> None:
    """What the line takes of what its buyer may have, and of what the second stock source has granted."""
    if product.buyer_limit is not None:
        buyer = (line.product_id, line.buyer_id)
        added[buyer] = added.get(buyer, 0) + line.quantity
    if product.stock_source is not None:
        granted[line.product_id] -= line.quantity


def order_of(
    line: CheckoutLine, product: Product, shipping: Shipping, message: Received, now: datetime, now_ms: int
) -> Order:
    price = product.sells_for()
    return Order(
        order_id=order_id_of(now_ms, message.partition, message.offset),
        name=product.name,
        cover=product.cover,
        price=price,
        currency=product.currency,
        total=price * line.quantity,
        payment_method=line.payment_method,
        expires_at=now + timedelta(seconds=product.payment_ttl_s),
        shipping=shipping,
        note=line.note,
        counted=product.buyer_limit is not None,
    )


def hold_of(line: CheckoutLine, product: Product, shipping: Shipping) -> Hold:
    return Hold(
        name=product.name,
        cover=product.cover,
        price=product.sells_for(),
        currency=product.currency,
        payment_ttl_s=product.payment_ttl_s,
        payment_method=line.payment_method,
        shipping=shipping,
        note=line.note,
        counted=product.buyer_limit is not None,
        from_cart=line.from_cart,
    )


def refusal(  # noqa: C901, PLR0911 - one return per guard, in order of precedence
    line: CheckoutLine,
    loaded: Loaded,
    stock: Mapping[str, Stock],
    added: Mapping[tuple[str, str], int],
    now: datetime,
) -> Reason | None:
    """The first reason, in the order of `Reason`, not to create an order for this line; None if there is none."""
    product = loaded.products.get(line.stock_id)
    if product is None:
        return Reason.UNKNOWN_PRODUCT
    if not product.on_shelf:
        return Reason.OFF_SHELF
    if not product.sells_at(now):
        return Reason.NOT_ON_SALE
    if line.shipping is None and (line.buyer_id, line.address_id or "") not in loaded.addresses:
        return Reason.ADDRESS_UNKNOWN
    if line.expected_total is not None and not _total_is_as_expected(line, product, loaded):
        return Reason.PRICE_CHANGED
    if product.sells_for() <= 0:
        return Reason.TOTAL_NOT_POSITIVE
    if product.sells_for() * line.quantity > AMOUNT_MAX:
        return Reason.TOTAL_TOO_LARGE
    if product.buyer_limit is not None:
        buyer = (line.product_id, line.buyer_id)
        if loaded.bought.get(buyer, 0) + added.get(buyer, 0) + line.quantity > product.buyer_limit:
            return Reason.BUYER_LIMIT
    available = stock[line.stock_id].available
    is_down = line.product_id in loaded.down
    if product.stock_source is not None and not is_down:
        granted = loaded.granted.get(line.product_id, 0)
        is_half_asked = line.product_id in loaded.half_asked
        is_down = is_half_asked and granted < line.quantity
        available = available if is_half_asked else min(available, granted)
    if available <= 0:
        return Reason.SOLD_OUT
    if available < line.quantity:
        return Reason.INSUFFICIENT_STOCK
    return Reason.STOCK_SOURCE_DOWN if is_down else None


def _total_is_as_expected(line: CheckoutLine, product: Product, loaded: Loaded) -> bool:
    """Whether the total the client saw, over all lines of its checkout, is today's."""
    expected = line.expected_total
    if expected is None:
        return True
    if line.basket is None:
        return (
            product.currency == expected.currency
            and product.sells_for() * line.quantity == expected.decimal()
        )
    total = Decimal(0)
    for product_id, quantity in line.basket:
        other = product if product_id == line.product_id else loaded.products.get(product_id)
        if other is None or other.currency != expected.currency:
            return False
        total += other.sells_for() * quantity
    return total == expected.decimal()
