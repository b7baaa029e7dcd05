"""Commands, holds, all-or-nothing checkouts, counts of stock, and what orders need after they are made."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE partition_state ADD COLUMN next_command bigint NOT NULL DEFAULT 0;

ALTER TABLE products ADD COLUMN sale_price numeric, ADD COLUMN sale_from timestamptz, ADD COLUMN sale_to timestamptz;

-- What is not available: held, of orders that wait for payment, of paid ones. The law of conservation, at every commit.
ALTER TABLE stock ADD COLUMN held bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    ADD COLUMN pending bigint NOT NULL DEFAULT 0 CHECK (pending >= 0),
    ADD COLUMN paid bigint NOT NULL DEFAULT 0 CHECK (paid >= 0);

ALTER TABLE decisions ADD COLUMN whole boolean NOT NULL DEFAULT false;
DROP INDEX decisions_first;
CREATE UNIQUE INDEX decisions_first ON decisions (checkout_id, product_id)
    WHERE kind IN ('created', 'held', 'refused');

ALTER TABLE orders ADD COLUMN sequence bigint NOT NULL DEFAULT 1;
ALTER TABLE order_items ADD COLUMN counted boolean NOT NULL DEFAULT false;
ALTER TABLE payments ADD COLUMN reference text NOT NULL DEFAULT '';

-- Orders that are there already: none of them has been paid yet.
UPDATE stock AS s SET pending = i.units
FROM (SELECT product_id, sum(quantity) AS units FROM order_items JOIN orders USING (order_id)
      WHERE status = 'pending_payment' GROUP BY product_id) AS i
WHERE s.product_id = i.product_id;
-- A buyer's units were counted while the product had a limit. Where that was not always so, the newest ones make up the
-- count.
UPDATE order_items AS i SET counted = true
FROM (SELECT order_id, line, product_id, buyer_id,
             sum(quantity) OVER (PARTITION BY product_id, buyer_id ORDER BY order_id DESC, line DESC) AS units
      FROM order_items JOIN orders USING (order_id)) AS o
JOIN purchases AS p USING (product_id, buyer_id)
WHERE i.order_id = o.order_id AND i.line = o.line AND o.units <= p.quantity;

CREATE INDEX payments_due ON payments (expires_at) WHERE status IN ('pending', 'failed');

-- One row per message of the commands topic: what was asked, what came of it, and what was told of it, word for word.
CREATE TABLE commands (
    partition integer NOT NULL, "offset" bigint NOT NULL, command_id uuid, action text NOT NULL, subject text NOT NULL,
    actor text NOT NULL, outcome text NOT NULL, reason text, detail text NOT NULL, first_offset bigint,
    document jsonb, told bytea NOT NULL, asked_at timestamptz, decided_at timestamptz NOT NULL,
    PRIMARY KEY (partition, "offset"));
CREATE UNIQUE INDEX commands_first ON commands (command_id) WHERE outcome IN ('applied', 'refused');
CREATE INDEX commands_subject ON commands (subject, partition, "offset");

-- Units kept for lines of all-or-nothing checkouts, with the item as it was when it was held.
CREATE TABLE holds (
    checkout_id uuid NOT NULL, product_id text NOT NULL, buyer_id text NOT NULL, quantity bigint NOT NULL,
    state text NOT NULL, counted boolean NOT NULL, order_id uuid,
    name text NOT NULL, cover text NOT NULL, price numeric NOT NULL, currency text NOT NULL,
    payment_ttl_s integer NOT NULL, method text NOT NULL,
    contact_name text NOT NULL, phone text NOT NULL, address text NOT NULL, note text NOT NULL,
    PRIMARY KEY (checkout_id, product_id));

-- All-or-nothing checkouts and the answers that came so far.
CREATE TABLE gatherings (
    checkout_id uuid PRIMARY KEY, partition integer NOT NULL, state text NOT NULL, deadline timestamptz NOT NULL,
    answers jsonb NOT NULL, order_id uuid, decided_at timestamptz, decided_offset bigint);
CREATE INDEX gatherings_due ON gatherings (deadline) WHERE decided_at IS NULL;

-- Commands are told in the same topic as decisions: one published twice is behind next_command.
ALTER TABLE figure_state ADD COLUMN next_command bigint NOT NULL DEFAULT 0;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    for table in ("gatherings", "holds", "commands"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP INDEX payments_due")
    op.execute("DROP INDEX decisions_first")
    for table, columns in {
        "figure_state": ("next_command",),
        "payments": ("reference",),
        "order_items": ("counted",),
        "orders": ("sequence",),
        "decisions": ("whole",),
        "stock": ("held", "pending", "paid"),
        "products": ("sale_price", "sale_from", "sale_to"),
        "partition_state": ("next_command",),
    }.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    op.execute(
        "CREATE UNIQUE INDEX decisions_first ON decisions (checkout_id, product_id)"
        " WHERE kind IN ('created', 'refused')"
    )
