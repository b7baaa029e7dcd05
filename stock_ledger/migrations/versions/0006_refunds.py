"""Payments that are to be given back, who took a payment."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE payments ADD COLUMN provider text NOT NULL DEFAULT '';

-- One row per payment that is, or was, due back; an order that was paid twice has one of each. `refunded` is the writers';
-- tries, try_at and detail belong to whoever asks the provider.
CREATE TABLE refunds (
    order_id uuid NOT NULL, reference text NOT NULL, provider text NOT NULL, due_at timestamptz NOT NULL,
    refunded boolean NOT NULL, tries integer NOT NULL DEFAULT 0, try_at timestamptz NOT NULL,
    detail text NOT NULL DEFAULT '', PRIMARY KEY (order_id, reference));
CREATE INDEX refunds_due ON refunds (try_at) WHERE NOT refunded;

INSERT INTO refunds (order_id, reference, provider, due_at, refunded, try_at)
SELECT order_id, reference, '', now(), status = 'refunded', now() FROM payments
WHERE status IN ('refund_due', 'refunded') AND reference <> '';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE refunds")
    op.execute("ALTER TABLE payments DROP COLUMN provider")
