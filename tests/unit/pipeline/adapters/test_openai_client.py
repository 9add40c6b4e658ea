from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion

from pipeline import errors
from pipeline.adapters.http_faults import Call, reported_fault, retry_after, status_fault
from pipeline.adapters.openai_client import call_of, make_client, translated, translating
from pipeline.errors import CeleriacError
from tests.standin.fixture import StandInProcess

Connect = Callable[..., openai.OpenAI]

KEY = "sk-proj-very-secret-0123456789"
CALL = Call("openai", "gpt-5-mini", secret=KEY)
REQUEST = httpx2.Request("POST", "http://service/v1/embeddings", headers={"Authorization": f"Bearer {KEY}"})


def plain(kind: Any) -> openai.OpenAIError:
    return kind("It went wrong.\nAsk someone.")


def of_status(status: int) -> Callable[[Any], openai.OpenAIError]:
    body = {"message": f"You sent {KEY}.\nAsk someone.", "code": "some_code"}
    return lambda kind: kind(f"Error code: {status}", response=httpx2.Response(status, request=REQUEST), body=body)


# Every exception class of the library: how to make one, and what becomes of it.
EXPECTED: dict[str, tuple[Callable[[Any], openai.OpenAIError], type[CeleriacError]]] = {
    "OpenAIError": (plain, errors.InternalFault),
    "APIError": (lambda kind: kind(f"broke with {KEY}", REQUEST, body=None), errors.ServerFault),
    "APIConnectionError": (lambda kind: kind(request=REQUEST), errors.Unreachable),
    "APITimeoutError": (lambda kind: kind(REQUEST), errors.TimedOut),
    "APIResponseValidationError": (
        lambda kind: kind(httpx2.Response(200, request=REQUEST), None),
        errors.ServerFault,
    ),
    "APIStatusError": (of_status(418), errors.RequestRejected),
    "BadRequestError": (of_status(400), errors.RequestRejected),
    "AuthenticationError": (of_status(401), errors.AuthenticationFailed),
    "OAuthError": (
        lambda kind: kind(response=httpx2.Response(401, request=REQUEST), body=None),
        errors.AuthenticationFailed,
    ),
    "PermissionDeniedError": (of_status(403), errors.AuthenticationFailed),
    "NotFoundError": (of_status(404), errors.ModelNotFound),
    "ConflictError": (of_status(409), errors.RequestRejected),
    "UnprocessableEntityError": (of_status(422), errors.RequestRejected),
    "RateLimitError": (of_status(429), errors.RateLimited),
    "InternalServerError": (of_status(503), errors.ServerFault),
    # None of these can come from the calls made here.
    "APIRemovedInV1": (lambda kind: kind(symbol="Completion"), errors.InternalFault),
    "ContentFilterFinishReasonError": (lambda kind: kind(), errors.InternalFault),
    "LengthFinishReasonError": (
        lambda kind: kind(completion=ChatCompletion.model_construct(usage=None)),
        errors.InternalFault,
    ),
    "MutuallyExclusiveAuthError": (lambda kind: kind(), errors.InternalFault),
    "StreamAlreadyConsumed": (lambda kind: kind(), errors.InternalFault),
    "SubjectTokenProviderError": (plain, errors.InternalFault),
    "WebSocketConnectionClosedError": (lambda kind: kind("closed", unsent_messages=[]), errors.InternalFault),
    "WebSocketQueueFullError": (plain, errors.InternalFault),
    "_AmbiguousModuleClientUsageError": (lambda kind: kind(), errors.InternalFault),
}


def subclasses(root: type[openai.OpenAIError]) -> Iterator[type[openai.OpenAIError]]:
    yield root
    for child in root.__subclasses__():
        yield from subclasses(child)


EXCEPTIONS = sorted(
    {kind for kind in subclasses(openai.OpenAIError) if kind.__module__.startswith("openai")},
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", EXCEPTIONS, ids=lambda kind: kind.__name__)
def test_every_exception_of_the_library_becomes_the_right_one_of_ours(kind: type[openai.OpenAIError]) -> None:
    """A class that a new version of the library brings has no row here, and fails."""
    make, expected = EXPECTED[kind.__name__]

    found = translated(make(kind), CALL)

    assert type(found) is expected
    assert found.detail["upstream"] == "openai"
    assert "\n" not in str(found)
    assert KEY not in repr(found)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (httpx2.ReadTimeout("slow"), errors.TimedOut),
        (httpx2.PoolTimeout("full"), errors.TimedOut),
        (httpx2.RemoteProtocolError("peer closed connection"), errors.ServerFault),
        (httpx2.ReadError("reset"), errors.ServerFault),
    ],
)
def test_what_breaks_while_a_reply_is_read_is_translated_too(error: httpx2.HTTPError, expected: type) -> None:
    with pytest.raises(expected), translating(CALL):
        raise error


def test_an_error_of_our_own_passes_through_untouched() -> None:
    ours = errors.Cancelled("stop")

    with pytest.raises(errors.Cancelled) as caught, translating(CALL):
        raise ours

    assert caught.value is ours


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": formatdate(0, usegmt=True)}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "inf", "retry-after": "9"}, 9.0),
        ({"retry-after": "1e18"}, 86_400.0),
        ({"retry-after-ms": "1e18"}, 86_400.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86_400.0),
    ],
)
def test_the_time_to_wait_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_to_come_back_at_becomes_seconds_from_now() -> None:
    found = retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)})

    assert found == pytest.approx(60, abs=2)


def test_a_rate_limit_keeps_what_the_service_says_of_its_limits() -> None:
    headers = {"X-RateLimit-Remaining-Requests": "0", "retry-after": "3", "set-cookie": "secret"}

    found = status_fault(CALL, 429, headers, {})

    assert found.detail["limits"] == {"x-ratelimit-remaining-requests": "0"}
    assert "limits" not in status_fault(CALL, 500, headers, {}).detail
    assert "limits" not in status_fault(CALL, 429, {}, {}).detail


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_an_account_without_credit_is_not_asked_again(code: str) -> None:
    """It answers 429 like a rate limit, but waiting does not fill the account."""
    found = status_fault(CALL, 429, {}, {"error": {"message": "You exceeded your current quota.", "code": code}})

    assert isinstance(found, errors.RequestRejected)
    assert not found.retryable
    assert "credit" in found.hint


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, errors.RateLimited),
        ({"error": {"message": "oops", "code": 503}}, errors.ServerFault),
        ({"error": {"message": "too long", "code": 400}}, errors.RequestRejected),
        ({"error": "just words"}, errors.ServerFault),
        ({"error": {"message": "no money", "code": "insufficient_quota"}}, errors.RequestRejected),
    ],
)
def test_an_error_reported_inside_a_stream_keeps_its_meaning(body: Any, expected: type[CeleriacError]) -> None:
    assert type(reported_fault(CALL, body)) is expected


def test_too_long_a_prompt_says_what_to_do() -> None:
    body = {"message": "maximum context length is 8192 tokens", "code": "context_length_exceeded"}

    assert "top_k" in status_fault(CALL, 400, {}, body).hint


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients: list[openai.OpenAI] = []

    def make(url: str, key: str | None = KEY) -> openai.OpenAI:
        clients.append(make_client(key, url, 5.0))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_without_a_key_a_service_of_ones_own_can_be_called(standin: StandInProcess, connect: Connect) -> None:
    client = connect(standin.url, None)

    assert [model.id for model in client.models.list()]


def test_the_client_does_not_retry_by_itself(standin: StandInProcess, connect: Connect) -> None:
    standin.configure(faults=[{"kind": "status", "status": 500, "count": 1}])
    client = connect(standin.url)

    with pytest.raises(errors.ServerFault), translating(call_of(client, "")):
        client.models.list()

    assert standin.counters()["calls"] == {"models 500": 1}


def test_a_rate_limit_carries_the_seconds_to_wait(standin: StandInProcess, connect: Connect) -> None:
    standin.configure(faults=[{"kind": "status", "status": 429, "retry_after": 3}])
    client = connect(standin.url)

    with pytest.raises(errors.RateLimited) as caught, translating(call_of(client, "")):
        client.models.list()

    assert caught.value.retry_after == 3.0
    assert caught.value.detail["status"] == 429


def test_a_key_that_the_service_repeats_is_in_no_message_and_no_traceback(
    standin: StandInProcess, connect: Connect
) -> None:
    """Tracebacks are logged and stored with the result of a task."""
    standin.configure(api_key="another")
    client = connect(standin.url)

    with pytest.raises(errors.AuthenticationFailed) as caught, translating(call_of(client, "")):
        client.models.list()

    told = repr(caught.value) + "".join(traceback.format_exception(caught.value))
    assert KEY not in told
    assert caught.value.detail["status"] == 401


def test_nobody_there_is_unreachable_and_says_why(free_port: Callable[[], int], connect: Connect) -> None:
    client = connect(f"http://127.0.0.1:{free_port()}/v1")

    with pytest.raises(errors.Unreachable, match="refused"), translating(call_of(client, "")):
        client.models.list()
