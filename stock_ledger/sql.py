"""Every query of the hot path, named. Arrays go in, one round trip each."""

from contracts.topics import Stream

# Take over a partition: a new epoch fences off whoever had it. $1 partitions, $2 owner, $3 now
CLAIM = """
INSERT INTO partition_state AS s (partition, epoch, next_offset, owner, claimed_at)
SELECT p, 1, 0, $2, $3 FROM unnest($1::int[]) AS p ORDER BY p
ON CONFLICT (partition) DO UPDATE SET epoch = s.epoch + 1, owner = excluded.owner, claimed_at = excluded.claimed_at
RETURNING partition, epoch, next_offset, next_command
"""

STATE = (
    "SELECT partition, epoch, next_offset, next_command FROM partition_state WHERE partition = ANY($1::int[])"
)

# The fence: advance only what is still ours and still where we think. $1 partitions, $2 epochs, $3 from, $4 to
_FENCE = """
UPDATE partition_state AS s SET {column} = u.new_offset
FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[]) AS u (partition, epoch, expected, new_offset)
WHERE s.partition = u.partition AND s.epoch = u.epoch AND s.{column} = u.expected
"""
FENCE = {
    Stream.CHECKOUTS: _FENCE.format(column="next_offset"),
    Stream.COMMANDS: _FENCE.format(column="next_command"),
}

# New totals, only if what they were computed from is still true, price included.
# $1 products, $2 seq before, $3 available before, $4 seq, $5 available, $6 product versions,
# $7 $8 $9 units more that are held, pending, paid
ADVANCE_STOCK = """
UPDATE stock AS s SET available = u.available, seq = u.seq,
    held = s.held + u.held, pending = s.pending + u.pending, paid = s.paid + u.paid
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::bigint[], $8::bigint[], $9::bigint[])
    AS u (product_id, seq_before, available_before, seq, available, version, held, pending, paid)
JOIN products AS p ON p.product_id = u.product_id AND p.version = u.version
WHERE s.product_id = u.product_id AND s.seq = u.seq_before AND s.available = u.available_before
"""

# $1 products, $2 buyers, $3 units, in an order that all writers keep: slices of a product share these rows
ADD_PURCHASES = """
INSERT INTO purchases AS p (product_id, buyer_id, quantity)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])
ON CONFLICT (product_id, buyer_id) DO UPDATE SET quantity = p.quantity + excluded.quantity
RETURNING product_id, buyer_id, quantity
"""

# Carts without what was bought of them, in the transaction that makes the orders; see `carts.CLEAR_CART`.
# $1 buyers, $2 the products that each has bought
CLEAR_BOUGHT = """
DELETE FROM carts WHERE (buyer_id, product_id) IN (
    SELECT buyer_id, product_id FROM carts JOIN unnest($1::text[], $2::text[]) AS u (buyer_id, product_id)
        USING (buyer_id, product_id)
    ORDER BY buyer_id, product_id FOR UPDATE OF carts)
"""

# What is decided already of these checkouts, whichever the product.
DECIDED = """
SELECT checkout_id, product_id, "offset", payload_hash FROM decisions
WHERE checkout_id = ANY($1::uuid[]) AND kind IN ('created', 'held', 'refused')
"""

# What slices of a product have sent on of these checkouts.
FORWARDED = """
SELECT checkout_id, product_id, "offset", payload_hash FROM decisions
WHERE checkout_id = ANY($1::uuid[]) AND kind = 'forwarded'
"""

BOUGHT = """
SELECT p.product_id, p.buyer_id, p.quantity FROM purchases AS p
JOIN unnest($1::text[], $2::text[]) AS u (product_id, buyer_id) USING (product_id, buyer_id)
"""

ADDRESSES = """
SELECT a.buyer_id, a.address_id, a.contact_name, a.phone, a.address FROM addresses AS a
JOIN unnest($1::text[], $2::text[]) AS u (buyer_id, address_id) USING (buyer_id, address_id)
"""

_PRODUCT = """
SELECT p.product_id, p.name, p.cover, p.price, p.currency, p.on_shelf, p.buyer_limit, p.payment_ttl_s, p.version,
       p.sale_price, p.sale_from, p.sale_to, p.stock_source, p.slices, p.slices_open,
       s.available, s.seq, s.held, s.pending, s.paid
FROM products AS p JOIN stock AS s USING (product_id)
"""
PRODUCTS = _PRODUCT + "WHERE p.product_id = ANY($1::text[])"
# $1 after this id, $2 those too that are not on the shelf, $3 how many
PRODUCT_PAGE = (
    _PRODUCT
    + "WHERE p.product_id > $1 AND (p.on_shelf OR $2) AND strpos(p.product_id, '~') = 0 ORDER BY p.product_id LIMIT $3"
)
PARTITION_PRODUCTS = _PRODUCT + "WHERE s.partition = $1"

# Decisions to show and publish again. $1 partition, $2 from offset, $3 to offset (exclusive)
DECISIONS = """
SELECT d.*, coalesce(i.name, h.name) AS name, coalesce(i.cover, h.cover) AS cover, coalesce(i.price, h.price) AS price,
       o.total, coalesce(o.currency, h.currency) AS currency, coalesce(o.contact_name, h.contact_name) AS contact_name,
       coalesce(o.phone, h.phone) AS phone, coalesce(o.address, h.address) AS address, coalesce(o.note, h.note) AS note,
       coalesce(pay.method, h.method) AS method, pay.expires_at, h.payment_ttl_s, h.from_cart,
       coalesce(i.counted, h.counted) AS counted
FROM decisions AS d
LEFT JOIN orders AS o USING (order_id)
LEFT JOIN order_items AS i USING (order_id)
LEFT JOIN payments AS pay USING (order_id)
LEFT JOIN holds AS h ON d.kind = 'held' AND h.checkout_id = d.checkout_id AND h.product_id = d.product_id
"""
DECISIONS_BETWEEN = (
    DECISIONS
    + """
WHERE d.partition = $1 AND d."offset" >= $2 AND d."offset" < $3 ORDER BY d."offset"
"""
)
DECISIONS_OF_CHECKOUT = (
    DECISIONS + "WHERE d.checkout_id = $1 AND d.kind IN ('created', 'held', 'refused') ORDER BY d.line"
)
CONFLICTS_OF_CHECKOUT = DECISIONS + "WHERE d.checkout_id = $1 AND d.kind = 'conflict' ORDER BY d.line"
# $1 partitions, $2 offsets
DECISIONS_AT = (
    DECISIONS
    + """
JOIN unnest($1::int[], $2::bigint[]) AS u (partition, "offset")
    ON d.partition = u.partition AND d."offset" = u."offset"
"""
)

# All rows of a batch: its decisions, and what orders and holds among them come to in the other tables.
# $1 decided at, then `rows.columns_of`
PERSIST = """
WITH line AS MATERIALIZED (
    SELECT * FROM unnest(
        $2::int[], $3::bigint[], $4::text[], $5::uuid[], $6::text[], $7::text[], $8::bigint[],
        $9::text[], $10::int[], $11::int[], $12::text[], $13::text[],
        $14::bigint[], $15::timestamptz[], $16::bool[], $17::bigint[], $18::bigint[],
        $19::uuid[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[], $25::int[]
    ) AS l (partition, "offset", kind, checkout_id, buyer_id, product_id, quantity,
        payload_hash, line, lines, reason, detail,
        first_offset, accepted_at, whole, seq, available,
        order_id, contact_name, phone, address, note, method, terms)
    LEFT JOIN unnest(
        $26::int[], $27::text[], $28::text[], $29::numeric[], $30::numeric[], $31::text[], $32::timestamptz[], $33::bool[]
    ) AS t (terms, name, cover, price, total, currency, expires_at, counted) USING (terms)
), decision AS (
    INSERT INTO decisions (partition, "offset", kind, checkout_id, buyer_id, product_id, quantity, payload_hash,
        line, lines, reason, detail, order_id, first_offset, accepted_at, decided_at, whole)
    SELECT partition, "offset", kind, checkout_id, buyer_id, product_id, quantity, payload_hash,
        line, lines, reason, detail, order_id, first_offset, accepted_at, $1, whole FROM line
), ordered AS (
    INSERT INTO orders (order_id, checkout_id, buyer_id, status, total, currency,
        contact_name, phone, address, note, created_at)
    SELECT order_id, checkout_id, buyer_id, 'pending_payment', total, currency,
        contact_name, phone, address, note, $1 FROM line WHERE order_id IS NOT NULL
), item AS (
    INSERT INTO order_items (order_id, line, product_id, name, cover, price, quantity, counted)
    SELECT order_id, line, product_id, name, cover, price, quantity, counted FROM line WHERE order_id IS NOT NULL
), payment AS (
    INSERT INTO payments (order_id, amount, currency, method, status, expires_at, created_at)
    SELECT order_id, total, currency, method, 'pending', expires_at, $1 FROM line WHERE order_id IS NOT NULL
)
INSERT INTO ledger (product_id, seq, delta, available, kind, partition, "offset", order_id, at)
SELECT product_id, seq, -quantity, available, CASE WHEN order_id IS NULL THEN 'hold' ELSE 'order' END,
    partition, "offset", order_id, $1 FROM line WHERE seq IS NOT NULL
"""

# Columns of the COPY streams.
ORDER_COLUMNS = (
    "order_id", "checkout_id", "buyer_id", "status", "total", "currency",
    "contact_name", "phone", "address", "note", "created_at",
)  # fmt: skip
ITEM_COLUMNS = ("order_id", "line", "product_id", "name", "cover", "price", "quantity", "counted")
PAYMENT_COLUMNS = ("order_id", "amount", "currency", "method", "status", "expires_at", "created_at")
HOLD_COLUMNS = (
    "checkout_id", "product_id", "buyer_id", "quantity", "state", "counted", "name", "cover", "price", "currency",
    "payment_ttl_s", "method", "contact_name", "phone", "address", "note", "from_cart",
)  # fmt: skip
LEDGER_COLUMNS = ("product_id", "seq", "delta", "available", "kind", "partition", "offset", "order_id", "at")

# Orders with their payment and items, one row per item.
_ORDER = """
SELECT o.*, pay.method, pay.status AS payment_status, pay.amount, pay.currency AS payment_currency, pay.expires_at,
       pay.reference,
       (SELECT json_agg(json_build_object('reference', r.reference, 'refunded', r.refunded) ORDER BY r.due_at, r.reference)
        FROM refunds AS r WHERE r.order_id = o.order_id) AS refunds, i.line, i.product_id, i.name, i.cover, i.price, i.quantity
"""
_ORDER_PARTS = "JOIN payments AS pay USING (order_id) JOIN order_items AS i USING (order_id)"
# $1 order, $2 buyer
ORDER_OF_BUYER = (
    _ORDER + "FROM orders AS o " + _ORDER_PARTS + " WHERE o.order_id = $1 AND o.buyer_id = $2 ORDER BY i.line"
)
# $1 buyer, $2 orders before this id, $3 from this one on, $4 statuses or null for any, $5 how many.
# Order ids begin with their time, so all but the statuses is a range of the index orders_buyer.
ORDERS_OF_BUYER = (
    _ORDER  # noqa: S608 - constants alone
    + """
FROM (SELECT * FROM orders
      WHERE buyer_id = $1 AND order_id < $2 AND order_id >= $3 AND ($4::text[] IS NULL OR status = ANY($4))
      ORDER BY order_id DESC LIMIT $5) AS o
"""
    + _ORDER_PARTS
    + " ORDER BY o.order_id DESC, i.line"
)
