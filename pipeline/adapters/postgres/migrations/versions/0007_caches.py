"""The revision of a knowledge base; answers and retrievals that may be given again; vectors of questions."""

from alembic import op

revision = "0007"
down_revision = "0006"

UP = """
-- Counts the changes of what a question can find, each in the transaction that makes it. What was replaced leaves the
-- vector store only then: when that is done it counts once more, and is settled.
ALTER TABLE knowledge_bases ADD COLUMN revision bigint NOT NULL DEFAULT 0,
    ADD COLUMN settled_revision bigint NOT NULL DEFAULT 0;

-- Of a full answer: the keys of what was asked, and the revision that it was asked of.
ALTER TABLE questions ADD COLUMN answer_key uuid, ADD COLUMN retrieval_key uuid, ADD COLUMN revision bigint;
CREATE INDEX questions_same_answer ON questions (answer_key, kb_id, finished_at) WHERE answer_key IS NOT NULL;
CREATE INDEX questions_same_retrieval ON questions (retrieval_key, kb_id, revision) WHERE retrieval_key IS NOT NULL;

-- Vectors of questions by space (model and size) and key; little-endian float32.
CREATE TABLE question_vectors (
    space text NOT NULL,
    key uuid NOT NULL,
    vector bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (space, key)
);
CREATE INDEX question_vectors_oldest ON question_vectors (created_at);
"""

DOWN = """
DROP TABLE question_vectors;
DROP INDEX questions_same_answer, questions_same_retrieval;
ALTER TABLE questions DROP COLUMN answer_key, DROP COLUMN retrieval_key, DROP COLUMN revision;
ALTER TABLE knowledge_bases DROP COLUMN revision, DROP COLUMN settled_revision;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
