"""Tenants, knowledge bases, documents, chunks, runs, questions."""

from alembic import op

revision = "0001"
down_revision = None

SCHEMA = """
CREATE TABLE tenants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE knowledge_bases (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid NOT NULL REFERENCES tenants,
    name text NOT NULL,
    embedding_model text NOT NULL,
    dimensions integer NOT NULL,
    store text NOT NULL CHECK (store IN ('pgvector', 'weaviate')),
    chunk_count bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name)
);

-- One row per document; live_generation is what readers see, NULL until the first one is complete.
CREATE TABLE documents (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    kb_id uuid NOT NULL REFERENCES knowledge_bases ON DELETE CASCADE,
    key text NOT NULL,
    origin text NOT NULL,
    format text NOT NULL,
    title text NOT NULL DEFAULT '',
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'live', 'failed')),
    error jsonb,
    content_hash text,
    live_generation integer,
    reserved_generation integer NOT NULL DEFAULT 1,
    chunk_count integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT documents_kb_key UNIQUE (kb_id, key)
);
CREATE INDEX documents_origin ON documents (kb_id, origin);

-- The parsed text of each generation: citations are spans of it.
CREATE TABLE document_versions (
    document_id uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
    generation integer NOT NULL,
    content_hash text NOT NULL,
    title text NOT NULL,
    text text NOT NULL,
    blocks jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (document_id, generation)
);

-- context (title and section) goes before text in what is embedded and ranked, not in what is quoted.
CREATE TABLE chunks (
    id uuid PRIMARY KEY,
    kb_id uuid NOT NULL,
    document_id uuid NOT NULL,
    generation integer NOT NULL,
    ordinal integer NOT NULL,
    text text NOT NULL,
    start_char integer NOT NULL,
    end_char integer NOT NULL,
    page integer,
    section text NOT NULL DEFAULT '',
    context text NOT NULL DEFAULT '',
    token_count integer NOT NULL,
    embed_hash bytea NOT NULL,
    UNIQUE (document_id, generation, ordinal),
    FOREIGN KEY (document_id, generation) REFERENCES document_versions ON DELETE CASCADE
);

-- Vectors by space (model and size) and text: paid for once, shared by all workers; little-endian float32.
CREATE TABLE embeddings (
    space text NOT NULL,
    hash bytea NOT NULL,
    vector bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (space, hash)
);

CREATE TABLE runs (
    id uuid PRIMARY KEY,
    kb_id uuid NOT NULL REFERENCES knowledge_bases ON DELETE CASCADE,
    status text NOT NULL DEFAULT 'discovering'
        CHECK (status IN ('discovering', 'running', 'done', 'failed', 'cancelled')),
    options jsonb NOT NULL,
    epoch integer NOT NULL DEFAULT 0,
    error jsonb,
    pruned integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX runs_open ON runs (heartbeat_at) WHERE status IN ('discovering', 'running');

-- The manifest of a run: one row per source, in batches; written before any message is sent.
CREATE TABLE run_items (
    run_id uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
    number integer NOT NULL,
    batch integer NOT NULL,
    key text NOT NULL,
    source jsonb NOT NULL,
    status text NOT NULL DEFAULT 'queued'
        CHECK (status IN ('queued', 'parsed', 'chunked', 'embedded', 'done', 'unchanged', 'failed', 'cancelled')),
    document_id uuid,
    generation integer,
    chunks integer NOT NULL DEFAULT 0,
    embedded integer NOT NULL DEFAULT 0,
    attempts integer NOT NULL DEFAULT 0,
    error jsonb,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, number),
    CONSTRAINT run_items_key UNIQUE (run_id, key)
);
CREATE INDEX run_items_batch ON run_items (run_id, batch);
CREATE INDEX run_items_open ON run_items (run_id, batch) WHERE status IN ('queued', 'parsed', 'chunked', 'embedded');

CREATE TABLE questions (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    kb text NOT NULL,
    kb_id uuid,
    question text NOT NULL,
    options jsonb NOT NULL,
    status text NOT NULL DEFAULT 'queued' CHECK (status IN ('queued', 'done', 'failed', 'cancelled')),
    epoch integer NOT NULL DEFAULT 0,
    outcome text,
    mode text,
    answer text,
    citations jsonb,
    passages jsonb,
    flags jsonb,
    degraded jsonb,
    error jsonb,
    model text,
    input_tokens integer,
    output_tokens integer,
    embedding_tokens integer,
    cost_usd numeric(14, 8),
    submitted_at timestamptz NOT NULL,
    deadline_at timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE INDEX questions_open ON questions (submitted_at) WHERE status = 'queued';
CREATE INDEX questions_newest ON questions (tenant, submitted_at DESC);

CREATE TABLE stage_timings (
    question_id uuid NOT NULL REFERENCES questions ON DELETE CASCADE,
    ordinal smallint NOT NULL,
    stage text NOT NULL,
    queue_ms real NOT NULL,
    run_ms real NOT NULL,
    worker text NOT NULL,
    attempt smallint NOT NULL,
    PRIMARY KEY (question_id, ordinal)
);
"""

TABLES = (
    "stage_timings, questions, run_items, runs, embeddings, chunks, document_versions, documents, "
    "knowledge_bases, tenants"
)


def upgrade() -> None:
    op.execute(SCHEMA)


def downgrade() -> None:
    op.execute(f"DROP TABLE {TABLES}")
