"""What may be asked: which fields of a body reach a provider.

Fields are named one by one, because litellm takes its own arguments from the same place: a caller who could
set `api_base` or `fallbacks` would choose where our key goes. What is not named is ignored, as OpenAI's
and vLLM's servers do, unless the model's `pass_fields` lets it through. Values are the provider's to judge;
only what this process relies on is checked here.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from catalog.ground.errors import BadRequest
from serving.process.bodies import named_faults

Json = dict[str, Any]
Count = Annotated[int, Meta(ge=1)]

_SAMPLING = frozenset(
    {"temperature", "top_p", "n", "stop", "presence_penalty", "frequency_penalty", "logit_bias"}
    | {"seed", "user", "logprobs"}
)


class Ask(Struct, kw_only=True):
    """What every body has."""

    model: str


class Generating(Ask, kw_only=True):
    """What a body that asks for text has."""

    stream: bool | None = None
    n: Count | None = None
    max_tokens: Count | None = None


class ChatAsk(Generating, kw_only=True):
    fields = _SAMPLING | frozenset(
        {"messages", "tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"}
        | {"response_format", "top_logprobs", "reasoning_effort", "verbosity", "prediction"}
        | {"safety_identifier", "prompt_cache_key"}
    )

    messages: Annotated[list[Json], Meta(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: list[Json] | None = None


class TextAsk(Generating, kw_only=True):
    fields = _SAMPLING | {"prompt", "echo", "suffix", "best_of"}

    prompt: str | list[Any]


class EmbeddingAsk(Ask, kw_only=True):
    fields = frozenset({"input", "dimensions", "user"})

    input: str | list[Any]
    encoding_format: str | None = None


class ModerationAsk(Ask, kw_only=True):
    fields = frozenset({"input"})

    input: str | list[Any]


class TokenizeAsk(Ask, kw_only=True):
    messages: list[Json] | None = None
    prompt: str | list[Any] | None = None
    tools: list[Json] | None = None


Body = TypeVar("Body", bound=Ask)


def read(body: bytes, kind: type[Body]) -> tuple[Body, Json]:
    """Return the checked body and all of it; `BadRequest` names the field at fault."""
    with named_faults():
        document = msgspec.json.decode(body)
        ask = msgspec.convert(document, kind)
    if isinstance(ask, ChatAsk):
        _check_tools(ask)
    if isinstance(ask, Generating) and ask.stream and (ask.n or 1) > 1:
        raise BadRequest(
            "n: outside providers stream one choice at a time.",
            code="unsupported_parameter",
            param="n",
            remedy="Ask without stream, or once for each choice.",
        )
    return ask, document


def provider_fields(ask: Ask, document: Json, passed: tuple[str, ...]) -> Json:
    """Return what goes to the provider: the fields that are set, under OpenAI's names."""
    named: frozenset[str] = getattr(ask, "fields", frozenset())
    fields = {name: document[name] for name in (*named, *passed) if document.get(name) is not None}
    limit = token_limit(ask)
    if limit is not None:
        # One name for the bound: OpenAI refuses both together, some providers know only the old one,
        # and litellm renames it for those that know only the new one.
        fields["max_tokens"] = limit
    return fields


def token_limit(ask: Ask) -> int | None:
    """Return the bound on output tokens that the caller named; the newer field wins."""
    if isinstance(ask, ChatAsk) and ask.max_completion_tokens is not None:
        return ask.max_completion_tokens
    return ask.max_tokens if isinstance(ask, Generating) else None


def _check_tools(ask: ChatAsk) -> None:
    for place, tool in enumerate(ask.tools or ()):
        # What a provider would run by itself (a web search, an MCP server) costs more than tokens.
        if tool.get("type", "function") not in ("function", "custom"):
            raise BadRequest(
                f"tools[{place}]: only functions of the caller are passed on.",
                code="unsupported_parameter",
                param=f"tools[{place}].type",
            )
