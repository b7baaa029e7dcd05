"""Products may have slices; lines are forwarded between them."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE products ADD COLUMN slices integer NOT NULL DEFAULT 1 CHECK (slices > 0)")
    op.execute("ALTER TABLE products ADD COLUMN slices_open boolean NOT NULL DEFAULT true")
    op.execute("CREATE INDEX decisions_forwarded ON decisions (checkout_id) WHERE kind = 'forwarded'")
    op.execute("CREATE INDEX decisions_conflict ON decisions (checkout_id) WHERE kind = 'conflict'")


def downgrade() -> None:
    op.execute("DROP INDEX decisions_conflict")
    op.execute("DROP INDEX decisions_forwarded")
    op.execute("ALTER TABLE products DROP COLUMN slices_open, DROP COLUMN slices")
