"""What is said: OpenAI's objects, made of litellm's.

The model has the name that was asked for, not the provider's. `usage` is the provider's own, or is left out:
litellm fills in guesses (or zeros), and whoever bills must know that nothing was reported. Fields that only
litellm has are dropped, but for the thoughts of reasoning models, which must be sent back to some providers.
"""

from __future__ import annotations

import base64
import struct
from typing import Any

Json = dict[str, Any]
_MESSAGE = frozenset(
    {"role", "content", "tool_calls", "function_call", "refusal", "annotations"}
    | {"reasoning_content", "thinking_blocks"}
)
_PROMPT_DETAILS = ("cached_tokens", "cache_creation_tokens", "audio_tokens", "image_tokens")
_COMPLETION_DETAILS = (
    "reasoning_tokens",
    "audio_tokens",
    "accepted_prediction_tokens",
    "rejected_prediction_tokens",
)


def usage(reported: Any) -> Json | None:
    """Return OpenAI's usage object; None when the provider told none that can be: no prompt has 0."""
    found = _plain(reported)
    read, written = found.get("prompt_tokens") or 0, found.get("completion_tokens") or 0
    if min(read, written) < 0 or read + written == 0:
        return None
    told: Json = {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": found.get("total_tokens") or read + written,
    }
    for name, parts in (("prompt", _PROMPT_DETAILS), ("completion", _COMPLETION_DETAILS)):
        given = found.get(f"{name}_tokens_details") or {}
        details = {part: given[part] for part in parts if given.get(part) is not None}
        if details:
            told[f"{name}_tokens_details"] = details
    return told


def whole_chat(response: Any, model: str) -> Json:
    """Return a `chat.completion`."""
    found = _plain(response)
    choices = [
        {
            "index": choice.get("index", place),
            "message": {"content": None} | _message(choice["message"]),
            "logprobs": choice.get("logprobs"),
            "finish_reason": choice.get("finish_reason"),
        }
        for place, choice in enumerate(found["choices"])
    ]
    return _whole(found, "chat.completion", model, choices)


def whole_text(response: Any, model: str) -> Json:
    """Return a `text_completion`."""
    found = _plain(response)
    choices = [
        {
            "index": choice.get("index", place),
            "text": choice.get("text") or "",
            "logprobs": choice.get("logprobs"),
            "finish_reason": choice.get("finish_reason"),
        }
        for place, choice in enumerate(found["choices"])
    ]
    return _whole(found, "text_completion", model, choices)


def chunk(response: Any, model: str, created_s: int) -> Json:
    """Return a `chat.completion.chunk` without usage."""
    found = _plain(response)
    choices: list[Json] = []
    for choice in found.get("choices") or ():
        told: Json = {
            "index": choice.get("index", 0),
            "delta": _message(choice.get("delta") or {}),
            "finish_reason": choice.get("finish_reason"),
        }
        if choice.get("logprobs"):
            told["logprobs"] = choice["logprobs"]
        choices.append(told)
    return _chunk_head(found.get("id"), model, created_s) | {"choices": choices}


def usage_chunk(identity: Any, model: str, created_s: int, told: Json) -> Json:
    """Return the last chunk of a stream: no choice, the usage."""
    return _chunk_head(identity, model, created_s) | {"choices": [], "usage": told}


def embeddings(response: Any, model: str, encoding: str | None) -> Json:
    """Return a list of embeddings, as numbers or in base64 (little-endian 32-bit floats)."""
    found = _plain(response)
    rows = [
        {
            "object": "embedding",
            "index": row.get("index", place),
            "embedding": _vector(row["embedding"], encoding),
        }
        for place, row in enumerate(found["data"])
    ]
    told = usage(found.get("usage"))
    document: Json = {"object": "list", "model": model, "data": rows}
    if told is not None:
        document["usage"] = {k: told[k] for k in ("prompt_tokens", "total_tokens")}
    return document


def moderation(response: Any, model: str) -> Json:
    """Return a moderation."""
    found = _plain(response)
    return {"id": found.get("id"), "model": model, "results": found.get("results") or []}


def _whole(found: Json, kind: str, model: str, choices: list[Json]) -> Json:
    head = {"id": found.get("id"), "object": kind, "created": found.get("created"), "model": model}
    told = usage(found.get("usage"))
    return head | {"choices": choices} | ({} if told is None else {"usage": told})


def _chunk_head(identity: Any, model: str, created_s: int) -> Json:
    return {
        "id": identity,
        "object": "chat.completion.chunk",
        "created": created_s,
        "model": model,
    }


def _message(found: Json) -> Json:
    return {name: value for name, value in found.items() if name in _MESSAGE and value is not None}


def _vector(found: Any, encoding: str | None) -> Any:
    if encoding == "base64" and isinstance(found, list):
        return base64.b64encode(struct.pack(f"<{len(found)}f", *found)).decode()
    return found


def _plain(found: Any) -> Json:
    """Return a pydantic object of litellm as plain data; None is nothing."""
    if found is None:
        return {}
    plain: Json = found if isinstance(found, dict) else found.model_dump(exclude_none=True)
    return plain
