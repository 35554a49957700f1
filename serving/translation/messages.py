"""Anthropic's Messages API (`POST /v1/messages`) in front of an engine that speaks chat completions."""

from __future__ import annotations

import msgspec

from catalog.ground.errors import BadRequest, TokenMartError
from catalog.ground.rendering import RenderedError, anthropic_object, known, render_anthropic
from serving.translation import messages_input
from serving.translation.chat import choice_of, only_choice
from serving.translation.events import event, id_body
from serving.translation.fields import (
    Json,
    checked,
    needed,
    optional,
    present,
    records,
    token_limit,
    untranslatable,
    wrong,
)
from serving.translation.messages_output import BlockEvents, Blocks, stopped, usage_object
from serving.translation.parts import Parts
from serving.translation.usage import Counts, read_counts

_SAME = ("temperature", "top_p", "top_k", "seed", "min_p", "chat_template_kwargs")
_REFUSED = {
    "container": ("there are no containers.", "Run code yourself, behind a tool of your own."),
    "mcp_servers": ("no servers are called.", "Call them yourself, behind tools of your own."),
    "compaction": ("conversations are not compacted.", "Ask for a summary in a message."),
}
NO_THREADS = "thread_unsupported_request"
"""Anthropic's code for it: told this, its SDK goes on without a thread and sends whole conversations."""
_EFFORT_BY_BUDGET = ((4_096, "low"), (16_384, "medium"))
"""Thinking budgets, in tokens, below which an effort is asked for; above them it is high."""
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Messages:
    """One request and its answer; see the package for how to use it."""

    def __init__(self, body: Json) -> None:
        """Read the client's request; `BadRequest` names what cannot be translated."""
        for name, (what, remedy) in _REFUSED.items():
            if body.get(name):
                raise untranslatable(name, what, remedy)
        if body.get("thread") is not None:
            raise BadRequest(
                "thread: no conversation is stored.",
                code=NO_THREADS,
                param="thread",
                remedy="Leave it out, and send the whole conversation in messages.",
            )
        if body.get("inference_geo") not in (None, "global"):
            raise untranslatable("inference_geo", "engines are where they are.", "Leave it out.")
        self._model = needed(body, "model", str)
        if token_limit(body, "max_tokens") is None:
            raise wrong("max_tokens", "a whole number of tokens is needed.")
        self._stops = checked(body.get("stop_sequences") or [], list, "stop_sequences")
        thinking = optional(body, "thinking", dict) or {}
        self._thinks = thinking.get("type") != "disabled"
        self._sealed = thinking.get("display") == "omitted"
        self._chat = _chat(body, thinking)
        self._usage: Json | None = None

    def chat_request(self) -> Json:
        """Return the body for `/v1/chat/completions`."""
        return self._chat

    def answer(self, chat: Json, generation_id: str, created_s: int) -> Json:
        """Return a whole chat completion as a message; it has no date."""
        body = id_body(generation_id)
        parts = Parts(body, reasoning=self._thinks)
        parts.take(only_choice(chat))
        parts.end()
        blocks = Blocks(body, sealed=self._sealed)
        usage = usage_object(read_counts(chat.get("usage") or {}))
        content = [blocks.block(part) for part in parts.all]
        return self._message(body, usage) | {"content": content} | stopped(parts, self._stops)

    def begin(self, generation_id: str, created_s: int) -> bytes:
        """Return the first event of a stream; the input is counted in one of the last."""
        self._generation_id = generation_id
        body = id_body(generation_id)
        self._events = BlockEvents(Blocks(body, sealed=self._sealed))
        self._parts = Parts(body, self._events, reasoning=self._thinks)
        started = self._message(body, usage_object(Counts()))
        return event({"type": "message_start", "message": started})

    def feed(self, chunk: Json) -> bytes:
        """Return the events that a chat completion chunk gives rise to, b"" for none."""
        self._usage = chunk.get("usage") or self._usage
        if (choice := choice_of(chunk)) is not None:
            self._parts.take(choice)
        return self._events.taken()

    def finish(self, usage: Json | None = None) -> bytes:
        """Close what is open and return the last events; without `usage`, the newest chunk's counts."""
        self._parts.end()
        counts = usage_object(read_counts(usage or self._usage or {}))
        why = stopped(self._parts, self._stops)
        self._events.tell({"type": "message_delta", "delta": why, "usage": counts})
        self._events.tell({"type": "message_stop"})
        return self._events.taken()

    def fail(self, error: TokenMartError) -> bytes:
        """Return the event of a stream that breaks off."""
        return event(anthropic_object(known(error), self._generation_id))

    @staticmethod
    def render_error(error: Exception, generation_id: str | None = None) -> RenderedError:
        """Return an error before the answer has begun, in Anthropic's shape."""
        return render_anthropic(error, generation_id)

    def _message(self, body: str, usage: Json) -> Json:
        return {
            "id": f"msg_{body}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": usage | {"service_tier": "standard"},
        }


class MessageTokens:
    """`POST /v1/messages/count_tokens`: how long the prompt of a message would be."""

    def __init__(self, body: Json) -> None:
        # A compaction does not change the count: it is of the conversation as sent.
        self._asked = Messages({**body, "max_tokens": 1, "stream": False, "compaction": None})

    def chat_request(self) -> Json:
        """Return a chat request whose prompt is to be counted."""
        return self._asked.chat_request()

    def answer(self, count: int) -> Json:
        """Return the count in the client's shape."""
        return {"input_tokens": count}

    render_error = staticmethod(Messages.render_error)


def _chat(body: Json, thinking: Json) -> Json:
    chat = {"model": body["model"], "messages": messages_input.conversation(body).messages()}
    chat["max_tokens"] = body["max_tokens"]
    chat |= present(body, _SAME)
    if optional(body, "stream", bool):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if stops := body.get("stop_sequences"):
        chat["stop"] = stops
    metadata = optional(body, "metadata", dict) or {}
    if user := optional(metadata, "user_id", str, "metadata."):
        chat["user"] = user
    config = optional(body, "output_config", dict) or {}
    chat |= _effort(thinking, optional(config, "effort", str, "output_config."))
    if form := optional(config, "format", dict, "output_config."):
        chat |= _format(form, "output_config.format")
    elif form := optional(body, "output_format", dict):
        chat |= _format(form, "output_format")
    return chat | _tools(body)


def _effort(thinking: Json, effort: str | None) -> Json:
    kind = thinking.get("type")
    if kind not in (None, "enabled", "adaptive", "disabled", "between_tools"):
        raise wrong("thinking.type", "enabled, adaptive or disabled is needed.")
    if kind == "disabled":
        effort = "none"
    elif kind == "enabled" and effort is None:
        budget = needed(thinking, "budget_tokens", int, "thinking.")
        effort = next((name for below, name in _EFFORT_BY_BUDGET if budget < below), "high")
    return {"reasoning_effort": effort} if effort else {}


def _format(form: Json, at: str) -> Json:
    if form.get("type") != "json_schema":
        raise wrong(f"{at}.type", "json_schema is needed.")
    schema = needed(form, "schema", dict, f"{at}.")
    named = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


def _tools(body: Json) -> Json:
    tools = [_tool(tool, at) for at, tool in records(body.get("tools") or [], "tools")]
    choice = optional(body, "tool_choice", dict) or {"type": "auto"}
    kind = needed(choice, "type", str, "tool_choice.")
    if kind == "tool":
        name = needed(choice, "name", str, "tool_choice.")
        if all(tool["function"]["name"] != name for tool in tools):
            raise wrong("tool_choice.name", f"tools has no {name!r}.")
        chosen: object = {"type": "function", "function": {"name": name}}
    elif kind in _CHOICES:
        chosen = _CHOICES[kind]
    else:
        raise wrong("tool_choice.type", "auto, any, tool or none is needed.")
    if not tools:
        if kind == "any":
            raise wrong("tool_choice.type", "any needs tools.")
        return {}
    chat = {"tools": tools, "tool_choice": chosen}
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False
    return chat


def _tool(tool: Json, at: str) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise untranslatable(
            f"{at}.type",
            f"tools of type {tool['type']!r} are not hosted here.",
            "Declare a tool with an input_schema, and run it yourself.",
        )
    if tool.get("defer_loading"):
        raise untranslatable(
            f"{at}.defer_loading", "a tool cannot be loaded later.", "Leave it out."
        )
    callers = optional(tool, "allowed_callers", list, f"{at}.")
    if callers and "direct" not in callers:
        raise untranslatable(
            f"{at}.allowed_callers", "only the model calls tools.", "Allow direct calls."
        )
    function: Json = {"name": needed(tool, "name", str, f"{at}.")}
    function |= present(tool, ("description", "strict"))
    function["parameters"] = needed(tool, "input_schema", dict, f"{at}.")
    if examples := optional(tool, "input_examples", list, f"{at}."):
        told = "\n".join(msgspec.json.encode(example).decode() for example in examples)
        function["description"] = f"{function.get('description', '')}\n\nExamples:\n{told}".strip()
    return {"type": "function", "function": function}
