"""The HTTP surface: which path does what, who may call it, and how many at once.

    POST /v1/chat/completions   POST /v1/completions   POST /v1/embeddings   POST /v1/moderations
    GET  /v1/models             GET  /v1/models/{id}   POST /tokenize
    GET  /health, /healthz      GET  /metrics

A key, when one is set, guards `/v1` and `/tokenize`. Handlers raise; `edge.Guard` words it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from catalog.ground.errors import (
    BadRequest,
    NotFound,
    RateLimited,
    TokenMartError,
    Unavailable,
)
from serving.litellm_adapter import calls, requests
from serving.litellm_adapter.config import Config, Endpoint, Served
from serving.litellm_adapter.delivery import EventStream, while_connected
from serving.litellm_adapter.failures import log, translate
from serving.litellm_adapter.meters import Meters
from serving.litellm_adapter.requests import Json
from serving.process import edge
from serving.process.bodies import check_one_prompt
from serving.process.edge import CLIENT_LEFT_STATUS, ClientLeftError, Guard, document

BUSY_WAIT_S = 1.0
THREAD_BYTES = 20_000
"""Longer prompts are counted beside the event loop, so that no other answer waits for them."""


class Adapter:
    """What is going on: the configuration, the meters, and the calls at providers now."""

    def __init__(self, config: Config, api_key: str | None) -> None:
        self.config, self.meters = config, Meters()
        self.created_s = int(time.time())
        self.draining = False
        self.open = 0
        self.guard = Guard(api_key, "adapter")
        self._open_of = dict.fromkeys(config.models, 0)

    def served(self, name: str) -> Served:
        """Return a model; `NotFound` unless the file lists it."""
        served = self.config.models.get(name)
        if served is None:
            raise NotFound(
                f"The model {name!r} does not exist here.", code="model_not_found", param="model"
            )
        return served

    def begin(self, served: Served) -> None:
        """Take a place for a call; `RateLimited` when all are taken. `end` gives it back."""
        if self.draining:
            raise Unavailable("The adapter is stopping.", code="engine_draining")
        most = served.settings.max_concurrency
        full = most is not None and self._open_of[served.name] >= most
        if full or self.open >= self.config.max_concurrency:
            raise RateLimited(
                "As many calls as allowed are at the provider.",
                code="engine_overloaded",
                retry_after_s=BUSY_WAIT_S,
            )
        self.open += 1
        self._open_of[served.name] += 1
        self.meters.open.labels(served.name).inc()

    def end(self, served: Served, began_s: float) -> None:
        """Give the place back."""
        self.open -= 1
        self._open_of[served.name] -= 1
        self.meters.open.labels(served.name).dec()
        self.meters.seconds.labels(served.name).observe(time.monotonic() - began_s)

    def used(self, served: Served, answer: Json) -> Json:
        """Count the usage in an answer, and return the answer."""
        told = answer.get("usage")
        if told:
            self.meters.prompt_tokens.labels(served.name).inc(told["prompt_tokens"])
            self.meters.completion_tokens.labels(served.name).inc(told.get("completion_tokens", 0))
        return answer


def build(adapter: Adapter) -> Starlette:
    """Return the application."""
    house, guarded = _Endpoints(adapter), adapter.guard
    return Starlette(
        routes=[
            Route("/v1/chat/completions", guarded(house.chat), methods=["POST"]),
            Route("/v1/completions", guarded(house.text), methods=["POST"]),
            Route("/v1/embeddings", guarded(house.embeddings), methods=["POST"]),
            Route("/v1/moderations", guarded(house.moderations), methods=["POST"]),
            Route("/v1/models", guarded(house.models), methods=["GET"]),
            Route("/v1/models/{name:path}", guarded(house.model), methods=["GET"]),
            Route("/tokenize", guarded(house.tokenize), methods=["POST"]),
            Route("/health", house.health, methods=["GET"]),
            Route("/healthz", house.health, methods=["GET"]),
            Route("/metrics", house.metrics, methods=["GET"]),
        ],
        exception_handlers={HTTPException: edge.no_such_path},
    )


class _Endpoints:
    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter

    async def chat(self, request: Request) -> Response:
        body = await self._body(request)
        ask, given = requests.read(body, requests.ChatAsk)
        served = self._fit(ask.model, "chat")
        fields = requests.provider_fields(ask, given, served.settings.pass_fields)
        if ask.stream:
            return self._stream(served, "chat", body, calls.chat_chunks(served, fields))
        return await self._whole(request, served, "chat", body, calls.chat(served, fields))

    async def text(self, request: Request) -> Response:
        body = await self._body(request)
        ask, given = requests.read(body, requests.TextAsk)
        served = self._fit(ask.model, "completions")
        fields = requests.provider_fields(ask, given, served.settings.pass_fields)
        if ask.stream:
            return self._stream(served, "completions", body, calls.text_chunks(served, fields))
        return await self._whole(request, served, "completions", body, calls.text(served, fields))

    async def embeddings(self, request: Request) -> Response:
        body = await self._body(request)
        ask, given = requests.read(body, requests.EmbeddingAsk)
        served = self._fit(ask.model, "embeddings")
        fields = requests.provider_fields(ask, given, served.settings.pass_fields)
        work = calls.embeddings(served, fields, ask.encoding_format)
        return await self._whole(request, served, "embeddings", body, work)

    async def moderations(self, request: Request) -> Response:
        body = await self._body(request)
        ask, given = requests.read(body, requests.ModerationAsk)
        served = self._fit(ask.model, "moderations")
        fields = requests.provider_fields(ask, given, served.settings.pass_fields)
        work = calls.moderation(served, fields)
        return await self._whole(request, served, "moderations", body, work)

    async def tokenize(self, request: Request) -> Response:
        body = await self._body(request)
        ask, _ = requests.read(body, requests.TokenizeAsk)
        served = self._adapter.served(ask.model)
        check_one_prompt(ask.prompt, ask.messages)
        given = (served, ask.messages, ask.prompt, ask.tools)
        try:
            if len(body) > THREAD_BYTES:
                counted = await asyncio.to_thread(calls.count, *given)
            else:
                counted = calls.count(*given)
        except Exception as error:
            log(error, served)
            raise BadRequest("This prompt cannot be counted.", code="not_countable") from None
        limit = served.settings.context_length
        return document({"count": counted} | ({"max_model_len": limit} if limit else {}))

    async def models(self, request: Request) -> Response:
        cards = [self._card(served) for served in self._adapter.config.models.values()]
        return document({"object": "list", "data": cards})

    async def model(self, request: Request) -> Response:
        return document(self._card(self._adapter.served(request.path_params["name"])))

    async def health(self, request: Request) -> Response:
        return edge.health(self._adapter.draining)

    async def metrics(self, request: Request) -> Response:
        return edge.metrics(self._adapter.meters.exposition())

    def _card(self, served: Served) -> Json:
        card: Json = {
            "id": served.name,
            "object": "model",
            "created": self._adapter.created_s,
            "owned_by": served.settings.model.partition("/")[0],
        }
        limit = served.settings.context_length
        return card | ({"max_model_len": limit} if limit else {})

    def _fit(self, name: str, endpoint: Endpoint) -> Served:
        served = self._adapter.served(name)
        if endpoint not in served.settings.serves:
            raise BadRequest(
                f"The model {name!r} serves {', '.join(served.settings.serves)} only.",
                code="unsupported_endpoint",
                param="model",
            )
        return served

    async def _body(self, request: Request) -> bytes:
        return await edge.body_of(request, self._adapter.config.max_body_bytes)

    async def _whole(
        self,
        request: Request,
        served: Served,
        endpoint: Endpoint,
        body: bytes,
        work: Coroutine[Any, Any, Json],
    ) -> Response:
        """Wait for the one answer and return it."""
        adapter, began_s, status = self._adapter, time.monotonic(), CLIENT_LEFT_STATUS
        try:
            adapter.begin(served)
        except TokenMartError as error:
            work.close()
            self._count(endpoint, served, error.status)
            raise
        try:
            answer = await while_connected(request.receive, work)
            status = 200
        except ClientLeftError:
            raise
        except Exception as error:
            ours = translate(error, served, body)
            status = ours.status
            raise ours from None
        finally:
            adapter.end(served, began_s)
            self._count(endpoint, served, status)
        return document(adapter.used(served, answer))

    def _stream(
        self, served: Served, endpoint: Endpoint, body: bytes, chunks: AsyncIterator[Json]
    ) -> Response:
        """Return the stream of an answer; the place is taken now and given back at its end."""
        adapter, began_s = self._adapter, time.monotonic()
        try:
            adapter.begin(served)
        except TokenMartError as error:
            self._count(endpoint, served, error.status)
            raise

        async def told() -> AsyncIterator[Json]:
            try:
                async for chunk in chunks:
                    yield adapter.used(served, chunk)
            except Exception as error:
                raise translate(error, served, body) from None
            finally:
                await chunks.aclose()  # type: ignore[attr-defined]

        def ended(status: int | None) -> None:
            adapter.end(served, began_s)
            self._count(endpoint, served, status or CLIENT_LEFT_STATUS)

        return EventStream(told(), ended)

    def _count(self, endpoint: Endpoint, served: Served, status: int) -> None:
        self._adapter.meters.requests.labels(endpoint, served.name, str(status)).inc()
        if status == CLIENT_LEFT_STATUS:
            self._adapter.meters.cancelled.labels(served.name).inc()
