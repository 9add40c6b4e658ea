"""Of a question's tokens, those that no service has counted."""

from alembic import op

revision = "0008"
down_revision = "0007"

UP = """
-- Of calls that were cancelled, timed out or broken off: part of input_tokens and output_tokens.
ALTER TABLE questions ADD COLUMN estimated_tokens integer;
"""

DOWN = "ALTER TABLE questions DROP COLUMN estimated_tokens;"


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
