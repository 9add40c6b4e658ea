"""Bulk ingest updates its rows without touching an index."""

from alembic import op

revision = "0003"
down_revision = "0002"

UP = """
-- Each row is written again, and grows, before anything else looks at its page: the new version needs room there.
ALTER TABLE run_items SET (fillfactor = 45);
ALTER TABLE documents SET (fillfactor = 35);
-- And no index may depend on what is changed, as this one did on `status`.
DROP INDEX run_items_failed;
CREATE INDEX run_items_failed ON run_items (run_id, failed_at) WHERE failed_at IS NOT NULL;
"""

DOWN = """
DROP INDEX run_items_failed;
CREATE INDEX run_items_failed ON run_items (run_id, failed_at) WHERE status = 'failed';
ALTER TABLE documents SET (fillfactor = 70);
ALTER TABLE run_items SET (fillfactor = 60);
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
