"""An index of cancelled questions: a worker that begins to listen asks which ones may still be under way."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("CREATE INDEX questions_cancelled ON questions (deadline_at) WHERE status = 'cancelled'")


def downgrade() -> None:
    op.execute("DROP INDEX questions_cancelled")
