"""Every query of deciding commands, named. Arrays go in, one round trip each."""

# In whichever partition: an id is made of what its command is about, or of a provider's event, which is about one order,
# so a repeat comes to the partition of the first.
DECIDED = """
SELECT command_id, "offset" FROM commands WHERE command_id = ANY($1::uuid[]) AND outcome IN ('applied', 'refused')
"""

# $1 orders
ORDERS = """
SELECT o.order_id, o.checkout_id, o.buyer_id, o.status, o.sequence, o.total, o.currency,
       pay.method, pay.status AS payment, pay.expires_at, pay.reference, pay.provider,
       (SELECT json_agg(json_build_object('reference', r.reference, 'provider', r.provider, 'due_at', r.due_at,
                                          'refunded', r.refunded) ORDER BY r.reference COLLATE "C")
        FROM refunds AS r WHERE r.order_id = o.order_id) AS refunds,
       i.line, i.product_id, i.name, i.cover, i.price, i.quantity, i.counted
FROM orders AS o JOIN payments AS pay USING (order_id) JOIN order_items AS i USING (order_id)
WHERE o.order_id = ANY($1::uuid[]) ORDER BY o.order_id, i.line
"""

# $1 checkouts, $2 products
HOLDS = """
SELECT h.checkout_id, h.product_id, h.buyer_id, h.quantity, h.state, h.counted, h.order_id FROM holds AS h
JOIN unnest($1::uuid[], $2::text[]) AS u (checkout_id, product_id) USING (checkout_id, product_id)
"""

GATHERINGS = """
SELECT checkout_id, partition, state, deadline, answers, order_id, decided_at, decided_offset FROM gatherings
WHERE checkout_id = ANY($1::uuid[])
"""

TOLD_BETWEEN = """
SELECT told FROM commands WHERE partition = $1 AND "offset" >= $2 AND "offset" < $3 ORDER BY "offset"
"""

COMMAND_COLUMNS = (
    "partition", "offset", "command_id", "action", "subject", "actor", "outcome", "reason", "detail", "first_offset",
    "document", "told", "asked_at", "decided_at",
)  # fmt: skip

# An order and its payment as they are now, if nothing else was told of it since it was loaded.
# $1 orders, $2 sequence before, $3 sequence, $4 status
ADVANCE_ORDERS = """
UPDATE orders AS o SET status = u.status, sequence = u.sequence
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[]) AS u (order_id, before, sequence, status)
WHERE o.order_id = u.order_id AND o.sequence = u.before
"""
# $1 orders, $2 payment status, $3 reference, $4 provider
SET_PAYMENTS = """
UPDATE payments AS p SET status = u.status, reference = u.reference, provider = u.provider
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS u (order_id, status, reference, provider)
WHERE p.order_id = u.order_id AND (p.status, p.reference) IS DISTINCT FROM (u.status, u.reference)
"""
# To be given back, or given back. $1 orders, $2 references, $3 providers, $4 due at, $5 refunded
PUT_REFUNDS = """
INSERT INTO refunds (order_id, reference, provider, due_at, refunded, try_at)
SELECT order_id, reference, provider, due_at, refunded, due_at
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::bool[])
    AS u (order_id, reference, provider, due_at, refunded)
ON CONFLICT (order_id, reference) DO UPDATE SET refunded = excluded.refunded
"""

# $1 checkouts, $2 products, $3 states, $4 orders
SET_HOLDS = """
UPDATE holds AS h SET state = u.state, order_id = u.order_id
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[]) AS u (checkout_id, product_id, state, order_id)
WHERE h.checkout_id = u.checkout_id AND h.product_id = u.product_id
"""

# $1 checkouts, $2 partitions, $3 states, $4 deadlines, $5 answers, $6 orders, $7 decided at, $8 offsets
PUT_GATHERINGS = """
INSERT INTO gatherings (checkout_id, partition, state, deadline, answers, order_id, decided_at, decided_offset)
SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::timestamptz[], $5::jsonb[], $6::uuid[], $7::timestamptz[],
                     $8::bigint[])
ON CONFLICT (checkout_id) DO UPDATE SET state = excluded.state, answers = excluded.answers,
    order_id = excluded.order_id, decided_at = excluded.decided_at, decided_offset = excluded.decided_offset
"""

# Products as they are to be, if they are as loaded. $1 ids, $2 names, $3 covers, $4 prices, $5 currencies, $6 on_shelf,
# $7 limits, $8 payment_ttl_s, $9 versions, $10 sale prices, $11 sale from, $12 sale to, $13 versions before (0: new),
# $14 policies of second stock sources, $15 slices, $16 whether they are open
PUT_PRODUCTS = """
INSERT INTO products AS p (product_id, name, cover, price, currency, on_shelf, buyer_limit, payment_ttl_s, version,
                           sale_price, sale_from, sale_to, stock_source, slices, slices_open)
SELECT u.product_id, u.name, u.cover, u.price, u.currency, u.on_shelf, u.buyer_limit, u.payment_ttl_s, u.version,
       u.sale_price, u.sale_from, u.sale_to, u.stock_source, u.slices, u.slices_open
FROM unnest($1::text[], $2::text[], $3::text[], $4::numeric[], $5::text[], $6::bool[], $7::bigint[], $8::int[],
            $9::bigint[], $10::numeric[], $11::timestamptz[], $12::timestamptz[], $13::bigint[], $14::text[], $15::int[],
            $16::bool[])
    AS u (product_id, name, cover, price, currency, on_shelf, buyer_limit, payment_ttl_s, version,
          sale_price, sale_from, sale_to, before, stock_source, slices, slices_open)
LEFT JOIN products AS old USING (product_id)
WHERE coalesce(old.version, 0) = u.before
ON CONFLICT (product_id) DO UPDATE SET name = excluded.name, cover = excluded.cover, price = excluded.price,
    currency = excluded.currency, on_shelf = excluded.on_shelf, buyer_limit = excluded.buyer_limit,
    payment_ttl_s = excluded.payment_ttl_s, version = excluded.version, sale_price = excluded.sale_price,
    sale_from = excluded.sale_from, sale_to = excluded.sale_to, stock_source = excluded.stock_source,
    slices = excluded.slices, slices_open = excluded.slices_open
WHERE p.version < excluded.version
"""

# $1 ids, $2 partitions
OPEN_STOCK = """
INSERT INTO stock (product_id, partition, available, seq)
SELECT id, partition, 0, 0 FROM unnest($1::text[], $2::int[]) AS u (id, partition)
"""
