"""The client of an OpenAI-compatible service, and the translation of its errors."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import httpx2
import openai

from pipeline.adapters.http_deadline import Timer, refusal
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


def time_limits(client: openai.OpenAI, timer: Timer) -> httpx2.Timeout:
    """The time left for each step of a request; connecting is bounded by the client's own limit as well, and each wait
    for the service by that of silence.
    """
    left = timer.deadline.left()
    own = client.timeout.connect if isinstance(client.timeout, httpx2.Timeout) else None
    return httpx2.Timeout(left, connect=min(left, own or left), read=min(left, timer.waiting.limit))


@contextlib.contextmanager
def posted(client: openai.OpenAI, path: str, body: Mapping[str, Any], timer: Timer) -> Iterator[httpx2.Response]:
    """The reply to a request, its body not read yet, which is to be read through ``timer.waiting``; raises what the
    client raises, and a fault of ours for a status of 400 or more.

    By the client's headers and connections, but not through it: what it does around a request, for bodies and replies
    of all kinds, is half of the processor time of a call.
    """
    limits = time_limits(client, timer)
    url, headers = _addressed(client, path)
    content = json.dumps(body).encode()
    request = httpx2.Request("POST", url, headers=headers, content=content, extensions={"timeout": limits.as_dict()})
    try:
        with timer.line.dialling(), timer.waiting.once():
            reply = client._client.send(request, stream=True)
    except httpx2.TimeoutException as error:
        timer.line.is_asked |= isinstance(error, httpx2.ReadTimeout)
        raise openai.APITimeoutError(request=request) from error
    except httpx2.HTTPError as error:
        raise openai.APIConnectionError(request=request) from error
    try:
        with timer.line.over(reply):
            if reply.status_code >= 400:
                reason = _reason(refusal(reply, timer))
                raise status_fault(timer.deadline.call, reply.status_code, reply.headers, reason)
            yield reply
    finally:
        reply.close()


def read_json(reply: httpx2.Response, timer: Timer) -> Any:
    """The whole body of ``reply``, decoded."""
    body = b"".join(timer.waiting.over(reply.iter_bytes()))
    try:
        return json.loads(body)
    except ValueError:
        raise broken_reply(timer.deadline.call, "not JSON") from None


@lru_cache(maxsize=64)
def _addressed(client: openai.OpenAI, path: str) -> tuple[httpx2.URL, httpx2.Headers]:
    """Where a request goes, and the headers that the client would send with it."""
    headers = httpx2.Headers(client._client.headers)
    named = {**client.default_headers, **client.auth_headers}
    headers.update({name: value for name, value in named.items() if isinstance(value, str)})
    return httpx2.URL(str(client.base_url).rstrip("/") + path), headers


def _reason(words: bytes) -> object:
    """The reason that a refusal gives, in whichever form."""
    try:
        body = json.loads(words)
    except ValueError:
        return words.decode("utf-8", "replace").strip()
    return body.get("error", body) if isinstance(body, dict) else body


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
