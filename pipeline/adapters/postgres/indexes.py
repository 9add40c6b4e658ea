"""Which indexes a knowledge base has: the one that answers, one that is being built, the one it replaced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from pipeline.adapters.postgres.engine import transaction
from pipeline.adapters.postgres.knowledge_bases import index_of
from pipeline.adapters.postgres.rows import as_json
from pipeline.errors import Conflict, NotFound
from pipeline.types import IndexRef, RunOptions

# Stronger than the lock of `Documents.switch`: while it is held no document becomes live.
_LOCK = sa.text("""
SELECT id::text, name, embedding_model AS current_model, dimensions AS current_dimensions, building_model,
    building_dimensions, previous_model, previous_dimensions
FROM knowledge_bases WHERE id = :kb_id FOR NO KEY UPDATE
""")
_OPEN_RUN = sa.text("""
SELECT id::text FROM runs WHERE kb_id = :kb_id AND status IN ('discovering', 'running') LIMIT 1
""")
_CREATE_RUN = sa.text("""
INSERT INTO runs (id, kb_id, options, kind) VALUES (:id, :kb_id, CAST(:options AS jsonb), 'reembed')
""")
_BUILD = sa.text("""
UPDATE knowledge_bases SET building_model = :model, building_dimensions = :dimensions WHERE id = :kb_id
""")
_FINISH_RUN = sa.text("""
UPDATE runs SET status = 'done', finished_at = now() WHERE id = :run_id AND status = 'running'
  AND NOT EXISTS (SELECT FROM run_batches WHERE run_id = :run_id AND (stage <> 'over' OR failed > 0))
""")
_SWITCH = sa.text("""
UPDATE knowledge_bases SET embedding_model = building_model, dimensions = building_dimensions,
    previous_model = embedding_model, previous_dimensions = dimensions,
    building_model = NULL, building_dimensions = NULL, revision = revision + 1
WHERE id = :kb_id
""")
_CANCEL_RUNS = sa.text("""
UPDATE runs SET status = 'cancelled', finished_at = now()
WHERE kb_id = :kb_id AND kind = 'reembed' AND status IN ('discovering', 'running')
""")
_GIVE_UP = sa.text("""
UPDATE knowledge_bases SET building_model = NULL, building_dimensions = NULL WHERE id = :kb_id
""")
_FORGET = sa.text("""
UPDATE knowledge_bases SET previous_model = NULL, previous_dimensions = NULL
WHERE id = :kb_id AND previous_model = :model AND previous_dimensions = :dimensions
""")


class Indexes:
    """The indexes of knowledge bases. Each change is one transaction that holds the knowledge base's row."""

    def __init__(self, engine: sa.Engine) -> None:
        """Over an engine shared with the rest of the process."""
        self._engine = engine

    def begin(self, run_id: str, target: IndexRef) -> bool:
        """From now on everything is written to ``target`` too, and a new run is there to build it; returns whether the
        index is new, and so empty. Raises Conflict while a run is open or another index is in the way, and NotFound.
        """
        options = RunOptions(model=target.model, dimensions=target.dimensions)
        with transaction(self._engine) as connection:
            row = _lock(connection, target.kb_id)
            if row is None:
                raise NotFound("The knowledge base is gone.", "`manage.py kb list` shows those there are.")
            _require_free(row, target)
            open_run = connection.execute(_OPEN_RUN, {"kb_id": target.kb_id}).scalar()
            if open_run is not None:
                raise Conflict(
                    f"Run {open_run} of this knowledge base is under way.", "Wait for its end, or cancel it."
                )
            values = {"id": run_id, "kb_id": target.kb_id, "options": as_json(options.encode())}
            connection.execute(_CREATE_RUN, values)
            connection.execute(_BUILD, target.model_dump())
        return target not in (index_of(row, "building"), index_of(row, "previous"))

    def switch(self, run_id: str, target: IndexRef) -> bool:
        """End the run, and answer from the index it has built; the other one is kept as the previous one. False, and
        nothing changes: the run is over, a source of it is open or has failed, or the index was given up.
        """
        with transaction(self._engine) as connection:
            row = _lock(connection, target.kb_id)
            if row is None or index_of(row, "building") != target:
                return False
            if connection.execute(_FINISH_RUN, {"run_id": run_id}).rowcount == 0:
                return False
            connection.execute(_SWITCH, {"kb_id": target.kb_id})
        return True

    def stop(self, kb_id: str) -> None:
        """End the runs that build an index of this knowledge base."""
        with transaction(self._engine) as connection:
            _lock(connection, kb_id)
            connection.execute(_CANCEL_RUNS, {"kb_id": kb_id})

    def give_up(self, kb_id: str) -> None:
        """End the runs that build an index, and write to it no more."""
        with transaction(self._engine) as connection:
            _lock(connection, kb_id)
            connection.execute(_CANCEL_RUNS, {"kb_id": kb_id})
            connection.execute(_GIVE_UP, {"kb_id": kb_id})

    def forget(self, previous: IndexRef) -> None:
        """Keep this index as the previous one no more."""
        with transaction(self._engine) as connection:
            connection.execute(_FORGET, previous.model_dump())


def _lock(connection: sa.Connection, kb_id: str) -> Mapping[Any, Any] | None:
    return connection.execute(_LOCK, {"kb_id": kb_id}).mappings().first()


def _require_free(row: Mapping[Any, Any], target: IndexRef) -> None:
    current, building, previous = (index_of(row, name) for name in ("current", "building", "previous"))
    name = row["name"]
    if target == current:
        raise Conflict(f"{name!r} is answered from {target.vector_space} already.", "Choose another model.")
    if building not in (None, target):
        assert building is not None
        hint = f"Go on with that model, or give it up: `manage.py kb reembed {name} --abandon`."
        raise Conflict(f"An index of {name!r} for {building.vector_space} is half built.", hint)
    if previous not in (None, target):
        assert previous is not None
        hint = (
            f"Free it with `manage.py kb forget-previous {name}`, or go back to it with `manage.py kb restore {name}`."
        )
        raise Conflict(f"{name!r} keeps its index for {previous.vector_space} still.", hint)
