"""Holds say whether their line comes from a cart."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE holds ADD COLUMN from_cart boolean NOT NULL DEFAULT false")


def downgrade() -> None:
    op.execute("ALTER TABLE holds DROP COLUMN from_cart")
