"""The API description (`/openapi.json`): what FastAPI knows of the routes, and what all of them share.

Every error of this house is rendered in one place (`catalog.ground.rendering`), so it is described in one
place too: each operation's `default` answer is OpenAI's or Anthropic's error object under `/v1`, and
problem+json (RFC 9457) elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_TEXT = {"type": "string"}
_MAYBE = {"type": ["string", "null"]}
_SHARED = {
    "rule": {"type": "string", "description": "the rule or clause that refused"},
    "remedy": {"type": "string", "description": "what to do about it"},
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457. Details of the error stand beside these members.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "urn:tokenmart:error:<code>"},
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "param": {"type": "string", "description": "the field at fault"},
        **_SHARED,
    },
}
_OPENAI = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": _MAYBE,
                "code": _TEXT,
                **_SHARED,
            },
        }
    },
}
_ANTHROPIC = {
    "type": "object",
    "required": ["type", "error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["type", "message", "details"],
            "properties": {"type": _TEXT, "message": _TEXT, "details": {"type": "object"}},
        },
        "request_id": _MAYBE,
    },
}
_SCHEMAS = {"Problem": _PROBLEM, "OpenAIError": _OPENAI, "AnthropicError": _ANTHROPIC}
_ANSWERS = {
    "Problem": ("application/problem+json", ("Problem",)),
    "CallError": ("application/json", ("OpenAIError",)),
    "MessageError": ("application/json", ("AnthropicError", "OpenAIError")),
}
_PATH_NAME = re.compile(r"{(\w+)}")


def describe(web: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an application; it is made once."""
    if web.openapi_schema is None:
        document = get_openapi(title=web.title, version=web.version, routes=web.routes)
        parts = document.setdefault("components", {})
        schemas = parts.setdefault("schemas", {})
        schemas.update(_SCHEMAS)
        # FastAPI's own answer to what it cannot read is never sent: `marketplace.app` renders it.
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        parts["responses"] = {name: _answer(*told) for name, told in _ANSWERS.items()}
        for path, operations in document["paths"].items():
            for operation in operations.values():
                _complete(path, operation)
        web.openapi_schema = document
    return web.openapi_schema


def _answer(media_type: str, shapes: tuple[str, ...]) -> dict[str, Any]:
    schemas: list[dict[str, Any]] = [{"$ref": f"#/components/schemas/{name}"} for name in shapes]
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"description": "An error.", "content": {media_type: {"schema": schema}}}


def _complete(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    kind = "Problem"
    if path.startswith("/v1/"):
        kind = "MessageError" if path.startswith("/v1/messages") else "CallError"
    responses["default"] = {"$ref": f"#/components/responses/{kind}"}
    # A route that takes its path as it was sent declares no parameters; they are there all the same.
    given = operation.setdefault("parameters", [])
    declared = {one["name"] for one in given if one["in"] == "path"}
    given += [
        {"name": name, "in": "path", "required": True, "schema": _TEXT}
        for name in _PATH_NAME.findall(path)
        if name not in declared
    ]
