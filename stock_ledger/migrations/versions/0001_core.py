"""Catalogue, stock, decisions, orders, payments, ledger and the fence."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
-- The catalogue. buyer_limit: units per buyer over all orders.
CREATE TABLE products (
    product_id text PRIMARY KEY, name text NOT NULL, cover text NOT NULL,
    price numeric NOT NULL, currency text NOT NULL, on_shelf boolean NOT NULL,
    buyer_limit bigint CHECK (buyer_limit > 0), payment_ttl_s integer NOT NULL CHECK (payment_ttl_s > 0),
    version bigint NOT NULL DEFAULT 1);

-- Totals per product. seq is the product's newest ledger entry; partition is the product's in the log.
CREATE TABLE stock (
    product_id text PRIMARY KEY REFERENCES products, partition integer NOT NULL,
    available bigint NOT NULL CHECK (available >= 0), seq bigint NOT NULL) WITH (fillfactor = 50);
CREATE INDEX stock_partition ON stock (partition);

CREATE TABLE addresses (
    buyer_id text NOT NULL, address_id text NOT NULL,
    contact_name text NOT NULL, phone text NOT NULL, address text NOT NULL,
    PRIMARY KEY (buyer_id, address_id));

-- Who writes a partition (epoch: the fence) and which offset it decides next.
CREATE TABLE partition_state (
    partition integer PRIMARY KEY, epoch bigint NOT NULL, next_offset bigint NOT NULL,
    owner text NOT NULL, claimed_at timestamptz NOT NULL) WITH (fillfactor = 50);

-- One row per message of the log. first_offset: of a repeated line, where it was decided.
CREATE TABLE decisions (
    partition integer NOT NULL, "offset" bigint NOT NULL, kind text NOT NULL,
    checkout_id uuid, buyer_id text NOT NULL, product_id text NOT NULL, quantity bigint NOT NULL,
    payload_hash text NOT NULL, line integer NOT NULL, lines integer NOT NULL,
    reason text, detail text NOT NULL, order_id uuid, first_offset bigint,
    accepted_at timestamptz, decided_at timestamptz NOT NULL,
    PRIMARY KEY (partition, "offset"));
-- A line is decided once: found by idempotency checks and polls, and the last guard against deciding twice.
CREATE UNIQUE INDEX decisions_first ON decisions (checkout_id, product_id) WHERE kind IN ('created', 'refused');

CREATE TABLE orders (
    order_id uuid PRIMARY KEY, checkout_id uuid NOT NULL, buyer_id text NOT NULL, status text NOT NULL,
    total numeric NOT NULL CHECK (total > 0), currency text NOT NULL,
    contact_name text NOT NULL, phone text NOT NULL, address text NOT NULL, note text NOT NULL,
    created_at timestamptz NOT NULL);
CREATE INDEX orders_buyer ON orders (buyer_id, order_id);

CREATE TABLE order_items (
    order_id uuid NOT NULL, line integer NOT NULL, product_id text NOT NULL,
    name text NOT NULL, cover text NOT NULL, price numeric NOT NULL, quantity bigint NOT NULL,
    PRIMARY KEY (order_id, line));

CREATE TABLE payments (
    order_id uuid PRIMARY KEY, amount numeric NOT NULL, currency text NOT NULL, method text NOT NULL,
    status text NOT NULL, expires_at timestamptz NOT NULL, created_at timestamptz NOT NULL);

-- Every change of stock; seq counts a product's entries from 1 without gaps.
CREATE TABLE ledger (
    product_id text NOT NULL, seq bigint NOT NULL, delta bigint NOT NULL, available bigint NOT NULL,
    kind text NOT NULL, partition integer, "offset" bigint, order_id uuid, at timestamptz NOT NULL,
    PRIMARY KEY (product_id, seq));

-- Units bought, only of products with a limit per buyer.
CREATE TABLE purchases (
    product_id text NOT NULL, buyer_id text NOT NULL, quantity bigint NOT NULL,
    PRIMARY KEY (product_id, buyer_id));

-- Live figures, folded from the events topic. An event delivered twice is behind next_offset; one published twice is
-- behind next_decision, the offset after that of the newest decision folded.
CREATE TABLE figure_state (
    partition integer PRIMARY KEY, next_offset bigint NOT NULL, next_decision bigint NOT NULL);
CREATE TABLE figures (
    partition integer NOT NULL, product_id text NOT NULL, outcome text NOT NULL, currency text NOT NULL,
    lines bigint NOT NULL, units bigint NOT NULL, amount numeric NOT NULL,
    PRIMARY KEY (partition, product_id, outcome, currency));
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    for table in ("figures", "figure_state", "purchases", "ledger", "payments", "order_items", "orders"):
        op.execute(f"DROP TABLE {table}")
    for table in ("decisions", "partition_state", "addresses", "stock", "products"):
        op.execute(f"DROP TABLE {table}")
