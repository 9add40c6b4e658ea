"""HTTP replies of model services → errors of ours, the same for every client library."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.errors import (
    AuthenticationFailed,
    ModelNotFound,
    RateLimited,
    RequestRejected,
    ServerFault,
    TimedOut,
    UpstreamError,
)

MAX_QUOTED = 300
LONGEST_WAIT = 86_400.0
"""Seconds. Whoever asks for more is asked again all the same."""
NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
HINTS = {
    "context_length_exceeded": "Ask for fewer or shorter passages: lower top_k, or CELERIAC_CHUNK_TOKENS.",
    **dict.fromkeys(NO_CREDIT, "The account has no credit left, or its spending limit is reached."),
}


@dataclass(frozen=True)
class Call:
    """What was called, for messages: the service, the model, and the key that must never appear in one."""

    upstream: str
    model: str = ""
    secret: str = field(default="", repr=False)

    def detail(self, **more: Any) -> dict[str, Any]:
        """Facts for programs."""
        return {"upstream": self.upstream, **{name: value for name, value in more.items() if value is not None}}

    def quote(self, text: str) -> str:
        """Words of the service as one line, cut, without the key."""
        if self.secret:
            text = text.replace(self.secret, "***")
        line = " ".join(text.split())
        return line if len(line) <= MAX_QUOTED else f"{line[:MAX_QUOTED]}…"


def status_fault(call: Call, status: int, headers: Mapping[str, str], body: object) -> UpstreamError:
    """The error for a reply with a status of 400 or more; ``headers`` are looked up without regard to case."""
    code, words = _said(body)
    detail = call.detail(
        status=status,
        code=code or None,
        request_id=headers.get("x-request-id"),
        retry_after=retry_after(headers),
        limits=limits_named(headers) if status == 429 else None,
    )
    if status == 404 or code == "model_not_found":
        return _not_found(call, status, code, detail)
    if status in (401, 403):
        # Not a word of the reply: some services repeat the key in it.
        return AuthenticationFailed(f"{call.upstream} answered {status}: the key is not accepted.", "", detail)
    message = f"{call.upstream} answered {status}: {call.quote(words) or 'no reason given'}"
    return _kind(status, code)(message, HINTS.get(code, ""), detail)


def reported_fault(call: Call, body: object) -> UpstreamError:
    """The error for one that is reported inside a reply of status 200, as in the middle of a stream."""
    code, words = _said(body)
    status = int(code) if re.fullmatch(r"[45]\d\d", code) else 429 if code == "rate_limit_exceeded" else 500
    message = f"{call.upstream} broke off: {call.quote(words) or 'no reason given'}"
    return _kind(status, code)(message, HINTS.get(code, ""), call.detail(code=code or None))


def broken_reply(call: Call, what: str) -> ServerFault:
    """The error for a reply that can't be used as it is."""
    return ServerFault(f"{call.upstream} gave a broken reply: {call.quote(what)}.", "", call.detail())


def limits_named(headers: Mapping[str, str]) -> dict[str, str] | None:
    """Those headers that tell of limits, names in lower case; None where there are none."""
    named = ((name.lower(), value) for name, value in headers.items())
    return {name: value for name, value in named if name.startswith("x-ratelimit-")} or None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait that the headers ask for, up to a day: retry-after-ms, or Retry-After as seconds or a date."""
    milliseconds = _number(headers.get("retry-after-ms"))
    given = headers.get("retry-after")
    seconds = _number(given) if milliseconds is None else milliseconds / 1000
    if seconds is None and given:
        seconds = _until(given)
    return None if seconds is None else min(max(0.0, seconds), LONGEST_WAIT)


def _kind(status: int, code: str) -> type[UpstreamError]:
    if code in NO_CREDIT:
        return RequestRejected
    if status == 429:
        return RateLimited
    if status in (408, 504):
        return TimedOut
    return ServerFault if status >= 500 else RequestRejected


def _not_found(call: Call, status: int, code: str, detail: dict[str, Any]) -> UpstreamError:
    # A service that has no such address answers 404 as well, but not with the code of the protocol.
    hint = "" if code == "model_not_found" else "Check the model's name, and the address of the service."
    return ModelNotFound(f"{call.upstream} answered {status}: it has no model {call.model!r}.", hint, detail)


def _said(body: object) -> tuple[str, str]:
    """Code and message of an error body, in the shapes that compatible services use."""
    found: object = body
    if isinstance(found, Mapping):
        found = found.get("error", found)
    if not isinstance(found, Mapping):
        return "", "" if found is None else str(found)
    code = found.get("code") or found.get("type") or ""
    words = found.get("message") or found.get("detail") or found.get("error") or ""
    return str(code), str(words)


def _number(text: str | None) -> float | None:
    try:
        found = math.nan if text is None else float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _until(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
