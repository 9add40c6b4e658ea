"""Many rows in one statement: a list of them as one JSON parameter for ``jsonb_to_recordset``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json


def as_json(value: Any) -> str:
    """JSON for a jsonb parameter; what isn't ASCII stays readable in the database."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def recordset(rows: Iterable[Mapping[str, Any] | BaseModel]) -> str:
    """The rows as one JSON array."""
    return to_json(list(rows)).decode()
