"""The id of a JSON record, found without parsing the record where that can be helped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.fields import field


def own_ids(names: Sequence[str]) -> Callable[[bytes], str]:
    """A function from a record to its own id: the value of the first of the fields ``names`` that holds a text or a
    whole number; '' where there is none, or no JSON object. A name may be a dotted path.

    Discovery asks for every record of a file, alone, before any worker can start. Most records begin with their id or
    have none, and a search for bytes tells.
    """
    quoted = [json.dumps(name.rpartition(".")[2], ensure_ascii=False).encode() for name in names]
    at_start = re.compile(
        rb'\s*\{\s*(%s)\s*:\s*(?:"([^"\\\x00-\x1f\x80-\xff]+)"|(-?[1-9][0-9]{0,18}|0))\s*[,}]'
        % b"|".join(re.escape(name) for name in quoted)
    )
    earlier = {name: quoted[:place] for place, name in enumerate(quoted)}
    undotted = not any("." in name for name in names)

    def own_id(data: bytes) -> str:
        found = at_start.match(data) if undotted else None
        if found is not None and not any(name in data for name in earlier[found[1]]):
            text: bytes = found[2] or found[3]
            if own := text.decode("ascii").strip():
                return own
        # A name may be spelled with escapes.
        if b"\\u" not in data and not any(name in data for name in quoted):
            return ""
        return _parsed_id(data, names)

    return own_id


def _parsed_id(data: bytes, names: Sequence[str]) -> str:
    try:
        record: Any = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    candidates = (field(record, name) for name in names)
    usable = (value for value in candidates if isinstance(value, (str, int)) and not isinstance(value, bool))
    return next((str(value).strip() for value in usable if str(value).strip()), "")
