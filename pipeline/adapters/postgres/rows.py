"""Many rows in one statement: a list of dicts as one JSON parameter for ``jsonb_to_recordset``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any


def as_json(value: Any) -> str:
    """JSON for a jsonb parameter; what isn't ASCII stays readable in the database."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def recordset(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as one JSON array."""
    return as_json([dict(row) for row in rows])
