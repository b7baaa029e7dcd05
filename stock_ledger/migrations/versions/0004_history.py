"""Tables partitioned by time; what dropped periods came to; buyers whose data was erased."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Partitioned tables, each with the column whose order is that of time. Uniqueness holds within a partition.
KEYS = {
    "decisions": "decided_at",
    "commands": "decided_at",
    "ledger": "at",
    "orders": "order_id",
    "order_items": "order_id",
    "payments": "order_id",
}

# What was there becomes the first partition, up to a day at least 30 days ahead; a second one takes all that comes after.
# Between them they cover all of time, so no row is without a partition, whatever the clock that made it.
PARTITION = """
DO $do$
DECLARE
    day timestamptz := date_trunc('day', greatest(now(), (SELECT max(decided_at) FROM decisions)), 'UTC') + interval '31 days';
    bound text := CASE WHEN '{key}' = 'order_id'
        THEN rpad(lpad(to_hex((extract(epoch FROM day) * 1000)::bigint), 12, '0'), 32, '0')::uuid::text
        ELSE day::text END;
    newest text := '{table}_' || to_char(day AT TIME ZONE 'UTC', 'YYYYMMDD');
BEGIN
    ALTER TABLE {table} RENAME TO {table}_begin;
    CREATE TABLE {table} (LIKE {table}_begin INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE ({key});
    EXECUTE format('CREATE TABLE %I (LIKE {table}_begin INCLUDING ALL)', newest);
    EXECUTE format('ALTER TABLE {table} ATTACH PARTITION {table}_begin FOR VALUES FROM (MINVALUE) TO (%L)', bound);
    EXECUTE format('ALTER TABLE {table} ATTACH PARTITION %I FOR VALUES FROM (%L) TO (MAXVALUE)', newest, bound);
END $do$
"""

STATEMENTS = """
-- Periods that were archived: all tables' partitions of one span of time, up to `until`. Dropped once dropped_at is given.
CREATE TABLE history (
    until timestamptz PRIMARY KEY, leaves text[] NOT NULL, archived_at timestamptz NOT NULL, dropped_at timestamptz);

-- What a period came to, for a product: its ledger up to last_seq, after which `available` were left; units given; taken
-- by lines; given back; paid and not given back; counted against buyers' limits.
CREATE TABLE history_stock (
    until timestamptz NOT NULL REFERENCES history ON DELETE CASCADE, product_id text NOT NULL,
    entries bigint NOT NULL, last_seq bigint NOT NULL, available bigint NOT NULL, given bigint NOT NULL,
    taken bigint NOT NULL, returned bigint NOT NULL, paid bigint NOT NULL, counted bigint NOT NULL,
    PRIMARY KEY (until, product_id));

-- The same for a partition's two logs: how many decisions, and the last of their offsets.
CREATE TABLE history_log (
    until timestamptz NOT NULL REFERENCES history ON DELETE CASCADE, partition integer NOT NULL,
    decisions bigint NOT NULL, last_offset bigint, commands bigint NOT NULL, last_command bigint,
    PRIMARY KEY (until, partition));

-- Names that stand where the id of a buyer stood. Nothing leads from one to the other.
CREATE TABLE erasures (pseudonym text PRIMARY KEY, erased_at timestamptz NOT NULL);
"""

# The parents have the keys that the key of partitioning is a part of.
PRIMARY = {"orders": "order_id", "order_items": "order_id, line", "payments": "order_id"}

INDEXES = """
ALTER TABLE decisions ADD PRIMARY KEY (partition, "offset");
CREATE UNIQUE INDEX decisions_first ON decisions (checkout_id, product_id) WHERE kind IN ('created', 'held', 'refused');
ALTER TABLE commands ADD PRIMARY KEY (partition, "offset");
CREATE UNIQUE INDEX commands_first ON commands (command_id) WHERE outcome IN ('applied', 'refused');
CREATE INDEX commands_subject ON commands (subject, partition, "offset");
ALTER TABLE ledger ADD PRIMARY KEY (product_id, seq);
ALTER TABLE orders ADD PRIMARY KEY (order_id);
CREATE INDEX orders_buyer ON orders (buyer_id, order_id);
ALTER TABLE order_items ADD PRIMARY KEY (order_id, line);
ALTER TABLE payments ADD PRIMARY KEY (order_id);
CREATE INDEX payments_due ON payments (expires_at) WHERE status IN ('pending', 'failed');
"""


def upgrade() -> None:
    for table, key in KEYS.items():
        op.execute(PARTITION.format(table=table, key=key))
        if table in PRIMARY:
            op.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({PRIMARY[table]})")
    _run(STATEMENTS)


def downgrade() -> None:
    """Dropped periods stay dropped."""
    for table in ("erasures", "history_log", "history_stock", "history"):
        op.execute(f"DROP TABLE {table}")
    for table in KEYS:
        op.execute(f"ALTER TABLE {table} RENAME TO {table}_parted")
        op.execute(f"CREATE TABLE {table} (LIKE {table}_parted INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
        op.execute(f"INSERT INTO {table} SELECT * FROM {table}_parted")  # noqa: S608
        op.execute(f"DROP TABLE {table}_parted CASCADE")
    _run(INDEXES)


def _run(statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            op.execute(statement)
