"""The HTTP surface: which path does what, who may call it, and how errors leave.

    POST /v1/chat/completions   POST /v1/completions   GET /v1/models   GET /v1/models/{id}
    POST /tokenize              GET /healthz           GET /metrics

A key, when one is set, guards `/v1` and `/tokenize`. Handlers raise; `edge.Guard` words it.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving.onnx_engine import requests
from serving.onnx_engine.answers import ChatShape, Json, Shape, TextShape
from serving.onnx_engine.delivery import EventStream, whole
from serving.onnx_engine.engine import Engine
from serving.onnx_engine.requests import ChatAsk, TextAsk, TokenizeAsk
from serving.process import edge
from serving.process.bodies import check_one_prompt
from serving.process.edge import Guard, Handler, document


def build(engine: Engine) -> Starlette:
    """Return the application for a running engine."""
    house = _Endpoints(engine)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", house.counted(house.chat), methods=["POST"]),
            Route("/v1/completions", house.counted(house.text), methods=["POST"]),
            Route("/v1/models", house.guarded(house.models), methods=["GET"]),
            Route("/v1/models/{name:path}", house.guarded(house.model), methods=["GET"]),
            Route("/tokenize", house.guarded(house.tokenize), methods=["POST"]),
            Route("/healthz", house.health, methods=["GET"]),
            Route("/metrics", house.metrics, methods=["GET"]),
        ],
        exception_handlers={HTTPException: edge.no_such_path},
    )


class _Endpoints:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.guarded = Guard(engine.options.api_key, "engine")

    def counted(self, handler: Handler) -> Handler:
        """Wrap a handler of a generating endpoint: guarded, and its outcome is counted."""
        guarded = self.guarded(handler)

        async def handle(request: Request) -> Response:
            response = await guarded(request)
            endpoint = request.url.path.removeprefix("/v1/")
            self._engine.meters.requests.labels(endpoint, str(response.status_code)).inc()
            return response

        return handle

    async def chat(self, request: Request) -> Response:
        ask = requests.read(await self._body(request), ChatAsk)
        self._engine.check_name(ask.model)
        ids = await self._engine.encode_chat(ask.messages, ask.tools, request.is_disconnected)
        return await self._answer(request, ask, [ids], ChatShape)

    async def text(self, request: Request) -> Response:
        ask = requests.read(await self._body(request), TextAsk)
        self._engine.check_name(ask.model)
        prompts = [
            await self._engine.encode_text(prompt, request.is_disconnected, add_special_tokens=True)
            if isinstance(prompt, str)
            else prompt
            for prompt in requests.split_prompt(ask.prompt)
        ]
        return await self._answer(request, ask, prompts, TextShape)

    async def tokenize(self, request: Request) -> Response:
        ask = requests.read(await self._body(request), TokenizeAsk)
        if ask.model is not None:
            self._engine.check_name(ask.model)
        check_one_prompt(ask.prompt, ask.messages)
        if ask.messages is not None:
            prompt = ask.add_generation_prompt is not False
            left = request.is_disconnected
            ids = await self._engine.encode_chat(ask.messages, ask.tools, left, prompt)
        else:
            special = ask.add_special_tokens is not False
            ids = await self._engine.encode_text(
                ask.prompt or "", request.is_disconnected, add_special_tokens=special
            )
        limit = self._engine.context_length
        return document({"count": len(ids), "max_model_len": limit, "tokens": ids})

    async def models(self, request: Request) -> Response:
        return document(
            {"object": "list", "data": [self._card(name) for name in self._engine.names]}
        )

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._engine.check_name(name)
        return document(self._card(name))

    async def health(self, request: Request) -> Response:
        return edge.health(self._engine.draining, self._engine.scheduler.alive)

    async def metrics(self, request: Request) -> Response:
        return edge.metrics(self._engine.meters.exposition())

    def _card(self, name: str) -> Json:
        return {
            "id": name,
            "object": "model",
            "created": self._engine.created_s,
            "owned_by": "tokenmart",
            "max_model_len": self._engine.context_length,
        }

    async def _body(self, request: Request) -> bytes:
        return await edge.body_of(request, self._engine.options.max_body_bytes)

    async def _answer(
        self,
        request: Request,
        ask: ChatAsk | TextAsk,
        prompts: list[list[int]],
        shape: type[Shape],
    ) -> Response:
        generation = self._engine.start(shape.kind, ask, prompts)
        worded = shape(generation, self._engine.model.tokenizer)
        if ask.stream:
            return EventStream(self._engine, generation, worded, ask)
        return await whole(self._engine, generation, worded, request.receive)
