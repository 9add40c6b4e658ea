"""What the stand-in can be told to do."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Endpoint = Literal["embeddings", "chat", "rerank", "models"]
FaultKind = Literal["status", "hang", "disconnect", "drip", "malformed", "no_finish", "error_event"]

MESSAGES = {
    400: ("The request is malformed.", "invalid_request_error"),
    401: ("Incorrect API key provided.", "invalid_api_key"),
    403: ("The key may not do this.", "forbidden"),
    404: ("The model does not exist.", "model_not_found"),
    429: ("Rate limit reached.", "rate_limit_exceeded"),
    500: ("The server had an error.", "server_error"),
}


class Fault(BaseModel):
    """One way to misbehave, at one endpoint or (None) at all of them.

    ``status``: answer with that status; with 429 or 503, Retry-After says ``retry_after`` seconds.
    ``hang``: accept and never answer; in a stream, after ``after_chunks`` chunks.
    ``disconnect``: cut the connection; in a stream, after ``after_chunks`` chunks.
    ``drip``: send the reply in ten-byte pieces with ``pause`` seconds between them (in a stream: between chunks).
    ``malformed``: broken JSON. ``no_finish``: end a stream without finish_reason, usage and [DONE].
    ``error_event``: report ``code`` and ``message`` in the stream after ``after_chunks`` chunks, and end it.
    """

    model_config = ConfigDict(extra="forbid")

    kind: FaultKind
    endpoint: Endpoint | None = None
    probability: float = Field(default=1.0, ge=0, le=1)
    evenly: bool = False
    """That share at even distances, rather than as the dice fall."""
    count: int | None = None
    """How many requests it hits; None: no end."""
    after: float = 0.0
    """When it begins, in seconds from the first request to such an endpoint: with ``seconds``, faults make phases."""
    seconds: float | None = None
    """How long it lasts from then on; None: no end."""
    status: int = 500
    code: str | None = None
    message: str | None = None
    retry_after: float | None = None
    after_chunks: int = 0
    pause: float = 0.1


class Config(BaseModel):
    """Behaviour in seconds and counts; the defaults answer at once and without a fault."""

    model_config = ConfigDict(extra="forbid")

    embedding_latency: float = 0.0
    rerank_latency: float = 0.0
    first_token: float = 0.0
    """From the request to the first chunk of an answer."""
    held: bool = False
    """No answer or embedding comes before a configuration without this: a model is at it while a test looks."""
    late_headers: bool = False
    """Nothing is sent before the first chunk, not even a status."""
    stream_seconds: float = 0.0
    """From the first chunk to the last."""
    chunks: int = 0
    """Pieces of an answer; 0: one per word."""
    api_key: str | None = None
    models: list[str] = []
    """Models it has; empty: any."""
    requests_per_minute: float | None = None
    """Of each model, as the next one."""
    tokens_per_minute: float | None = None
    burst_seconds: float = 1.0
    """How many seconds' worth of a limit may come at once."""
    answer: str | None = None
    """The answer to everything; None: made from the passages."""
    rewriting: str | None = None
    """What a follow-up question is rewritten to; None: itself with the words of the question before it."""
    finish_reason: str = "stop"
    vectors: Literal["normal", "zero", "nan", "missing", "shuffled", "unscaled", "floats"] = "normal"
    rerank_logits: bool = False
    """Scores as a cross-encoder gives them, not in [0, 1]."""
    rerank_limit: int | None = None
    """How many documents it ranks, whatever ``top_n`` says."""
    faults: list[Fault] = []
