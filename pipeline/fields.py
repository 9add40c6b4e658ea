"""Fields of records by name, and the usual names."""

from __future__ import annotations

from typing import Any

ID_NAMES = ("id", "_id", "doc_id", "uuid")
"""Where a record's own id is looked for when no field is configured."""


def field(record: Any, name: str) -> Any:
    """The value of the field ``name``, or of the one at that dotted path; None where there is none."""
    if not isinstance(record, dict):
        return None
    if name in record:
        return record[name]
    head, dot, rest = name.partition(".")
    while dot:
        if head in record and (value := field(record[head], rest)) is not None:
            return value
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    return None
