"""What may be asked: the bodies of the endpoints, checked field by field.

Unknown fields are ignored, as OpenAI's and vLLM's servers do; a known field of a wrong type or out of
range is refused by name, and so is what this engine cannot do. `ignore_eos`, `min_tokens`, `min_p`, `top_k`,
`repetition_penalty`, `stop_token_ids` and `stream_options.continuous_usage_stats` are vLLM's extensions, with
vLLM's meaning.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from catalog.ground.errors import BadRequest
from serving.process.bodies import named_faults

STOPS_MAX = 16
STOP_CHARACTERS_MAX = 256

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Alternatives = Annotated[int, Meta(ge=0, le=20)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Divisor = Annotated[float, Meta(ge=0.01, le=100)]
"""vLLM has no bounds but 0; further out a logit is no number any more, and nothing can be chosen."""


class StreamOptions(Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Ask(Struct, kw_only=True):
    """What chat and text completion have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Natural] | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    min_tokens: Natural | None = None
    ignore_eos: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Divisor | None = None
    logit_bias: dict[int, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    seed: int | None = None
    n: Count | None = None
    response_format: dict[str, Any] | None = None

    @property
    def token_limit(self) -> int | None:
        """The limit that the caller named; the newer field wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        stop = self.stop or []
        return (stop,) if isinstance(stop, str) else tuple(stop)


class ChatAsk(Ask, kw_only=True):
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None

    @property
    def alternatives(self) -> int | None:
        """How many alternatives to each token are asked for; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextAsk(Ask, kw_only=True):
    prompt: str | list[Any]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: Alternatives | None = None

    @property
    def alternatives(self) -> int | None:
        """How many alternatives to each token are asked for; None: no log-probabilities."""
        return self.logprobs


class TokenizeAsk(Struct, kw_only=True):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None


Body = TypeVar("Body", ChatAsk, TextAsk, TokenizeAsk)


def read(body: bytes, kind: type[Body]) -> Body:
    """Return the body as `kind`; `BadRequest` names the field at fault."""
    with named_faults():
        ask = msgspec.json.decode(body, type=kind)
    if isinstance(ask, Ask):
        _check(ask)
    return ask


def refuse(field: str, what: str) -> BadRequest:
    """Return the error for a field whose value will not do."""
    return BadRequest(f"{field}: {what}", code="invalid_value", param=field)


def _check(ask: Ask) -> None:
    if len(ask.stops) > STOPS_MAX:
        raise refuse("stop", f"at most {STOPS_MAX} stop strings.")
    if any(not stop or len(stop) > STOP_CHARACTERS_MAX for stop in ask.stops):
        raise refuse("stop", f"a stop string has 1 to {STOP_CHARACTERS_MAX} characters.")
    if ask.min_tokens and ask.token_limit and ask.min_tokens > ask.token_limit:
        raise refuse("min_tokens", "must not be more than max_tokens.")
    if ask.response_format and ask.response_format.get("type", "text") != "text":
        raise _cannot("response_format", "gives text only")
    if isinstance(ask, ChatAsk) and ask.tool_choice not in (None, "auto", "none"):
        raise _cannot("tool_choice", "can make no model call a tool")
    if isinstance(ask, TextAsk) and ask.echo:
        raise _cannot("echo", "answers with new text only")
    if isinstance(ask, TextAsk) and ask.suffix:
        raise _cannot("suffix", "only goes on from a prompt")


def _cannot(field: str, what: str) -> BadRequest:
    return BadRequest(
        f"{field}: this engine {what}.",
        code="unsupported_parameter",
        param=field,
        remedy="Leave the field out, or ask for a model that another engine serves.",
    )


def plain_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages whose content is one string; parts of text are joined by line breaks."""
    if not messages:
        raise refuse("messages", "at least one message is needed.")
    return [_plain_message(place, message) for place, message in enumerate(messages)]


def _plain_message(place: int, message: dict[str, Any]) -> dict[str, Any]:
    field = f"messages[{place}]"
    if not isinstance(message.get("role"), str):
        raise refuse(f"{field}.role", "a text is needed.")
    content = message.get("content")
    if isinstance(content, str):
        return message
    if content is None:
        return message | {"content": ""}
    parts = content if isinstance(content, list) else [None]
    texts = [text for part in parts if isinstance(text := _text_of(part), str)]
    if len(texts) != len(parts):
        raise refuse(
            f"{field}.content", "a text, or a list of text parts; this model reads no more."
        )
    return message | {"content": "\n".join(texts)}


def _text_of(part: object) -> object:
    return part.get("text") if isinstance(part, dict) else part


def split_prompt(prompt: str | list[Any]) -> list[str | list[int]]:
    """Return the prompts of a text completion: one text, one list of ids, or a list of either."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and all(_is_id(item) for item in prompt):
        return [prompt]
    several = [
        item
        for item in prompt
        if isinstance(item, str) or (isinstance(item, list) and all(_is_id(part) for part in item))
    ]
    if not prompt or len(several) != len(prompt):
        raise refuse("prompt", "a text, a list of token ids, or a list of either.")
    return several


def _is_id(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)
