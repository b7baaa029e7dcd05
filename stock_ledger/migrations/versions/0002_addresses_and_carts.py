"""The default among a buyer's addresses; carts."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = """
-- A buyer's default address is the one with the highest default_rank, among equals the oldest: so there is always
-- exactly one, and behind a default that is removed stands the one before.
ALTER TABLE addresses
    ADD COLUMN default_rank bigint NOT NULL DEFAULT 0,
    ADD COLUMN added_at timestamptz NOT NULL DEFAULT now();

-- What buyers mean to buy. Products are never deleted; without a reference to them, no cart locks the row of a product
-- that everybody wants.
CREATE TABLE carts (
    buyer_id text NOT NULL, product_id text NOT NULL, quantity bigint NOT NULL CHECK (quantity > 0),
    added_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
    PRIMARY KEY (buyer_id, product_id));
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE carts")
    op.execute("ALTER TABLE addresses DROP COLUMN default_rank, DROP COLUMN added_at")
