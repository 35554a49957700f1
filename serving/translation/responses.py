"""OpenAI's Responses API (`POST /v1/responses`) in front of an engine that speaks chat completions.

Nothing is kept between calls: what the API stores elsewhere (earlier responses, conversations, files,
prompts) is refused, and reasoning travels in the items that the client sends back.
"""

from __future__ import annotations

from typing import Any

from catalog.ground.errors import TokenMartError
from catalog.ground.rendering import RenderedError, known, render_openai
from serving.translation import responses_input
from serving.translation.chat import choice_of, only_choice
from serving.translation.events import id_body
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
from serving.translation.parts import Parts
from serving.translation.responses_output import ItemEvents, Items, usage_object
from serving.translation.usage import read_counts

_SAME = (
    *("temperature", "top_p", "metadata", "user", "safety_identifier", "prompt_cache_key"),
    # Not OpenAI's: engines know them under these names, so clients may send them here too.
    *("stop", "seed", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "chat_template_kwargs"),
)
_ECHOED = (
    *("temperature", "top_p", "max_output_tokens", "max_tool_calls", "instructions", "user"),
    *("prompt_cache_key", "safety_identifier"),
)
_SEND_ALL = "Send the whole conversation in input: nothing is stored here."
_REFUSED = {
    "previous_response_id": ("no earlier response is stored.", _SEND_ALL),
    "conversation": ("no conversations are stored.", _SEND_ALL),
    "prompt": ("no prompt templates are stored.", "Send instructions and input."),
    "background": ("answers are given at once.", "Leave it out, and wait or stream."),
    "background_options": ("answers are given at once.", "Leave it out, and wait or stream."),
    "context_management": ("input is not compacted.", "Leave it out, and shorten input."),
    "moderation": ("no moderation results come with answers.", "Ask /v1/moderations."),
    "store": ("nothing is stored.", "Send false, or leave it out."),
}
_LOGPROBS = "message.output_text.logprobs"
_ERROR_CODES = {429: "rate_limit_exceeded", 400: "invalid_prompt"}


class Responses:
    """One request and its answer; see the package for how to use it."""

    def __init__(self, body: Json) -> None:
        """Read the client's request; `BadRequest` names what cannot be translated."""
        for name, (what, remedy) in _REFUSED.items():
            if body.get(name):
                raise untranslatable(name, what, remedy)
        self._body = body
        self._logprobs = _wants_logprobs(body)
        self._chat = _chat(body, logprobs=self._logprobs)
        self._usage: Json | None = None

    def chat_request(self) -> Json:
        """Return the body for `/v1/chat/completions`."""
        return self._chat

    def answer(self, chat: Json, generation_id: str, created_s: int) -> Json:
        """Return a whole chat completion as a response."""
        body = id_body(generation_id)
        parts = Parts(body)
        parts.take(only_choice(chat))
        parts.end()
        return self._response(body, created_s, parts, chat.get("usage"))

    def begin(self, generation_id: str, created_s: int) -> bytes:
        """Return the first events of a stream."""
        self._id_body, self._created_s = id_body(generation_id), created_s
        self._items = Items(self._id_body, logprobs=self._logprobs)
        self._events = ItemEvents(self._items)
        self._parts = Parts(self._id_body, self._events)
        started = self._blank(self._id_body, created_s)
        self._events.tell("response.created", response=started)
        self._events.tell("response.in_progress", response=started)
        return self._events.taken()

    def feed(self, chunk: Json) -> bytes:
        """Return the events that a chat completion chunk gives rise to, b"" for none."""
        self._usage = chunk.get("usage") or self._usage
        if (choice := choice_of(chunk)) is not None:
            self._parts.take(choice)
        return self._events.taken()

    def finish(self, usage: Json | None = None) -> bytes:
        """Close what is open and return the last events; without `usage`, the newest chunk's counts."""
        self._parts.end()
        whole = self._response(self._id_body, self._created_s, self._parts, usage or self._usage)
        self._events.tell(f"response.{whole['status']}", response=whole)
        return self._events.taken()

    def fail(self, error: TokenMartError) -> bytes:
        """Return the events of a stream that breaks off."""
        ours = known(error)
        self._events.tell("error", code=ours.code, message=str(ours), param=ours.param)
        output = [self._items.item(part) for part in self._parts.all if part.closed]
        code = _ERROR_CODES.get(ours.status, "server_error")
        response = self._blank(self._id_body, self._created_s)
        response |= {"status": "failed", "output": output}
        response["error"] = {"code": code, "message": str(ours)}
        self._events.tell("response.failed", response=response)
        return self._events.taken()

    @staticmethod
    def render_error(
        error: Exception,
        generation_id: str | None = None,  # noqa: ARG004 - both shapes are asked alike
    ) -> RenderedError:
        """Return an error before the answer has begun, in OpenAI's shape."""
        return render_openai(error)

    def _blank(self, body: str, created_s: int) -> Json:
        asked = self._body
        return {
            "id": f"resp_{body}",
            "object": "response",
            "created_at": created_s,
            "status": "in_progress",
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "metadata": asked.get("metadata") or {},
            "model": asked["model"],
            "output": [],
            "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None} | (asked.get("reasoning") or {}),
            "service_tier": "default",
            "store": False,
            "text": {"format": {"type": "text"}} | (asked.get("text") or {}),
            "tool_choice": asked.get("tool_choice") or "auto",
            "tools": asked.get("tools") or [],
            "top_logprobs": asked.get("top_logprobs") or 0,
            "truncation": "disabled",
            "usage": None,
        } | {name: asked.get(name) for name in _ECHOED}

    def _response(self, body: str, created_s: int, parts: Parts, usage: Json | None) -> Json:
        items = Items(body, logprobs=self._logprobs)
        response = self._blank(body, created_s)
        response["status"] = "completed"
        response["output"] = [items.item(part) for part in parts.all]
        response["usage"] = usage_object(read_counts(usage)) if usage else None
        if parts.finish_reason == "length":
            response |= _incomplete("max_output_tokens")
        elif parts.finish_reason == "content_filter":
            response |= _incomplete("content_filter")
        return response


class InputTokens:
    """`POST /v1/responses/input_tokens`: how long the prompt of a response would be."""

    def __init__(self, body: Json) -> None:
        self._asked = Responses({key: body[key] for key in body if key != "stream"})

    def chat_request(self) -> Json:
        """Return a chat request whose prompt is to be counted."""
        return self._asked.chat_request()

    def answer(self, count: int) -> Json:
        """Return the count in the client's shape."""
        return {"object": "response.input_tokens", "input_tokens": count}

    render_error = staticmethod(Responses.render_error)


def _incomplete(reason: str) -> Json:
    return {"status": "incomplete", "incomplete_details": {"reason": reason}}


def _chat(body: Json, *, logprobs: bool) -> Json:
    chat: Json = {"model": needed(body, "model", str)}
    chat["messages"] = responses_input.conversation(body).messages()
    chat |= present(body, _SAME)
    if optional(body, "stream", bool):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    if limit := token_limit(body, "max_output_tokens"):
        chat["max_tokens"] = limit
    if logprobs:
        chat |= {"logprobs": True, "top_logprobs": optional(body, "top_logprobs", int) or 0}
    return chat | _reasoning(body) | _text(body) | _tools(body)


def _wants_logprobs(body: Json) -> bool:
    included = optional(body, "include", list) or []
    return _LOGPROBS in included or bool(optional(body, "top_logprobs", int))


def _reasoning(body: Json) -> Json:
    asked = optional(body, "reasoning", dict) or {}
    if asked.get("mode") not in (None, "standard"):
        raise untranslatable("reasoning.mode", "engines have one mode.", "Leave it out.")
    effort = optional(asked, "effort", str, "reasoning.")
    return {"reasoning_effort": effort} if effort else {}


def _text(body: Json) -> Json:
    asked = optional(body, "text", dict) or {}
    chat = present(asked, ("verbosity",))
    form = optional(asked, "format", dict, "text.") or {"type": "text"}
    kind = form.get("type")
    if kind == "json_object":
        chat["response_format"] = {"type": kind}
    elif kind == "json_schema":
        schema = present(form, ("name", "description", "strict"))
        schema["name"] = needed(form, "name", str, "text.format.")
        schema["schema"] = needed(form, "schema", dict, "text.format.")
        chat["response_format"] = {"type": kind, "json_schema": schema}
    elif kind != "text":
        raise wrong("text.format.type", "text, json_object or json_schema is needed.")
    return chat


def _tools(body: Json) -> Json:
    tools = [_tool(tool, at) for at, tool in records(body.get("tools") or [], "tools")]
    choice = body.get("tool_choice") or "auto"
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = {
            _function_name(tool, at)
            for at, tool in records(choice.get("tools"), "tool_choice.tools")
        }
        if unknown := allowed - _names(tools):
            raise wrong("tool_choice.tools", f"tools has no {sorted(unknown)[0]!r}.")
        # An engine offers every tool that it is sent, so the others are not sent.
        tools = [tool for tool in tools if tool["function"]["name"] in allowed]
        choice = choice.get("mode")
    if isinstance(choice, dict):
        name = _function_name(choice, "tool_choice")
        if name not in _names(tools):
            raise wrong("tool_choice.name", f"tools has no {name!r}.")
        choice = {"type": "function", "function": {"name": name}}
    elif choice not in ("auto", "none", "required"):
        raise wrong("tool_choice", "auto, none, required or an object is needed.")
    if not tools:
        if choice == "required":
            raise wrong("tool_choice", "required needs tools.")
        return {}
    chat = {"tools": tools, "tool_choice": choice}
    parallel = optional(body, "parallel_tool_calls", bool)
    return chat if parallel is None else chat | {"parallel_tool_calls": parallel}


def _names(tools: list[Json]) -> set[Any]:
    return {tool["function"]["name"] for tool in tools}


def _function_name(tool: Json, at: str) -> str:
    if tool.get("type") != "function":
        raise untranslatable(
            f"{at}.type",
            f"tools of type {tool.get('type')!r} are not hosted here.",
            "Declare a function, and run it yourself.",
        )
    return needed(tool, "name", str, f"{at}.")


def _tool(tool: Json, at: str) -> Json:
    function: Json = {"name": _function_name(tool, at)}
    if tool.get("defer_loading") or tool.get("async"):
        raise untranslatable(
            at, "a tool cannot be loaded or answered later.", "Leave defer_loading and async out."
        )
    callers = optional(tool, "allowed_callers", list, f"{at}.")
    if callers and "direct" not in callers:
        raise untranslatable(
            f"{at}.allowed_callers", "only the model calls tools.", "Allow direct calls."
        )
    function |= present(tool, ("description", "strict"))
    if tool.get("parameters") is not None:
        function["parameters"] = checked(tool["parameters"], dict, f"{at}.parameters")
    return {"type": "function", "function": function}
