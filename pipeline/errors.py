"""Every error Celeriac raises on purpose.

    CeleriacError
    ├── InputError                 the caller can mend it; exit status 2, never retried
    │   ├── BadQuestion            refused by the guard
    │   ├── BadSettings            an option, setting or file that makes no sense
    │   ├── NotFound               a knowledge base, document, question or path that isn't there
    │   ├── EmptyKnowledgeBase     it is there and holds nothing that could answer
    │   ├── ModelMismatch          its embedding model or its store can't be had with these settings
    │   └── Conflict               it exists already, or is in use
    ├── UpstreamError              a service outside this process
    │   ├── Unreachable            refused, reset, unresolved           (retryable)
    │   │   └── Unavailable        not called: it kept failing          (retryable)
    │   ├── TimedOut               no answer in time                    (retryable)
    │   ├── RateLimited            429; `retry_after` in seconds        (retryable)
    │   │   └── Postponed          not called: it asked all to wait     (retryable)
    │   ├── ServerFault            5xx or a broken reply                (retryable)
    │   ├── AuthenticationFailed   401, 403
    │   ├── ModelNotFound          404 for a model
    │   └── RequestRejected        any other 4xx
    ├── DocumentError              one document can't be indexed; the others go on
    │   ├── UnreadableSource       gone, no permission, too large
    │   └── ParseFailed            not what its name says, damaged, or without text
    ├── BudgetSpent                the tenant's budget of the day is used up
    ├── Busy                       somebody else is at it            (retryable)
    ├── DeadlineExceeded           the time allowed for it is over
    ├── Cancelled                  its owner gave it up
    └── InternalFault              a defect or a lost worker; a report is welcome

Callers decide by two things only: `retryable` (can trying again help?) and `hint` (what can the
reader do?). Arguments are positional and survive JSON, because Celery's result backend rebuilds an
error as ``type(e)(*e.args)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class CeleriacError(Exception):
    """Base of all; ``message`` is one line, ``hint`` says what to do, ``detail`` is JSON-able."""

    retryable: ClassVar[bool] = False
    attempted: ClassVar[bool] = True
    """False where nothing was tried yet: the wait is no attempt."""
    exit_status: ClassVar[int] = 1
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str = "", hint: str = "", detail: Mapping[str, Any] | None = None) -> None:
        """Keep the three arguments in ``args`` so that the error can be rebuilt elsewhere."""
        super().__init__(message, hint, dict(detail or {}))

    @property
    def message(self) -> str:
        """What went wrong, in one line."""
        return str(self.args[0])

    @property
    def hint(self) -> str:
        """What the reader can do about it."""
        return str(self.args[1]) or self.default_hint

    @property
    def detail(self) -> dict[str, Any]:
        """Facts for programs: upstream, HTTP status, seconds to wait …"""
        return dict(self.args[2])

    @property
    def retry_after(self) -> float | None:
        """Seconds that whoever refused asked to wait, or None where nobody said."""
        value = self.detail.get("retry_after")
        return None if value is None else float(value)

    @property
    def code(self) -> str:
        """The name by which rows, logs and ``--json`` know this kind of error."""
        return type(self).__name__

    def __str__(self) -> str:
        """Message and hint on one line."""
        return f"{self.message} {self.hint}".strip() if self.hint else self.message

    def to_json(self) -> dict[str, Any]:
        """The form in which rows and events carry an error."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "detail": self.detail,
        }


class InputError(CeleriacError):
    """Something the caller gave is unusable as it is."""

    exit_status = 2


class BadQuestion(InputError):
    """The guard refuses this question."""


class BadSettings(InputError):
    """A setting, option or file makes no sense."""


class NotFound(InputError):
    """What was named does not exist."""


class EmptyKnowledgeBase(InputError):
    """The knowledge base holds no document yet."""

    default_hint = "Ingest something first: manage.py ingest PATH."


class ModelMismatch(InputError):
    """Vectors of two different models can't be compared."""


class Conflict(InputError):
    """It exists already, or is in use."""


class UpstreamError(CeleriacError):
    """A service outside this process failed; ``detail['upstream']`` names it."""


class Unreachable(UpstreamError):
    """The service could not be reached."""

    retryable = True


class Unavailable(Unreachable):
    """The service was not called: it kept failing, and its circuit breaker is open for ``retry_after`` seconds."""

    attempted = False
    default_hint = "`manage.py status` shows since when; it is tried again by itself."


class TimedOut(UpstreamError):
    """The service gave no answer in time."""

    retryable = True
    default_hint = "Try again; if it stays slow, docs/settings.md has the time limits."


class RateLimited(UpstreamError):
    """The service asked to slow down."""

    retryable = True
    default_hint = "Lower the load or raise the limit of the account."


class Postponed(RateLimited):
    """The service was not called: it has asked all workers to wait, or has enough to do."""

    attempted = False
    default_hint = "It goes on by itself as soon as the service takes it."


class ServerFault(UpstreamError):
    """The service failed inside, or its reply broke off."""

    retryable = True
    default_hint = "Try again; if it goes on, the log of that service says why."


class AuthenticationFailed(UpstreamError):
    """The service does not accept the credentials."""

    default_hint = "Check the API key and what it is allowed to use."


class ModelNotFound(UpstreamError):
    """The service has no such model."""

    default_hint = "Check the model's name, and that the key may use it."


class RequestRejected(UpstreamError):
    """The service refuses the request itself."""


class DocumentError(CeleriacError):
    """One document can't be indexed."""


class UnreadableSource(DocumentError):
    """The source can't be read: gone, no permission, too large."""


class ParseFailed(DocumentError):
    """The content is damaged, not what its name says, or holds no text."""


class BudgetSpent(CeleriacError):
    """The tenant's budget of the day is used up; ``detail['opens_at']`` is when the next one begins (Unix seconds)."""


class Busy(CeleriacError):
    """Somebody else is at it; ``retry_after`` is when that may be over."""

    retryable = True
    attempted = False


class DeadlineExceeded(CeleriacError):
    """The time allowed is over."""

    default_hint = "Give it more time with --timeout, or look at `manage.py status` for what is slow."


class Cancelled(CeleriacError):
    """Its owner gave it up."""

    exit_status = 4


class InternalFault(CeleriacError):
    """A defect, or a worker that was lost for good."""

    default_hint = "The log of the worker, under this id, has the details."


def _tree(root: type[CeleriacError]) -> dict[str, type[CeleriacError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


def from_json(data: Mapping[str, Any]) -> CeleriacError:
    """Rebuild the error that :meth:`CeleriacError.to_json` wrote; an unknown code becomes InternalFault."""
    kind = _tree(CeleriacError).get(str(data.get("code", "")), InternalFault)
    return kind(str(data.get("message", "")), str(data.get("hint", "")), data.get("detail") or {})


def in_a_line(error: BaseException) -> str:
    """The first line of what a library says, without its full stop: it ends up in a sentence of ours."""
    return str(error).split("\n", 1)[0].rstrip(".")


def wrap(error: BaseException) -> CeleriacError:
    """Any exception as one of ours: ours as they are, others as :class:`InternalFault`."""
    if isinstance(error, CeleriacError):
        return error
    # Foreign text may have many lines, and characters that neither Postgres nor UTF-8 takes.
    line = " ".join(f"{type(error).__name__}: {error}".replace("\0", "").split())
    return InternalFault(line.encode("utf-8", "replace").decode()[:500])
