"""Dead letters; every attempt at a stage; questions that are asked again."""

from alembic import op

revision = "0005"
down_revision = "0004"

UP = """
-- A stage of a question that failed for good: `state` is what it was given. What it failed with is the question's
-- `error`. One for each question at most, since a question fails once.
CREATE TABLE dead_letters (
    question_id uuid PRIMARY KEY REFERENCES questions ON DELETE CASCADE,
    stage text NOT NULL,
    task text NOT NULL,
    attempts smallint NOT NULL,
    worker text NOT NULL,
    state jsonb NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT now(),
    replayed_as uuid
);
CREATE INDEX dead_letters_newest ON dead_letters (failed_at);

-- A question that was asked again: of which one, and the stage it began at.
ALTER TABLE questions ADD COLUMN replay_of uuid, ADD COLUMN replay_stage text;
CREATE INDEX questions_replays ON questions (replay_of) WHERE replay_of IS NOT NULL;

-- `error` of an attempt that failed; `cached`, which cache gave the result.
ALTER TABLE stage_timings
    ADD COLUMN error text NOT NULL DEFAULT '', ADD COLUMN cached text NOT NULL DEFAULT '';
"""

DOWN = """
DELETE FROM stage_timings WHERE error <> '';
ALTER TABLE stage_timings DROP COLUMN error, DROP COLUMN cached;
DROP INDEX questions_replays;
ALTER TABLE questions DROP COLUMN replay_of, DROP COLUMN replay_stage;
DROP TABLE dead_letters;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
