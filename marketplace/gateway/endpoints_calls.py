"""Model calls as the API description shows them. Workers answer them; nobody gets here but by mistake."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Body

from catalog.ground.errors import BadRequest
from marketplace.gateway.handover import CALLS

_TOLD = {
    "/v1/chat/completions": "Answer a conversation (OpenAI's chat completions).",
    "/v1/completions": "Continue a text (OpenAI's completions).",
    "/v1/embeddings": "Return vectors (OpenAI's embeddings).",
    "/v1/responses": "Answer an input (OpenAI's responses).",
    "/v1/responses/input_tokens": "Count the tokens of an input; nothing is charged.",
    "/v1/messages": "Answer messages (Anthropic's shape).",
    "/v1/messages/count_tokens": "Count the tokens of messages; nothing is charged.",
    "/v1/moderations": "Classify texts (OpenAI's moderations).",
}
_MODEL = {"type": "string", "description": "a listing's slug; with `:free` paid by free quotas"}
_PROVIDER = {"type": "object", "description": "wishes about engines, in OpenRouter's shape"}
_SCHEMA = {
    "type": "object",
    "required": ["model"],
    "properties": {"model": _MODEL, "stream": {"type": "boolean"}, "provider": _PROVIDER},
    "additionalProperties": True,
}


def calls_router() -> APIRouter:
    """Return the routes for the description."""
    router = APIRouter(tags=["calls"])
    for path in CALLS:
        router.add_api_route(
            path,
            _astray,
            methods=["POST"],
            description=_TOLD[path],
            operation_id=path.strip("/").replace("/", "_"),
            openapi_extra={"requestBody": {"content": {"application/json": {"schema": _SCHEMA}}}},
            responses={401: {"description": "no key"}, 402: {"description": "nobody can pay"}},
        )
    return router


def _astray(_: Any = Body(default=None)) -> None:
    raise BadRequest(
        "This call has not reached a worker: its request line is not in origin form.",
        code="astray",
        rule="gateway.request_line",
        remedy="Send POST /v1/… HTTP/1.1, as every client does unless it takes this for a proxy.",
    )
