"""The client of an OpenAI-compatible service, and the translation of its errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai

from pipeline.adapters.http_deadline import Deadline
from pipeline.adapters.http_faults import Call, broken_reply, reported_fault, status_fault
from pipeline.adapters.http_lanes import make_transport
from pipeline.errors import CeleriacError, InternalFault, TimedOut, Unreachable

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "none"


def make_client(api_key: str | None, base_url: str | None, connect_timeout: float) -> openai.OpenAI:
    """A client for a whole process: safe to share, and it waits for the network only when it is called.

    It never retries: tasks do, without holding a slot while they wait. A service of one's own may need no key.
    """
    return openai.OpenAI(
        api_key=api_key or NO_KEY,
        base_url=base_url or OPENAI_URL,
        timeout=httpx2.Timeout(60.0, connect=connect_timeout),
        max_retries=0,
        http_client=openai.DefaultHttpxClient(transport=make_transport()),
    )


def call_of(client: openai.OpenAI, model: str) -> Call:
    """Names a call of ``model`` in messages, and keeps the client's key out of them."""
    key = client.api_key
    return Call("openai", model, secret="" if key == NO_KEY else key)


def time_limits(client: openai.OpenAI, deadline: Deadline) -> httpx2.Timeout:
    """The time left for each step of a request; connecting is bounded by the client's own limit as well."""
    left = deadline.left()
    own = client.timeout.connect if isinstance(client.timeout, httpx2.Timeout) else None
    return httpx2.Timeout(left, connect=min(left, own or left))


def read_json(reply: httpx2.Response, deadline: Deadline) -> Any:
    """The whole body of ``reply``, decoded."""
    with deadline.over(reply):
        body = b"".join(reply.iter_bytes())
    try:
        return json.loads(body)
    except ValueError:
        raise broken_reply(deadline.call, "not JSON") from None


@contextlib.contextmanager
def translating(call: Call) -> Iterator[None]:
    """Turn whatever the client raises inside into an error of ours.

    The chain is cut (``from None``): the client's own messages may repeat the key, and tracebacks are logged.
    """
    try:
        yield
    except (openai.OpenAIError, httpx2.HTTPError) as error:
        raise translated(error, call) from None


def translated(error: openai.OpenAIError | httpx2.HTTPError, call: Call) -> CeleriacError:
    """The error of ours for one of the client's."""
    match error:
        case openai.APITimeoutError() | httpx2.TimeoutException():
            return TimedOut(f"{call.upstream} gave no answer in time.", "", call.detail())
        case openai.APIConnectionError():
            return Unreachable(f"{call.upstream} can't be reached: {_cause(error, call)}.", "", call.detail())
        case openai.APIStatusError():
            return status_fault(call, error.status_code, error.response.headers, error.body)
        case openai.APIResponseValidationError() | httpx2.HTTPError():
            return broken_reply(call, _cause(error, call))
        case openai.APIError():
            return reported_fault(call, error.body or error.message)
        case _:
            # What is left is about ways to use the client that are not ours: sockets, tokens, parsed answers.
            return InternalFault(f"{type(error).__name__}: {_cause(error, call)}.", "", call.detail())


def _cause(error: BaseException, call: Call) -> str:
    """The innermost reason, as "Connection error." alone tells nobody what to mend."""
    while error.__cause__ is not None:
        error = error.__cause__
    return call.quote(str(error)).rstrip(".") or type(error).__name__
