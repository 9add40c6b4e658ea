"""Conversations: questions that follow each other."""

from alembic import op

revision = "0006"
down_revision = "0005"

UP = """
-- `turns` is how many numbers were given to its questions: what numbers them is an update of this row. Like a question
-- it names its knowledge base rather than belonging to it, and outlives it.
CREATE TABLE conversations (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    kb text NOT NULL,
    turns integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX conversations_newest ON conversations (tenant, used_at DESC);

-- The history of a conversation is its questions, in the order of their turns. `standalone` is what a follow-up was
-- rewritten to before it was looked for.
ALTER TABLE questions
    ADD COLUMN conversation_id uuid REFERENCES conversations ON DELETE CASCADE,
    ADD COLUMN turn integer,
    ADD COLUMN standalone text,
    ADD CONSTRAINT questions_turn_check CHECK ((conversation_id IS NULL) = (turn IS NULL));
CREATE INDEX questions_turns ON questions (conversation_id, turn) WHERE conversation_id IS NOT NULL;
"""

DOWN = """
ALTER TABLE questions DROP COLUMN conversation_id, DROP COLUMN turn, DROP COLUMN standalone;
DROP TABLE conversations;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
