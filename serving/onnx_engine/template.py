"""The chat template of a model, rendered in a sandbox.

A template comes from an upload: it is data. It gets no loader (so no file can be included), a sandbox
without attribute access to internals or changes to its arguments, and limits on what it writes and
multiplies. The same environment as in `transformers` (trimmed blocks, `raise_exception`,
`strftime_now`, `tojson` without HTML escapes), so that a published template renders the same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from catalog.ground.errors import BadRequest

MAX_CHARACTERS = 4 * 2**20
MAX_REPEATED = 2**16
Message = Mapping[str, Any]


class _Refusal(jinja2.TemplateError):
    """Raised by a template itself: its words are meant for the caller."""


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if isinstance(side, str | list | tuple)]
        numbers = [side for side in (left, right) if isinstance(side, int)]
        if sizes and any(size * number > MAX_REPEATED for size in sizes for number in numbers):
            raise SecurityError("a repetition is too long")
        if operator == "**" and any(abs(number) > 1024 for number in numbers):
            raise SecurityError("a power is too large")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """A compiled template; `tokens` are the named special tokens (`eos_token`, …)."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_refuse, strftime_now=_strftime_now)
        self._tokens = dict(tokens)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise BadRequest(
                f"The chat template is not valid in line {error.lineno}: {error.message}.",
                code="template_invalid",
            ) from None
        self._try_out()

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Message] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """Return the prompt; `BadRequest` when the template refuses the messages or fails on them."""
        try:
            return self._render(messages, tools, add_generation_prompt)
        except _Refusal as error:
            raise BadRequest(
                f"The model's chat template refuses these messages: {error.message}",
                code="messages_refused",
                param="messages",
            ) from None
        except BadRequest:
            raise
        except Exception:
            # Jinja runs the template as Python: what it raises may quote anything, so nothing is passed on.
            raise BadRequest(
                "The model's chat template cannot render these messages.",
                code="messages_unrenderable",
                param="messages",
            ) from None

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Message] | None, prompt: bool
    ) -> str:
        pieces, size = [], 0
        context = {"messages": messages, "tools": tools, "add_generation_prompt": prompt}
        for piece in self._template.generate(self._tokens | context):
            size += len(piece)
            if size > MAX_CHARACTERS:
                raise BadRequest(
                    f"The rendered prompt has more than {MAX_CHARACTERS} characters.",
                    code="prompt_too_large",
                    param="messages",
                )
            pieces.append(piece)
        return "".join(pieces)

    def _try_out(self) -> None:
        try:
            self._render([{"role": "user", "content": "1"}], None, True)
        except _Refusal:
            return
        except Exception as error:
            raise BadRequest(
                f"The chat template fails on a plain user message: {error}.",
                code="template_invalid",
            ) from None


def _refuse(message: str) -> NoReturn:
    raise _Refusal(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
