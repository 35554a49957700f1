"""What is read of a chat completion and of its chunks; engines are checked here, and nowhere else.

Reasoning comes under two names: `reasoning_content`, and in newer engines `reasoning`. `stop_reason` is
vLLM's: the stop string that was met, or a token's id.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from catalog.ground.errors import UpstreamFailed

Byte = Annotated[int, Meta(ge=0, le=255)]


class Alternative(Struct):
    token: str = ""
    bytes: list[Byte] | None = None
    logprob: float | None = None

    @property
    def raw(self) -> list[int]:
        """The token's bytes: some tokens are only a part of a character."""
        return list(self.token.encode("utf-8", "replace")) if self.bytes is None else self.bytes


class Token(Alternative):
    top_logprobs: list[Alternative] | None = None


class Logprobs(Struct):
    content: list[Token] | None = None


class Function(Struct):
    name: str | None = None
    arguments: str | None = None


class Call(Struct):
    index: int | None = None
    id: str | None = None
    function: Function | None = None


class Said(Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    tool_calls: list[Call] | None = None


class Choice(Struct):
    index: int | None = 0
    delta: Said | None = None
    message: Said | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class Chat(Struct):
    choices: list[Choice] | None = None


def choice_of(document: object) -> Choice | None:
    """Return the first choice of an answer or a chunk, None when there is none.

    `UpstreamFailed`: a field has a type that it never has in a chat completion.
    """
    try:
        choices = msgspec.convert(document, Chat).choices or ()
    except msgspec.ValidationError as error:
        raise unreadable(str(error)) from None
    return next((choice for choice in choices if not choice.index), None)


def only_choice(document: object) -> Choice:
    """Return the choice of a whole answer; `UpstreamFailed` when it has none."""
    choice = choice_of(document)
    if choice is None or choice.message is None:
        raise unreadable("it has no message")
    return choice


def unreadable(what: str) -> UpstreamFailed:
    """Return the error for an engine that does not answer in the shape of chat completions."""
    return UpstreamFailed(f"The engine's answer cannot be read: {what}.", remedy="Try again.")
