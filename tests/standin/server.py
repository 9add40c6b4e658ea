"""The stand-in's HTTP side."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray
from pydantic import ValidationError

from tests.standin import model
from tests.standin.config import MESSAGES, Config, Endpoint, Fault
from tests.standin.counters import Counters
from tests.standin.faults import Faults

Handler = Callable[[web.Request, dict[str, Any], Fault | None], Awaitable[web.StreamResponse]]
MAX_BODY = 64 * 1024 * 1024

# As long as the real service's chunks are, so that the cost of reading them is the same.
_HEAD = (
    b'data: {"id":"chatcmpl-0123456789abcdefghijklmnopqrs","object":"chat.completion.chunk","created":1790000000,'
    b'"model":%s,"service_tier":"default","system_fingerprint":"fp_0123456789",'
)
_ROLE = (
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,'
    b'"finish_reason":null}],"usage":null}\n\n'
)
_LAST = b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":%s}],"usage":null}\n\n'
_CHUNK = b'"choices":[{"index":0,"delta":{"content":%s},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'


class StandIn:
    """One service: what it is told, what it saw, and its endpoints."""

    def __init__(self, config: Config, seed: int) -> None:
        """Counts from zero."""
        self.config = config
        self.seed = seed
        self.counters = Counters()
        self.faults = Faults(config, seed)
        self._serial = 0

    def app(self) -> web.Application:
        """The endpoints as an aiohttp application."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/v1/embeddings", self._served("embeddings", self.embeddings))
        app.router.add_post("/v1/chat/completions", self._served("chat", self.chat))
        app.router.add_post("/v1/rerank", self._served("rerank", self.rerank))
        app.router.add_post("/tei/rerank", self._served("rerank", self.rerank_texts))
        app.router.add_get("/v1/models", self._served("models", self.models))
        app.router.add_post("/_standin/config", self.configure)
        app.router.add_get("/_standin/counters", self.show_counters)
        app.router.add_post("/_standin/reset", self.reset)
        return app

    # ------------------------------------------------------------------ control

    async def configure(self, request: web.Request) -> web.Response:
        """Replace the configuration; what is left out goes back to its default."""
        try:
            self.config = Config.model_validate_json(await request.read())
        except ValidationError as error:
            return web.json_response({"error": str(error)}, status=400)
        self.faults = Faults(self.config, self.seed)
        return web.json_response(self.config.model_dump())

    async def show_counters(self, request: web.Request) -> web.Response:
        """What was seen."""
        return web.json_response(self.counters.to_json())

    async def reset(self, request: web.Request) -> web.Response:
        """Count from zero and behave as at the start; requests under way are still counted as open."""
        old, self.counters = self.counters, Counters()
        self.counters.in_flight, self.counters.streams_open = old.in_flight, old.streams_open
        self.config = Config()
        self.faults = Faults(self.config, self.seed)
        return web.json_response({})

    # ------------------------------------------------------------------ endpoints

    async def embeddings(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        """POST /v1/embeddings."""
        texts = _texts(body)
        if not texts or any(not text for text in texts):
            return _error(400, "Input must not be empty.", "invalid_request_error")
        used = sum(map(model.tokens, texts))
        self.counters.texts += len(texts)
        self.counters.embedding_tokens += used
        await asyncio.sleep(self.config.embedding_latency)
        await self._let_go()
        size = body.get("dimensions") or model.dimensions_of(body["model"])
        vectors = _spoiled([model.vector(text, size) for text in texts], self.config.vectors)
        data = [
            {"object": "embedding", "index": index, "embedding": self._encoded(vector, body)}
            for index, vector in vectors
        ]
        usage = {"prompt_tokens": used, "total_tokens": used}
        reply = {"object": "list", "data": data, "model": body["model"], "usage": usage}
        return await self._reply(request, reply, fault)

    async def chat(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        contents = [str(message.get("content", "")) for message in body["messages"]]
        answer = self._answer(contents)
        parts = model.pieces(answer, self.config.chunks)
        used = sum(map(model.tokens, contents))
        usage = {"prompt_tokens": used, "completion_tokens": len(parts), "total_tokens": used + len(parts)}
        self.counters.input_tokens += used
        if body.get("stream"):
            return await self._stream(request, body, parts, usage, fault)
        await asyncio.sleep(self.config.first_token + self.config.stream_seconds)
        self.counters.output_tokens += len(parts)
        choice = {
            "index": 0,
            "finish_reason": self.config.finish_reason,
            "message": {"role": "assistant", "content": "".join(parts)},
        }
        head = {"id": "chatcmpl-standin", "object": "chat.completion", "created": 0, "model": body["model"]}
        return await self._reply(request, {**head, "choices": [choice], "usage": usage}, fault)

    async def rerank(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        """POST /v1/rerank, as Cohere, Jina and vLLM spell it."""
        await asyncio.sleep(self.config.rerank_latency)
        ranking = self._ranking(body["query"], body["documents"])[: body.get("top_n")]
        results = [{"index": index, "relevance_score": score} for index, score in ranking]
        return await self._reply(request, {"model": body.get("model"), "results": results}, fault)

    async def rerank_texts(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        """POST /tei/rerank, as text-embeddings-inference spells it."""
        if "texts" not in body:
            return _error(422, "missing field `texts`", "validation")
        ranking = self._ranking(body["query"], body["texts"])
        return await self._reply(request, [{"index": index, "score": score} for index, score in ranking], fault)

    async def models(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        """GET /v1/models."""
        names = self.config.models or ["gpt-5-mini", "text-embedding-3-small"]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "standin"} for name in names]
        return await self._reply(request, {"object": "list", "data": data}, fault)

    # ------------------------------------------------------------------ how every request is served

    def _served(self, endpoint: Endpoint, handler: Handler) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            request["id"] = self._next_id()
            peer = request.transport.get_extra_info("peername") if request.transport else None
            self.counters.enter(request["id"], str(peer))
            outcome = "500"
            try:
                response = await self._admitted(endpoint, handler, request)
                outcome = str(response.status)
                return response
            except (asyncio.CancelledError, ConnectionResetError):
                outcome = "closed"
                raise
            finally:
                self.counters.leave(endpoint, outcome)

        return serve

    async def _admitted(self, endpoint: Endpoint, handler: Handler, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw) if raw else {}
        request["model"] = str(body.get("model", ""))
        self.counters.last_request = {key: value for key, value in body.items() if key not in ("input", "messages")}
        if endpoint == "embeddings":
            self.counters.asked(_texts(body))
        refused = self._refusal(request, body, len(raw))
        if refused is not None:
            return refused
        fault = self.faults.draw(endpoint)
        if fault is not None and fault.kind == "status":
            return _status(fault)
        if fault is not None and not body.get("stream"):
            await _before_reply(request, fault)
        return await handler(request, body, fault)

    def _refusal(self, request: web.Request, body: dict[str, Any], size: int) -> web.Response | None:
        key = self.config.api_key
        if key is not None and request.headers.get("Authorization") != f"Bearer {key}":
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            # Some compatible servers echo the key: what is made of their message must not hold it.
            return _error(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
        if self.config.models and body.get("model", self.config.models[0]) not in self.config.models:
            return _error(404, f"The model `{body.get('model')}` does not exist.", "model_not_found")
        wait = self.faults.wait(request["model"], size // 4)
        if wait:
            headers = {"Retry-After": f"{wait:.3f}", **self.faults.headers(request["model"])}
            return _error(429, *MESSAGES[429], headers=headers)
        return None

    async def _reply(self, request: web.Request, body: Any, fault: Fault | None) -> web.StreamResponse:
        raw = json.dumps(body).encode()
        if fault is not None and fault.kind == "malformed":
            raw = raw[: len(raw) // 2]
        headers = {"x-request-id": request["id"], **self.faults.headers(request["model"])}
        if fault is None or fault.kind != "drip":
            return web.Response(body=raw, content_type="application/json", headers=headers)
        response = web.StreamResponse(headers={"Content-Type": "application/json", **headers})
        await response.prepare(request)
        for start in range(0, len(raw), 10):
            await response.write(raw[start : start + 10])
            await asyncio.sleep(fault.pause)
        await response.write_eof()
        return response

    async def _stream(
        self,
        request: web.Request,
        body: dict[str, Any],
        parts: list[str],
        usage: dict[str, int],
        fault: Fault | None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "x-request-id": request["id"],
                **self.faults.headers(request["model"]),
            }
        )
        events = _events(body, parts, usage, "" if _is(fault, "no_finish") else self.config.finish_reason)
        if fault is not None and fault.kind == "error_event":
            events = [*events[: fault.after_chunks], _error_event(fault)]
        self.counters.streams_open += 1
        sent = 0
        try:
            if not self.config.late_headers:
                await response.prepare(request)
            await asyncio.sleep(self.config.first_token)
            await self._let_go()
            await response.prepare(request)
            await response.write(_head(body) + _ROLE)  # a piece without text, as the real service sends
            pause = self.config.stream_seconds / max(1, len(parts) - 1)
            started = time.monotonic()
            for number, event in enumerate(events):
                await _in_stream(request, fault, number)
                await response.write(event if not _is(fault, "malformed") else event[:20] + b"\n\n")
                sent += 1
                if number < len(parts) - 1:
                    await asyncio.sleep(max(0.0, started + (number + 1) * pause - time.monotonic()))
            await response.write_eof()
            self.counters.output_tokens += len(parts)
            self.counters.streams_finished += 1
        except (asyncio.CancelledError, ConnectionResetError):
            self.counters.closed(request["id"], sent, str(body["messages"][-1].get("content", "")))
            raise
        finally:
            self.counters.streams_open -= 1
        return response

    async def _let_go(self) -> None:
        while self.config.held:
            await asyncio.sleep(0.01)

    def _answer(self, contents: list[str]) -> str:
        rewriting = model.rewriting(contents)
        if rewriting is not None:
            return rewriting if self.config.rewriting is None else self.config.rewriting
        return model.answer(contents) if self.config.answer is None else self.config.answer

    def _encoded(self, vector: NDArray[np.float32], body: dict[str, Any]) -> str | list[float]:
        if body.get("encoding_format") == "base64" and self.config.vectors != "floats":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
        return [float(number) for number in vector]

    def _ranking(self, question: str, texts: list[str]) -> list[tuple[int, float]]:
        scores = [model.relevance(question, text) for text in texts]
        if self.config.rerank_logits:
            scores = [10.0 * score - 5.0 for score in scores]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [(index, scores[index]) for index in order[: self.config.rerank_limit]]

    def _next_id(self) -> str:
        self._serial += 1
        return f"req-{self._serial}"


def _texts(body: dict[str, Any]) -> list[str]:
    return [body["input"]] if isinstance(body["input"], str) else list(body["input"])


def _is(fault: Fault | None, kind: str) -> bool:
    return fault is not None and fault.kind == kind


async def _before_reply(request: web.Request, fault: Fault) -> None:
    if fault.kind == "hang":
        await asyncio.Event().wait()
    if fault.kind == "disconnect" and request.transport is not None:
        request.transport.abort()
        await asyncio.Event().wait()


async def _in_stream(request: web.Request, fault: Fault | None, number: int) -> None:
    if fault is None:
        return
    if fault.kind == "drip":
        await asyncio.sleep(fault.pause)
    if number == fault.after_chunks:
        await _before_reply(request, fault)


def _head(body: dict[str, Any]) -> bytes:
    return _HEAD % json.dumps(body["model"]).encode()


def _events(body: dict[str, Any], parts: list[str], usage: dict[str, int], finish: str) -> list[bytes]:
    head = _head(body)
    found = [head + _CHUNK % json.dumps(part).encode() for part in parts]
    if not finish:
        return found
    found.append(head + _LAST % json.dumps(finish).encode())
    if (body.get("stream_options") or {}).get("include_usage"):
        found.append(head + b'"choices":[],"usage":%s}\n\n' % json.dumps(usage).encode())
    return [*found, b"data: [DONE]\n\n"]


def _error_event(fault: Fault) -> bytes:
    error = {"message": fault.message or MESSAGES[500][0], "code": fault.code or MESSAGES[500][1]}
    return b"data: %s\n\n" % json.dumps({"error": error}).encode()


def _spoiled(vectors: list[NDArray[np.float32]], how: str) -> list[tuple[int, NDArray[np.float32]]]:
    numbered = list(enumerate(vectors))
    if how == "zero":
        return [(index, vector * 0) for index, vector in numbered]
    if how == "nan":
        return [(index, vector * np.float32("nan")) for index, vector in numbered]
    if how == "unscaled":
        return [(index, vector * 7) for index, vector in numbered]
    if how == "missing":
        return numbered[:-1]
    return numbered[::-1] if how == "shuffled" else numbered


def _status(fault: Fault) -> web.Response:
    message, code = MESSAGES.get(fault.status, (f"Status {fault.status}.", "error"))
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    return _error(fault.status, fault.message or message, fault.code or code, headers=headers)


def _error(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": code, "param": None, "code": code}}
    return web.json_response(body, status=status, headers=headers)
