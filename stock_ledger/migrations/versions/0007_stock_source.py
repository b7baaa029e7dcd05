"""Products with a second stock source, and what is open with it."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = """
-- What becomes of its checkouts while the second stock source does not answer; null: there is none.
ALTER TABLE products ADD COLUMN stock_source text;

-- What the batch that begins at next_offset has asked, or will ask, the source for; gone when the batch is decided.
CREATE TABLE stock_source_requests (
    partition integer NOT NULL, next_offset bigint NOT NULL, product_id text NOT NULL, batch text NOT NULL,
    units bigint NOT NULL, PRIMARY KEY (partition, next_offset, product_id));

-- What is to be made good with the source, oldest first: units to give back ("return"), requests without an answer
-- ("request", of which so many units were sold), and what was sold and can never be had ("short").
CREATE TABLE stock_source_open (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text NOT NULL, product_id text NOT NULL, cause text NOT NULL,
    units bigint NOT NULL, sold bigint NOT NULL, UNIQUE (kind, product_id, cause));
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE stock_source_open")
    op.execute("DROP TABLE stock_source_requests")
    op.execute("ALTER TABLE products DROP COLUMN stock_source")
