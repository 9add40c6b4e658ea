"""Batches with leases, lanes of waves; aliases, metadata, parent passages; a second index while re-embedding."""

from alembic import op

revision = "0002"
down_revision = "0001"

UP = """
-- Runs that are open now have no batches: they would wait for ever.
UPDATE runs SET status = 'failed', finished_at = now(), error = '{"code": "InternalFault", "message":
"The run was interrupted by an upgrade.", "hint": "Ingest again.", "retryable": false, "detail": {}}'
WHERE status IN ('discovering', 'running');

-- A batch is the share of a run that one chain of tasks carries, and what a worker takes a lease on. `stage` is the one
-- that comes next, `lane` the line of waves it was sent in (NULL: not yet), `fence` counts leases: only the newest may
-- write. `deaths` counts the holders that died at this stage, `crash` is what is known of the last one's end, and
-- `lease_item` the item that is worked on alone because of them.
CREATE TABLE run_batches (
    run_id uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
    number integer NOT NULL,
    first_item integer NOT NULL,
    last_item integer NOT NULL,
    items integer NOT NULL,
    stage text NOT NULL DEFAULT 'parse' CHECK (stage IN ('parse', 'chunk', 'embed', 'upsert', 'over')),
    lane smallint,
    holder text,
    lease_until timestamptz,
    lease_item integer,
    fence integer NOT NULL DEFAULT 0,
    deaths smallint NOT NULL DEFAULT 0,
    crash text,
    done integer NOT NULL DEFAULT 0,
    unchanged integer NOT NULL DEFAULT 0,
    failed integer NOT NULL DEFAULT 0,
    chunks integer NOT NULL DEFAULT 0,
    embedded integer NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, number)
) WITH (fillfactor = 70);
CREATE INDEX run_batches_unsent ON run_batches (run_id, number) WHERE lane IS NULL AND stage <> 'over';
CREATE INDEX run_batches_open ON run_batches (run_id, lane) WHERE stage <> 'over';
CREATE INDEX run_batches_holder ON run_batches (holder) WHERE holder IS NOT NULL;

-- Each lane sends one wave after the other. `step` names the wave: a message of an older step is void.
CREATE TABLE run_lanes (
    run_id uuid NOT NULL REFERENCES runs ON DELETE CASCADE,
    lane smallint NOT NULL,
    step integer NOT NULL DEFAULT 0,
    sent_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, lane)
);

ALTER TABLE runs DROP COLUMN epoch;
ALTER TABLE runs ADD COLUMN kind text NOT NULL DEFAULT 'ingest' CHECK (kind IN ('ingest', 'reembed'));
CREATE INDEX runs_newest ON runs (created_at DESC);
DROP INDEX runs_open;
CREATE INDEX runs_open ON runs (kb_id) WHERE status IN ('discovering', 'running');

-- `crashes` counts the workers that died while they had this item alone.
DROP INDEX run_items_open;
DROP INDEX run_items_batch;
ALTER TABLE run_items DROP CONSTRAINT run_items_status_check;
UPDATE run_items SET status = 'queued' WHERE status NOT IN ('done', 'unchanged', 'failed');
ALTER TABLE run_items
    ADD CONSTRAINT run_items_status_check CHECK (status IN ('queued', 'done', 'unchanged', 'failed')),
    DROP COLUMN batch, DROP COLUMN chunks, DROP COLUMN embedded, DROP COLUMN attempts, DROP COLUMN updated_at,
    ADD COLUMN crashes smallint NOT NULL DEFAULT 0,
    ADD COLUMN stage text,
    ADD COLUMN attempt integer,
    ADD COLUMN failed_at timestamptz,
    SET (fillfactor = 60);
CREATE INDEX run_items_failed ON run_items (run_id, failed_at) WHERE status = 'failed';

-- Room in each page: the switch to a generation then touches no index.
ALTER TABLE documents SET (fillfactor = 70);
ALTER TABLE documents
    ADD COLUMN aliases text[] NOT NULL DEFAULT '{}', ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}';
ALTER TABLE document_versions
    ADD COLUMN aliases text[] NOT NULL DEFAULT '{}', ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}';

-- The stretch of the document's text around a chunk that is worth reading with it.
ALTER TABLE chunks ADD COLUMN parent_start integer, ADD COLUMN parent_end integer;

-- While `building_model` is set, every write goes to both indexes.
ALTER TABLE knowledge_bases
    ADD COLUMN building_model text, ADD COLUMN building_dimensions integer,
    ADD COLUMN previous_model text, ADD COLUMN previous_dimensions integer;

DROP INDEX questions_newest;
"""

DOWN = """
CREATE INDEX questions_newest ON questions (tenant, submitted_at DESC);
ALTER TABLE knowledge_bases DROP COLUMN building_model, DROP COLUMN building_dimensions,
    DROP COLUMN previous_model, DROP COLUMN previous_dimensions;
ALTER TABLE chunks DROP COLUMN parent_start, DROP COLUMN parent_end;
ALTER TABLE document_versions DROP COLUMN aliases, DROP COLUMN metadata;
ALTER TABLE documents RESET (fillfactor);
ALTER TABLE documents DROP COLUMN aliases, DROP COLUMN metadata;
DROP INDEX run_items_failed;
ALTER TABLE run_items DROP CONSTRAINT run_items_status_check,
    DROP COLUMN crashes, DROP COLUMN stage, DROP COLUMN attempt, DROP COLUMN failed_at,
    ADD COLUMN batch integer NOT NULL DEFAULT 0, ADD COLUMN chunks integer NOT NULL DEFAULT 0,
    ADD COLUMN embedded integer NOT NULL DEFAULT 0, ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN updated_at timestamptz NOT NULL DEFAULT now(),
    ADD CONSTRAINT run_items_status_check CHECK
        (status IN ('queued', 'parsed', 'chunked', 'embedded', 'done', 'unchanged', 'failed', 'cancelled'));
ALTER TABLE run_items ALTER COLUMN batch DROP DEFAULT;
CREATE INDEX run_items_batch ON run_items (run_id, batch);
CREATE INDEX run_items_open ON run_items (run_id, batch) WHERE status IN ('queued', 'parsed', 'chunked', 'embedded');
DROP INDEX runs_newest;
DROP INDEX runs_open;
ALTER TABLE runs DROP COLUMN kind;
ALTER TABLE runs ADD COLUMN epoch integer NOT NULL DEFAULT 0;
CREATE INDEX runs_open ON runs (heartbeat_at) WHERE status IN ('discovering', 'running');
DROP TABLE run_lanes, run_batches;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
